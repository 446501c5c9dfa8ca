"""One self-contained HTML page of right and wrong answers with their pictures."""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from llava_mistral.data.scienceqa import LETTERS, Problem
from llava_mistral.evaluation.questions import Question

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 24  # of right and of wrong answers each
SIDE = 240  # pixels of a thumbnail's longer side
LONGEST = 1200  # characters of a text
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #555; --paper: #fff; --line: #ccc;
  --right: #176b2c; --wrong: #a4161a }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eee; --soft: #bbb; --paper: #16181c; --line: #444; --right: #7ddc94; --wrong: #ff9c9c } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)) }
li { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; break-inside: avoid }
img { max-width: 100%; height: auto; display: block; margin-bottom: .5rem }
p { margin: .3rem 0; white-space: pre-wrap }
small { color: var(--soft) } .right { color: var(--right) } .wrong { color: var(--wrong) }
"""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")  # direction marks would reorder the page


def answers_page(
    questions: Sequence[Problem] | Sequence[Question],
    texts: Mapping[str, str],
    right: Mapping[str, bool],
    pictures: Callable[[Any], "list[Image]"],
    *,
    unread: Collection[str] = (),
    title: str,
    facts: str,
) -> str:
    """Return the page: at most `SHOWN` wrong and right answers each, drawn by a hash of their ids.

    Args:
        texts: {pid: what was answered}.
        right: {pid: whether it was right}.
        pictures: opens the pictures of a question.
        unread: pids of answers that could not be read, which are among the wrong ones.
        facts: a line of figures below the title.
    """
    body = []
    for kind, wanted in (("wrong", False), ("right", True)):
        own = [one for one in questions if bool(right[one.pid]) is wanted]
        shown = sorted(own, key=lambda one: hashlib.sha256(one.pid.encode()).digest())[:SHOWN]
        items = "".join(
            _item(one, texts.get(one.pid, ""), "unread" if one.pid in unread else kind, pictures) for one in shown
        )
        body.append(f"<h2>{kind.capitalize()} answers: {len(shown):,} of {len(own):,}</h2><ul>{items}</ul>")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(title)}</title><style>{_STYLE}</style></head><body><main>
<h1>{_text(title)}</h1><p>{_text(facts)}</p>
{"".join(body)}
</main></body></html>
"""


def _item(one: Problem | Question, text: str, kind: str, pictures: Callable[[Any], "list[Image]"]) -> str:
    drawn = "".join(_picture(picture, number, one.pid) for number, picture in enumerate(pictures(one), 1))
    choices = "".join(f"\n{LETTERS[index]}. {choice}" for index, choice in enumerate(one.choices))
    answer = f"{LETTERS[one.answer]}. {one.choices[one.answer]}" if one.choices else one.answer
    shown = _text(text) if text.strip() else "<em>nothing</em>"
    colour = "right" if kind == "right" else "wrong"
    entry = f'<p class="{colour}">answered ({kind}): {shown}</p><p>right: {_text(answer)}</p>'
    return f"<li>{drawn}<p>{_text(one.question + choices)}</p>{entry}<small>{_text(one.pid)}</small></li>"


def _picture(picture: "Image", number: int, pid: str) -> str:
    picture = picture.copy()
    picture.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=80)
    encoded = base64.b64encode(data.getvalue()).decode()
    return (
        f'<img alt="picture {number} of question {escape(pid, quote=True)}" width="{picture.width}" '
        f'height="{picture.height}" src="data:image/jpeg;base64,{encoded}">'
    )


def _text(text: str) -> str:
    text = _CONTROL.sub("\ufffd", text)
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]} …")
