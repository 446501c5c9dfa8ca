"""The chat page: which model it loads, what it asks that model, and, in a real browser, that it answers."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.chatting import turns
from llava_mistral.commands import chat as app
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.local_hub import LocalHub
from tests.support.hostile_words import HOSTILE
from tests.support.publishing_runs import publish
from tests.support.running import HOME
from tests.support.tiny_llava import save_tiny_llava
from tests.support.tiny_publications import png

TOKEN = "hf_" + "P" * 34
DRAWN = ("form", "img", "iframe", "script", "a", "style", "video", "audio", "meta", "link", "object")
QUESTION = {"text": "Which digit is it", "files": []}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("made") / "checkpoint")


@pytest.fixture(scope="module")
def chat(checkpoint):
    return app.open_chat(app.find(str(checkpoint), None), max_new_tokens=12)


@pytest.fixture
def picture(tmp_path) -> Path:
    (tmp_path / "picture.png").write_bytes(png(1))
    return tmp_path / "picture.png"


def run_app(hub, home, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "llava_mistral", "chat", *arguments],
        env=hub.environment(home),
        capture_output=True,
        text=True,
    )


def test_the_answer_grows_and_is_what_generate_says(chat, picture):
    messages = app.conversation({**QUESTION, "files": [str(picture)]}, [])
    said = list(chat.answer(messages))
    assert len(said) > 1 and all(later.startswith(earlier) for earlier, later in zip(said, said[1:], strict=False))
    inputs = chat.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    whole = chat.model.generate(**inputs, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    assert said[-1].strip() == chat.processor.decode(whole, skip_special_tokens=True).strip()


def test_a_reader_who_leaves_stops_the_model(checkpoint):
    patient = app.open_chat(app.find(str(checkpoint), None), max_new_tokens=400)
    steps = []
    patient.model.register_forward_hook(lambda *_: steps.append(1))
    answer = patient.answer(app.conversation(QUESTION, []))
    next(answer)
    answer.close()
    assert len(steps) < 400 and threading.active_count() < 10


def test_an_error_of_the_model_reaches_the_reader(chat, monkeypatch):
    def fail(**_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chat.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(chat.answer(app.conversation(QUESTION, [])))


def test_earlier_pictures_and_words_stay_in_the_conversation(chat, picture):
    history = [
        {"role": "user", "content": [{"type": "file", "file": {"path": str(picture)}}]},
        {"role": "user", "content": [{"type": "text", "text": "Which digit"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
    ]
    turns = app.conversation({"text": "letter", "files": []}, history)
    kinds = [(turn["role"], [part["type"] for part in turn["content"]]) for turn in turns]
    assert kinds == [("user", ["image", "text"]), ("assistant", ["text"]), ("user", ["text"])]
    assert next(chat.answer(turns)) is not None


def test_an_upload_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(BadInput, match=r"notes.png: .*is not a picture"):
        app.conversation({"text": "", "files": [str(tmp_path / "notes.png")]}, [])


@pytest.mark.parametrize(
    ("files", "revision", "said"),
    [
        ([], None, "is not a checkpoint"),
        (["adapter_config.json"], None, "holds no safetensors"),
        (["config.json"], "main", "a folder has no revisions"),
    ],
)
def test_a_folder_that_cannot_answer_is_refused(tmp_path, files, revision, said):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(BadInput, match=said):
        app.find(str(tmp_path), revision)


def turn(role: str, text: str, *files: Path) -> dict:
    content = [{"type": "file", "file": {"path": str(file)}} for file in files]
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}


def answer(chat, text: str, history: list = (), files: list = ()) -> str:
    return list(turns.respond(chat, {"text": text, "files": list(map(str, files))}, list(history)))[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [("word " * 600, "the model takes"), ("a" * 100_001, "at most 100,000"), ("  ", "There was no question")],
)
def test_a_question_that_cannot_be_answered_is_told_why_in_the_answers_place(chat, text, said):
    assert said in answer(chat, text) and answer(chat, text).startswith(turns.NOTICE)


def test_a_chat_goes_on_after_a_bad_picture(chat, picture, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = answer(chat, "What is it", files=[tmp_path / "bad.png"])
    assert bad.startswith(turns.NOTICE) and "bad.png" in bad
    history = [turn("user", "What is it", tmp_path / "bad.png"), turn("assistant", bad)]
    assert not answer(chat, "and here", history, [picture]).startswith(turns.NOTICE)


def test_a_model_that_fails_in_mid_answer_is_told_with_what_it_had_said(chat, monkeypatch):
    def fail(self, messages):
        yield "It is a"
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(chat), "answer", fail)
    said = answer(chat, "What is it")
    assert said.startswith(turns.NOTICE) and "It is a" in said and "out of memory" in said and "Ask again" in said


def test_a_long_chat_forgets_its_oldest_turns_and_says_so(chat):
    history = [turn(role, "word " * 200) for _ in range(4) for role in ("user", "assistant")]
    said = answer(chat, "and now", history)
    assert "turns no longer fit and were left out" in said and not said.startswith(turns.NOTICE)


@pytest.mark.case("S37", "refused")
def test_a_file_of_another_format_starts_no_other_program(chat, tmp_path, monkeypatch):
    """Pillow hands an EPS to Ghostscript, whatever the file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "holiday.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "holiday.png" in answer(chat, "What is it", files=[tmp_path / "holiday.png"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.case("S37", "refused")
def test_a_small_file_that_unpacks_to_much_is_refused(chat, tmp_path):
    Image.new("1", (20_000, 1)).save(tmp_path / "thin.png")
    said = answer(chat, "What is it", files=[tmp_path / "thin.png"])
    assert "20000 x 1 pixels" in said


@pytest.mark.case("S37", "accepted")
def test_a_picture_of_ordinary_shape_is_answered(chat, picture):
    assert not answer(chat, "What is it", files=[picture]).startswith(turns.NOTICE)


@pytest.mark.parametrize("revision", [None, pytest.param("first", marks=pytest.mark.slow)])
def test_a_hub_id_is_loaded_at_one_commit_and_the_commit_is_known(tmp_path, checkpoint, revision):
    code = (
        "import sys; from llava_mistral.commands import chat as app\n"
        "source = app.find('me/model', sys.argv[1] or None)\nchat = app.open_chat(source)\n"
        "print(source.commit, type(chat.model).__name__)"
    )
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        first, newest = publish(hub, tmp_path / "home", checkpoint)
        given, commit = (first, first) if revision else ("", newest)
        seen = len(hub.requests)
        done = subprocess.run(
            [sys.executable, "-c", code, given],
            env=hub.environment(tmp_path / "fresh") | {"PYTHONPATH": str(HOME)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [commit, "LlavaForConditionalGeneration"]
        files = [request["path"] for request in hub.requests[seen:] if "/resolve/" in request["path"]]
        assert files and all(f"/resolve/{commit}/" in path for path in files)


def test_bad_usage_is_one_line_and_exit_code_2(tmp_path, checkpoint):
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        publish(hub, tmp_path / "home", checkpoint)
        for arguments, said in (
            ([], "no model is named"),
            (["me/absent"], "the Hub shows no model me/absent"),
            (["a--b"], "neither a folder nor a Hub id"),
            (["me/model", "--revision", "v9"], "has no revision 'v9'"),
            (["me/model", "--max_new_tokens", "0"], "0 tokens are too few for an answer"),
        ):
            done = run_app(hub, tmp_path / "home", *arguments)
            assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
            assert TOKEN not in done.stderr


@pytest.mark.slow
def test_a_browser_uploads_a_picture_asks_and_reads_the_answer(browser, tmp_path, checkpoint, picture):
    """`APP_SCREENSHOT=FILE.png` keeps what it saw; `APP_MODEL`, `APP_PICTURE` and `APP_QUESTION` ask another model."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    question = os.environ.get("APP_QUESTION", "Which digit is it")
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        _, commit = publish(hub, tmp_path / "home", os.environ.get("APP_MODEL", checkpoint))
        environment = hub.environment(tmp_path / "home") | {"PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "llava_mistral", "chat", "me/model", "--max_new_tokens", "12"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = next(found[0] for line in server.stdout if (found := re.search(r"http://127\S+", line)))
                tab = browser.new_page(viewport={"width": 820, "height": 840})
                elsewhere = []
                tab.on("request", lambda r: elsewhere.append(r.url) if "//127.0.0.1" not in r.url else None)
                tab.goto(url, wait_until="domcontentloaded")
                tab.wait_for_selector("textarea")
                assert commit in tab.inner_text("body")
                tab.set_input_files("input[type=file]", os.environ.get("APP_PICTURE", str(picture)))
                tab.wait_for_selector(".thumbnail-item img, .thumbnails img, img[alt]")
                first = ask(tab, question, 1)
                if target := os.environ.get("APP_SCREENSHOT"):
                    tab.screenshot(path=target)
                again = ask(tab, question, 2)
                assert first and again and not [url for url in elsewhere if url.startswith("http")]
            finally:
                server.terminate()


def ask(tab, question: str, turn: int) -> str:
    """Send a question; return the answer of that turn once it has stopped growing."""
    tab.fill("textarea", question)
    tab.keyboard.press("Enter")
    tab.wait_for_function(f"document.querySelectorAll('.message.bot').length >= {turn}", timeout=60_000)
    seen, ends = "", time.monotonic() + 60
    while time.monotonic() < ends:
        now = tab.locator(".message.bot").nth(turn - 1).inner_text().strip()
        if now and now == seen:
            return now
        seen = now
        time.sleep(0.7)
    raise AssertionError("the answer never ended")


@pytest.mark.slow
@pytest.mark.case("S33", "refused")
def test_what_a_model_says_is_drawn_as_words_and_calls_nobody(browser, chat, monkeypatch):
    """A model could write pictures, whose addresses tell its maker the question, or draw a form for a password."""
    gradio = pytest.importorskip("gradio", reason="the extra `app` is not installed")
    said = "\n\n".join(text.replace("URL", "http://127.0.0.1:9") for text in HOSTILE)
    monkeypatch.setattr(type(chat), "answer", lambda self, messages: iter([said]))
    made = app.page(chat)
    _, url, _ = app.serve(made, prevent_thread_lock=True, quiet=True)
    elsewhere, dialogs = [], []
    try:
        tab = browser.new_page()
        ours = (url, "data:", "blob:")
        tab.on("request", lambda one: None if one.url.startswith(ours) else elsewhere.append(one.url))
        tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        policy = tab.goto(url, wait_until="domcontentloaded").headers["content-security-policy"]
        tab.wait_for_selector("textarea")
        shown = ask(tab, f"![](http://127.0.0.1:9/mine) {HOSTILE[4]}", 1)
        assert "![a picture](http://127.0.0.1:9/markdown)" in shown and "form-action 'none'" in policy
        drawn = [f".message {kind}" for kind in (*DRAWN, "svg[onload]", "svg image")]
        assert not tab.evaluate(
            "found => [...document.querySelectorAll(found)].map(e => e.outerHTML)", ", ".join(drawn)
        )
        if target := os.environ.get("APP_SCREENSHOT"):
            tab.screenshot(path=target)
    finally:
        made.close()
    assert not elsewhere and not dialogs and gradio
