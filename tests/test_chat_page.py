"""The chat page in a real browser: nothing locks the box, and Stop, errors and empty questions do what one expects."""

import time
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.chatting.answering import Chat, Source
from llava_mistral.commands import chat as app
from tests.support.running import run_here

MINUTES = 150_000  # of milliseconds: a browser beside other processes may need them


class Scripted(Chat):
    """Answers at once what its question asks for; no weights."""

    def answer(self, messages):
        words = messages[-1]["content"][-1]["text"]
        if "fail" in words:
            raise RuntimeError("out of memory")
        said = "" if "empty" in words else f"{Path(self.source.name).name} heat {self.temperature} {self.system} "
        yield said
        for number in range(600 if "long" in words else 2 if said else 0):
            said += f"word{number} "
            time.sleep(0.1)
            yield said


def open_page(browser, *names: str):
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    made = app.page(*(Scripted(Source(name), None, None, 12) for name in names))
    _, url, _ = app.serve(made, prevent_thread_lock=True, quiet=True)
    tab = browser.new_page(viewport={"width": 900, "height": 900})
    tab.set_default_timeout(MINUTES)
    tab.goto(url, wait_until="domcontentloaded")
    tab.wait_for_selector("textarea")
    return made, tab


def send(tab, question: str, last: str) -> str:
    """Ask, wait until the newest answer has `last` in it, and return it; the box takes words all the while."""
    box = tab.locator("textarea").first
    box.fill(question)
    tab.keyboard.press("Enter")
    found = "e => [...document.querySelectorAll('.message.bot')].pop()?.innerText.includes(e)"
    tab.wait_for_function(found, arg=last)
    assert box.is_enabled()
    return tab.locator(".message.bot").last.inner_text()


@pytest.mark.slow
def test_nothing_locks_the_box(browser, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "good.png")
    made, tab = open_page(browser, "outputs/model")
    try:
        assert "Add a picture, ask about it" in tab.inner_text("body") and not tab.get_by_text("Share").count()
        tab.locator("textarea").first.focus()
        tab.keyboard.press("Enter")
        for name, last in (("bad", "is not a picture"), ("good", "word1")):
            tab.set_input_files("input[type=file]", str(tmp_path / f"{name}.png"))
            tab.wait_for_selector(".thumbnail-item, .thumbnails img")
            send(tab, "What is it", last)
        assert tab.locator(".message.user").count() in (2, 4), "the empty question was not sent"
        assert all(tab.evaluate("[...document.images].map(one => one.alt)"))
        assert not tab.locator("[aria-label=Share]:visible, [title=Share]:visible").count(), "it uploads the picture"
        send(tab, "please fail", "out of memory")
        send(tab, "be empty", "empty answer")
        send(tab, "a long one", "word3")
        tab.locator("button[class*=stop-button]").click()
        tab.wait_for_selector("button[class*=submit-button]")
        stopped = tab.locator(".message.bot").last.inner_text()
        time.sleep(2)
        assert tab.locator(".message.bot").last.inner_text() == stopped and "word599" not in stopped
        send(tab, "after it", "word1")
        outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "what has the focus is seen"
        tab.get_by_role("button", name="New chat").click()
        tab.wait_for_function("!document.querySelectorAll('.message').length")
        tab.get_by_role("button", name="Describe the picture").click()
        tab.wait_for_function("document.querySelector('textarea').value.startsWith('Describe')")
        tab.set_viewport_size({"width": 375, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    finally:
        made.close()


@pytest.mark.slow
def test_two_models_answer_the_same_question_with_the_settings_of_the_page(browser):
    made, tab = open_page(browser, "outputs/before", "outputs/after")
    try:
        tab.get_by_role("button", name="Settings").click()
        tab.get_by_label("system words").fill("Be brief.")
        tab.get_by_label("number input for temperature").fill("0.5")
        tab.keyboard.press("Tab")
        send(tab, "What is it", "after heat 0.5 Be brief. word0 word1")
        answers = [one.inner_text() for one in tab.locator(".message.bot").all()]
        assert [one.split()[0] for one in answers] == ["before", "after"]
    finally:
        made.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a/b", "c/d", "e/f"), "3 models are named; name one or two, as OWNER/NAME@REVISION"),
        (("a/b", "c/d", "--revision", "v1"), "2 models are named and one revision; name one or two"),
        (("a/b", "--max_new_tokens", "9999"), "9999 tokens are too many for an answer; give 2,048 or fewer"),
    ],
)
def test_what_the_page_cannot_show_is_refused(words, said):
    assert said in run_here(app.main, *words, code=2).error


def test_the_settings_reach_the_model(tmp_path):
    """Greedy without a temperature; system words stand first, also when older turns are left out."""
    from dataclasses import replace

    from tests.support.tiny_llava import save_tiny_llava

    chat = app.open_chat(app.find(str(save_tiny_llava(tmp_path / "checkpoint")), None), max_new_tokens=4)
    seen = []
    told, asked = chat.processor.apply_chat_template, chat.model.generate
    chat.processor.apply_chat_template = lambda turns, **more: (seen.append(turns), told(turns, **more))[1]
    chat.model.generate = lambda **options: (seen.append(options), asked(**options))[1]
    question = {"role": "user", "content": [{"type": "text", "text": "Which digit is it"}]}
    list(replace(chat, temperature=0.5, system="letter").answer([question]))
    assert seen[0][0]["role"] == "system" and seen[-1]["do_sample"] and seen[-1]["temperature"] == 0.5
    list(chat.answer([question]))
    assert seen[-2] == [question] and seen[-1]["do_sample"] is False
