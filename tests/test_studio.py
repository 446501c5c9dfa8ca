"""The studio: its commands are the verbs' own, its page is for its user alone, and it leads from a table to a Hub."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_mistral.commands import chat, compare, evaluate, init, prune, publish
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.local_hub import LocalHub
from llava_mistral.studio.running import Studio
from llava_mistral.studio.steps import CHOOSE, COMPARE, JUDGE, PUBLISH, STEPS, TALK, TRAIN, Action, Step, words_of
from tests.support.own_data import save_data
from tests.support.publishing_runs import TOKEN
from tests.support.running import HOME

ACTIONS = [(step, action) for step in STEPS for action in step.actions]
MINUTES = 300_000  # of milliseconds: a command beside other processes may need them
COLUMNS = "question=ask,answer=reply,image=file"
LONG = Action("Rehearse", "hub", "", "--root hub --port 0")


def parsed(monkeypatch, words: list[str]) -> None:
    """Let the verb read its command; it exits at a flag that it does not know."""
    from llava_mistral.training.recipe import parse_recipe

    verb, *rest = words
    monkeypatch.setattr(sys, "argv", [verb, *rest])
    parsers = {"init": init, "chat": chat, "publish": publish}
    if verb in parsers:
        parsers[verb].build_parser().parse_args(rest)
    elif verb == "train":
        parse_recipe([word.replace("recipe.yaml", "mistral/finetune") for word in rest])
    else:
        {"prune": prune, "evaluate": evaluate, "compare": compare}[verb].parse_arguments(*[rest] * (verb != "prune"))


@pytest.mark.parametrize(("step", "action"), ACTIONS, ids=[action.label for _, action in ACTIONS])
def test_every_button_makes_a_command_that_its_verb_takes(step, action, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled = {"columns": COLUMNS, "repo_id": "me/model", "match": "exact", "kind": "model"}
    values = {field.name: filled.get(field.name) or field.value or "given" for field in step.fields}
    words = words_of(step, action, values, tmp_path)
    parsed(monkeypatch, words)
    named = {name.strip("<>").partition("=")[0] for name in action.fields.split()}
    assert named <= {field.name for field in step.fields} and all(values[name] in words for name in named)
    assert not action.output or action.output in named
    least = {field.name: field.value for field in step.fields if field.kind != "choice" or field.value}
    assert "" not in words_of(step, action, least, tmp_path)


@pytest.mark.parametrize(
    ("step", "name", "value", "said"),
    [
        (CHOOSE, "output", "../elsewhere", "field output: ../elsewhere lies outside the studio's folder"),
        (CHOOSE, "dataset", "/etc/passwd", "lies outside the studio's folder; give a path below it, or start"),
        (TRAIN, "output_dir", "a/../../b", "lies outside the studio's folder"),
        (TRAIN, "output_dir", "~/tuned", "lies outside the studio's folder"),
        (COMPARE, "first", "before=/etc", "lies outside the studio's folder"),
        (TALK, "model", "--share", "field model: '--share' is not a value; give another"),
        (CHOOSE, "columns", "a=b\nc=d", "is not a value"),
        (PUBLISH, "repo_id", "-x", "is not a value"),
    ],
)
def test_no_value_leads_out_of_the_folder_or_becomes_a_flag(step, name, value, said, tmp_path):
    with pytest.raises(BadInput, match=re.escape(said)):
        words_of(step, step.actions[-1], {name: value}, tmp_path)


def test_no_value_takes_the_place_of_an_empty_one(tmp_path):
    with pytest.raises(BadInput, match="field folder: is empty"):
        words_of(PUBLISH, PUBLISH.actions[1], {"kind": "model", "repo_id": "me/shapes"}, tmp_path)
    assert words_of(TALK, TALK.actions[0], {"model": "base"}, tmp_path) == ["chat", "base"]


def test_what_looks_like_a_shell_is_a_word(tmp_path):
    words = words_of(CHOOSE, CHOOSE.actions[0], {"dataset": "$(touch x); a b.csv"}, tmp_path)
    assert words == ["prune", "--dataset", "$(touch x); a b.csv", "--dry_run"]


def test_one_command_runs_at_a_time_and_is_stopped_as_in_a_terminal(tmp_path):
    studio, step = Studio(tmp_path), Step("", "", (), ())
    studio.start(step, LONG, {})
    with pytest.raises(BadInput, match="`llava-mistral hub --root hub --port 0` is running; wait for it, or stop"):
        studio.start(step, LONG, {})
    assert studio.run.state == "running"
    ends = time.monotonic() + 120
    while "listening" not in studio.run.text.lower() and "http" not in studio.run.text and time.monotonic() < ends:
        time.sleep(0.1)
    studio.close()
    studio.run.reader.join(60)
    assert studio.run.state in ("stopped", "done") and "http" in studio.run.text
    studio.start(CHOOSE, CHOOSE.actions[1], {"dataset": "absent.csv", "method": "full", "output": "kept"})
    studio.run.process.wait()
    studio.run.reader.join(60)
    assert studio.run.state == "ended with exit code 2" and len(studio.run.text.splitlines()) == 1
    assert studio.run.text.startswith("llava-mistral prune: absent.csv: ")


def test_reports_and_losses_are_those_of_the_command_at_hand(tmp_path):
    studio = Studio(tmp_path)
    (tmp_path / "tuned [1]" / "samples").mkdir(parents=True)
    for step in (1, 2):
        page = tmp_path / "tuned [1]" / "samples" / f"step-{step}.html"
        page.write_text("<p>")
        os.utime(page, (time.time() + step, time.time() + step))
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5}, {"train_runtime": 1}]
    (tmp_path / "tuned [1]" / "log.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in rows) + '{"step": 3, "lo'
    )
    train = Action("", "train", "output_dir", "--plan", "{output_dir}/samples/*.html", "output_dir")
    studio.start(TRAIN, train, {"output_dir": " tuned [1] "})
    studio.close()
    assert studio.report() == Path("tuned [1]/samples/step-2.html")
    assert studio.losses() == [(1, 2.0, "training"), (2, 1.5, "held-out rows")]
    studio.run.began += 60
    assert studio.report() is None, "a report of an earlier command is not this one's"


def test_an_upload_takes_the_place_of_nothing(tmp_path):
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    from llava_mistral.studio.page import found, take

    sent, work = tmp_path / "sent", tmp_path / "work"
    sent.mkdir()
    work.mkdir()
    for name in ("mine.csv", "a.png", "run.sh"):
        (sent / name).write_text(name)
    assert take(work, [str(sent / "mine.csv"), str(sent / "a.png")]) == ("mine.csv", "pictures")
    there = found(work)
    assert there["data"] == ["mine.csv"] and there["pictures"] == ["pictures"]
    (sent / "mine.csv").write_text("other")
    for name, said in (("mine.csv", "is there already, with other content"), ("run.sh", "neither a table nor a")):
        with pytest.raises(BadInput, match=said):
            take(work, [str(sent / name)])
    assert (work / "mine.csv").read_text() == "mine.csv" and not (work / "run.sh").exists()
    (work / "b.csv").symlink_to(tmp_path / "outside")
    (sent / "b.csv").write_text("b")
    with pytest.raises(BadInput, match="is there already"):
        take(work, [str(sent / "b.csv")])
    assert not (tmp_path / "outside").exists()
    (work / "c.csv").mkdir()
    (sent / "c.csv").write_text("c")
    with pytest.raises(BadInput, match="a file or a folder of that name is there already"):
        take(work, [str(sent / "c.csv")])


class Page:
    """The studio in a tab of Chromium, used as a reader of the page would."""

    def __init__(self, browser, url: str):
        self.tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.elsewhere = []
        ours = (url.partition("?")[0], "data:", "blob:")
        self.tab.on("request", lambda one: None if one.url.startswith(ours) else self.elsewhere.append(one.url))
        self.tab.set_default_timeout(MINUTES)
        self.tab.goto(url, wait_until="domcontentloaded")

    def fill(self, step: Step, **values: str) -> None:
        """Go to a step and fill fields."""
        self.tab.get_by_role("tab", name=step.name).click()
        for name, value in values.items():
            label = next(field.label for field in step.fields if field.name == name)
            box = self.tab.get_by_label(label).locator("visible=true")
            box.fill(value)
            box.press("Tab")

    def press(self, button: str, state: str = "done") -> str:
        """Press a button, wait until its command is in `state`, and return what it says."""
        self.tab.get_by_role("button", name=button, exact=True).click()
        self.tab.get_by_text("command: running", exact=True).wait_for()
        return self.wait(state)

    def wait(self, state: str) -> str:
        self.tab.get_by_text(re.compile("^command: (?!running)")).wait_for()
        assert self.tab.get_by_text(f"command: {state}", exact=True).count(), self.said
        return self.said

    @property
    def said(self) -> str:
        return self.tab.get_by_label("what it says").input_value()

    def report(self) -> str:
        """The words of the report that is shown."""
        assert self.tab.locator(".report iframe").get_attribute("sandbox") == ""
        return self.tab.frame_locator(".report iframe").locator("body").inner_text()


@pytest.fixture
def studio(tmp_path, browser, stage0):
    """The page of a studio in a folder with data and a checkpoint, on a Hub of its own."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    work = tmp_path / "work"
    work.mkdir()
    save_data(work)
    shutil.copytree(stage0, work / "base")
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        command = [sys.executable, "-m", "llava_mistral", "studio", "--folder", str(work)]
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(HOME), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = re.search(r"http://127\S+", server.stdout.readline())[0]
                yield Page(browser, url), work, hub
            finally:
                server.terminate()
                server.wait()


def shows(page, words: str) -> None:
    """Wait until a box of the page has these words."""
    boxes = "[...document.querySelectorAll('textarea')]"
    page.tab.wait_for_function(f"{boxes}.some(box => box.value.includes({words!r}))")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_page_leads_from_a_table_to_the_link(studio):
    page, work, hub = studio
    page.fill(CHOOSE, dataset="../elsewhere.csv")
    page.tab.get_by_role("button", name="Show its faults").click()
    shows(page, "lies outside")
    page.fill(CHOOSE, dataset="train.csv", columns=COLUMNS, image_folder="nowhere")
    assert len(page.press("Choose", "ended with exit code 2").strip().splitlines()) == 1
    page.fill(CHOOSE, image_folder="pictures", source="mine", license="cc-by-4.0")
    assert "18 samples can be used" in page.press("Show its faults")
    assert "kept 14 of 18" in page.press("Choose") and "A circle." in page.report()

    page.fill(TRAIN, model="base")
    page.press("Write the recipe")
    recipe = page.tab.get_by_label("the recipe")
    shows(page, "num_train_ep")
    recipe.fill(re.sub("num_train_epochs: .*", "num_train_epochs: 30", recipe.input_value()))
    page.tab.get_by_role("button", name="Save the recipe").click()
    shows(page, "wrote recipe")
    assert "optimizer steps" in page.press("Show the plan")
    page.tab.get_by_role("button", name="Train, or go on").click()
    page.tab.locator(".report iframe").wait_for()
    page.tab.reload()
    page.tab.get_by_role("button", name="Stop", exact=True).click()
    stopped = int(re.search(r"saved at step (\d+)", page.wait("stopped"))[1])
    page.fill(TRAIN)
    done = page.press("Train, or go on")
    assert "step 1/" not in done and int(re.search(r"step (\d+)/", done)[1]) > stopped
    assert "the model says" in page.report() and page.tab.locator(".vega-embed").count()

    page.fill(
        JUDGE, model="base", dataset="test.csv", columns=COLUMNS, image_folder="pictures", output="judged/before"
    )
    page.press("Evaluate")
    page.fill(JUDGE, model="tuned", output="judged/after")
    page.press("Evaluate")
    assert "What shape" in page.report()
    page.fill(COMPARE)
    page.press("Compare")
    assert "judged/before" in page.report()

    page.fill(TALK, model="base", second="tuned")
    page.tab.get_by_role("button", name="Open the chat").click()
    link = page.tab.get_by_role("link", name="Open http://127.0.0.1")
    link.wait_for()
    with page.tab.context.expect_page(timeout=MINUTES) as opened:
        link.click()
    chat_tab = opened.value
    chat_tab.set_default_timeout(MINUTES)
    chat_tab.locator("textarea").first.fill("What shape is it?")
    chat_tab.keyboard.press("Enter")
    chat_tab.wait_for_function("document.querySelectorAll('.message.bot').length >= 2", timeout=MINUTES)
    page.tab.get_by_role("button", name="Stop", exact=True).click()
    page.wait("stopped")

    page.fill(PUBLISH, repo_id="me/shapes", license="apache-2.0", results="judged/after/summary.json")
    assert "nothing was sent" in page.press("Show the card") and "shapes" in page.report()
    assert "files equal by sha256" in page.press("Publish")
    assert page.tab.get_by_role("link", name=f"Open {hub.url}/me/shapes").count()
    assert not page.elsewhere
