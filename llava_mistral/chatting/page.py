"""The chat as a Gradio page: one model, or two side by side, that answer the same questions."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

from llava_mistral.chatting.answering import Chat
from llava_mistral.chatting.turns import respond
from llava_mistral.ground import served
from llava_mistral.ground.escaping import markdown

LONGEST = 2048  # tokens that the page offers for an answer
HINT = "Add a picture, ask about it, and press Enter."
EXAMPLES = ("What is in this picture?", "Describe the picture in one sentence.", "What does the text in it say?")
STYLE = """
.examples { flex-wrap: wrap; }
@media (max-width: 640px) { .models { flex-direction: column; } }
"""
# Gradio leaves the pictures of a chat, and some of its buttons, without words for those who do not see them.
SCRIPT = """() => {
  const each = (found, give) => document.querySelectorAll(found).forEach(give);
  const say = (found, words) => each(found + ':not([aria-label])', one => one.setAttribute('aria-label', words));
  const name = () => {
    document.documentElement.lang ||= 'en';
    each('img:not([alt]), img[alt=""]', one => one.alt = 'picture of a question');
    say('input[type=file]', 'pictures');
    say('textarea:not(label textarea)', 'question');
    say('button[class*=submit-button]', 'send');
    say('button[class*=stop-button]', 'stop');
  };
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
  name();
}"""


def page(*chats: Chat) -> Any:
    """The page, which contacts nobody but its reader; what is said in it is shown as plain text."""
    import gradio as gr

    names = [_name(chat) for chat in chats]
    with gr.Blocks(title=" and ".join(names), analytics_enabled=False, delete_cache=served.KEPT) as made:
        gr.Markdown(f"# {' and '.join(map(markdown, names))}", sanitize_html=True)
        gr.Markdown("\n\n".join(map(_origin, chats)) + "\n\nFor research: a model answers with confidence also when "
                    "the picture does not show it.")  # fmt: skip
        with gr.Row(elem_classes="models"):
            made.bots = [
                draw_words(
                    gr.Chatbot(
                        height=480,
                        min_height=240,
                        label=name,
                        show_label=len(chats) > 1,
                        buttons=["copy"],  # "share" would upload the chat
                        render_markdown=False,  # an answer could show pictures of any server, and tell it the question
                        sanitize_html=True,
                        feedback_options=None,
                        placeholder=HINT,
                    )
                )
                for name in names
            ]
        box = gr.MultimodalTextbox(
            file_types=["image"], file_count="multiple", placeholder=HINT, show_label=False, label="question"
        )
        with gr.Row(elem_classes="examples"):
            for question in EXAMPLES:
                words = gr.Button(question, size="sm")
                words.click(lambda now, asked=question: {**(now or {"files": []}), "text": asked}, box, box)
            forget = gr.Button("New chat", size="sm")
        with gr.Accordion("Settings", open=False):
            settings = [
                gr.Slider(1, LONGEST, value=chats[0].max_new_tokens, step=1, label="most tokens of an answer"),
                gr.Slider(0, 2, value=0, step=0.05, label="temperature (0: always the likeliest word)"),
                gr.Textbox(label="system words, said to the model before the first question", lines=2),
            ]
        asked = box.submit(
            lambda *given: (yield from turn(chats, *given)),
            [box, *settings, *made.bots],
            [box, *made.bots],
            api_name="chat",
            trigger_mode="once",  # a second Enter while it answers does nothing
            show_progress="hidden",
        )
        for over in (asked.then, lambda *given: box.stop(*given, cancels=[asked])):
            over(lambda: gr.MultimodalTextbox(submit_btn=True, stop_btn=False), None, box)
        forget.click(lambda: [None, *[[] for _ in chats]], None, [box, *made.bots], cancels=[asked])
        made.load(None, None, None, js=SCRIPT)
    return made


def turn(chats: tuple[Chat, ...], message: dict, most: float, heat: float, system: str, *said: list) -> Iterator[list]:
    """One question to every model; yields what the box and each model's chat shall show.

    The box is never locked; it shows Stop instead of the arrow until this has ended, well or not.

    Args:
        message: `{"text", "files"}`; an empty one is not sent.
        most: tokens of an answer.
        heat: temperature.
        said: of each model, the chat so far.
    """
    import gradio as gr

    files = list((message or {}).get("files") or [])
    if not message or not (message["text"].strip() or files):
        yield [gr.skip()] * (1 + len(chats))
        return
    content = [{"path": file} for file in files] + [message["text"]] * bool(message["text"].strip())
    before = [list(one or []) for one in said]
    shown = [[*one, {"role": "user", "content": content}] for one in before]
    yield [gr.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True), *shown]
    for index, chat in enumerate(chats):
        chat = replace(chat, max_new_tokens=int(most), temperature=float(heat), system=(system or "").strip())
        with closing(respond(chat, message, before[index])) as answer:
            for words in answer:
                new = [*shown[index], {"role": "assistant", "content": words}]
                yield [gr.skip(), *(new if one == index else gr.skip() for one in range(len(chats)))]


def _name(chat: Chat) -> str:
    return Path(chat.source.name).name if chat.source.commit is None else chat.source.name


def _origin(chat: Chat) -> str:
    source = chat.source
    at = f"Loaded from the Hub at commit `{source.commit}`" if source.commit else "Loaded from a folder: no revision"
    if chat.base:
        at += f"; an adapter on {markdown(chat.base.name)}"
        at += f" at `{chat.base.revision}`" if chat.base.revision else ""
    return f"{markdown(_name(chat))}: {at}."


def draw_words(bot: Any) -> Any:
    """Let a chat draw what is said in it as words: without Markdown, Gradio still draws forms and pictures of HTML."""
    bot.postprocess = _on_text(bot.postprocess, after=escape)
    bot.preprocess = _on_text(bot.preprocess, before=unescape)
    return bot


def _on_text(step: Callable, before: Callable = str, after: Callable = str) -> Callable:
    """A step of Gradio's chat box with something done to the texts that go into it, or come out."""

    def changed(messages: Any, change: Callable) -> Any:
        if messages is None or change is str:
            return messages
        messages = messages.model_copy(deep=True)
        for part in (part for message in messages.root for part in message.content):
            if getattr(part, "type", None) == "text":
                part.text = change(part.text)
        return messages

    return lambda messages: changed(step(changed(messages, before)), after)


def serve(made: Any, **options) -> tuple:
    """Start the page; see `ground/served.py`."""
    return served.serve(made, style=STYLE, **options)
