"""The chat page: which model it loads, what it asks that model, and, in a real browser, that it answers."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llava_mistral.commands import chat as app
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.local_hub import LocalHub
from tests.support.publishing_runs import publish
from tests.support.running import HOME
from tests.support.tiny_llava import save_tiny_llava
from tests.support.tiny_publications import png

TOKEN = "hf_" + "P" * 34
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
    with pytest.raises(BadInput, match=r"notes.png: is no picture"):
        app.conversation({"text": "", "files": [str(tmp_path / "notes.png")]}, [])


@pytest.mark.parametrize(
    ("files", "revision", "said"),
    [
        ([], None, "is no checkpoint"),
        (["adapter_config.json"], None, "is an adapter"),
        (["config.json"], "main", "a folder has no revisions"),
    ],
)
def test_a_folder_that_cannot_answer_is_refused(tmp_path, files, revision, said):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(BadInput, match=said):
        app.find(str(tmp_path), revision)


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
            (["me/model", "--max_new_tokens", "0"], "0 tokens are no answer"),
        ):
            done = run_app(hub, tmp_path / "home", *arguments)
            assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
            assert TOKEN not in done.stderr


@pytest.mark.slow
def test_a_browser_uploads_a_picture_asks_and_reads_the_answer(tmp_path, checkpoint, picture):
    """`APP_SCREENSHOT=FILE.png` keeps what it saw; `APP_MODEL`, `APP_PICTURE` and `APP_QUESTION` ask another model."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next((path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/google-chrome")) if path.exists()), "")
    if not chromium:
        pytest.skip("no Chromium is installed")
    question = os.environ.get("APP_QUESTION", "Which digit is it")
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        _, commit = publish(hub, tmp_path / "home", os.environ.get("APP_MODEL", checkpoint))
        environment = hub.environment(tmp_path / "home") | {"PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [sys.executable, "-m", "llava_mistral", "chat", "me/model", "--max_new_tokens", "12"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            try:
                url = next(found[0] for line in server.stdout if (found := re.search(r"http://127\S+", line)))
                with browsers.sync_playwright() as driver:
                    browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
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
                    browser.close()
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
