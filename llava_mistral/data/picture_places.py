"""Where pictures stand among a conversation's words: an `<image>` in a user's turn, or what others write there."""

import re
from collections.abc import Callable
from typing import Any

from llava_mistral.ground.bad_input import BadInput

IMAGE_TOKEN = "<image>"
PICTURE_PARTS = ("image", "image_url")
_LEADING = re.compile(rf"(?:{IMAGE_TOKEN}\s*)+")
# How other models' data says where a picture stands.
_OTHER_TOKEN = re.compile(
    r"<\|(?:vision_start|vision_end|image_pad|image(?:_\d+)?|img)\|>|<image_(?:pad|placeholder)>|<ImageHere>"
    r"|<(?!image>)(?i:image|img|picture|pic)[ _-]?\d*\s?/?>|\[(?:IMG|IMAGE|image)\]|<img>[^<\n]{1,400}</img>"
    r"|<im_(?:start|end|patch)>|<(?:video|audio|bbox|ref-object)>"
)
# What no text without a picture begins with, or speaks of.
_LOST = re.compile(r"\A\s*<(?:video|audio)>|<img>[^<\n]{1,400}\.\w{3,4}</img>")
Turn = dict[str, Any]
Wrong = Callable[..., BadInput]  # (problem, remedy, field=…, kind=…)


def places_in(content: Any, before: int, index: int, wrong: Wrong) -> int:
    """Return how many parts of a content are pictures; their `index`, if any, must be their place in the record."""
    parts = [part for part in content if part["type"] in PICTURE_PARTS] if isinstance(content, list | tuple) else []
    given = [part.get("index") for part in parts]
    if any(number not in (None, before + place) for place, number in enumerate(given)):
        problem = f"turn {index} has its pictures by index in another order than the record"
        raise wrong(problem, "list the pictures in the order of their places")
    return len(parts)


def check_places(turns: list[Turn], pictures: int, wrong: Wrong, needed: bool) -> None:
    """Refuse questions that name other pictures than there are, or in another model's words.

    Args:
        needed: every picture must have a token, as in LLaVA's form; else pictures without any come first of all.
    """
    for index, turn in enumerate(turns):
        if turn["role"] != "user":
            continue
        if found := _foreign_place(turn["content"], _OTHER_TOKEN if pictures else _LOST):
            problem = f"turn {index} has {found[0][:80]!r}, a picture's place in another model's words"
            raise wrong(problem, f"write {IMAGE_TOKEN} there, name the picture in images, or leave it out")
        if not pictures and not needed and (turn.get("places") or _LEADING.match(turn["content"])):
            problem = f"turn {index} has a place for a picture, and the record has no picture"
            raise wrong(problem, "name it in images, or leave its place out")
    counts = [turn["content"].count(IMAGE_TOKEN) for turn in turns]
    named = named_pictures(turns)
    if needed:
        for index, turn in enumerate(turns):
            if turn["role"] != "user" and counts[index]:
                problem = f"turn {index} has {counts[index]} {IMAGE_TOKEN} tokens, but is not a question"
                raise wrong(problem, "name pictures in questions")
    if named != pictures and (needed or (named and pictures)):
        problem = f"has {named} {IMAGE_TOKEN} tokens and {pictures} pictures"
        raise wrong(problem, "make tokens and pictures agree")


def _foreign_place(text: str, places: re.Pattern) -> re.Match | None:
    """The first place of another model's in a text; an element of HTML, which is closed, is none."""
    for found in places.finditer(text):
        element = re.fullmatch(r"<(picture|video|audio)>", found[0])
        if not (element and f"</{element[1]}>" in text[found.end() :]):
            return found
    return None


def placed(turns: list[Turn]) -> list[str]:
    """Return the contents with the tokens in their places, or without any where all come before the first question."""
    contents = [_leading_first(turn["content"]) if turn["role"] == "user" else turn["content"] for turn in turns]
    asking = [index for index, turn in enumerate(turns) if turn["role"] == "user"]
    first, others = contents[asking[0]], [contents[index] for index in asking[1:]]
    if first.count(IMAGE_TOKEN) == 1 and first.endswith("\n" + IMAGE_TOKEN):
        first = f"{IMAGE_TOKEN}\n{first.removesuffix(IMAGE_TOKEN).rstrip()}"  # LLaVA's `preprocess_multimodal`
    words = _LEADING.sub("", first, count=1) if first.startswith(IMAGE_TOKEN) else first
    if IMAGE_TOKEN not in words and not any(IMAGE_TOKEN in content for content in others):
        contents[asking[0]] = words
    return contents


def _leading_first(content: str) -> str:
    """Return the text with each token that comes before all words on a line of its own."""
    match = _LEADING.match(content)
    if not match:
        return content
    return (IMAGE_TOKEN + "\n") * match[0].count(IMAGE_TOKEN) + content[match.end() :]


def parts_of(content: str) -> list[dict[str, str]]:
    """Return a text as parts, an image for each token; a template parts the leading ones from the words."""
    match = _LEADING.match(content)
    before = match[0].count(IMAGE_TOKEN) if match else 0
    texts = (content[match.end() :] if match else content).split(IMAGE_TOKEN)
    parts: list[dict[str, str]] = [{"type": "image"}] * before
    for index, text in enumerate(texts):
        parts += [{"type": "image"}] * (index > 0)
        parts += [{"type": "text", "text": text}] if text or len(texts) == 1 else []
    return parts


def named_pictures(turns: list[Turn]) -> int:
    """Return how many pictures the questions name."""
    return sum(turn["content"].count(IMAGE_TOKEN) for turn in turns if turn["role"] == "user")
