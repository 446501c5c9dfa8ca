"""The turns of a conversation as one training row, whoever speaks in them, and where pictures stand among the words.

A row's `prompt` holds the turns before the first answer that is learned, `completion` the rest; further questions
stand in it between the answers, and carry no loss. An answer in `completion` that is not learned has `"loss": False`.

A picture's place in a user's turn is an `<image>` in its text. A row without any has its pictures before the first
question, as LLaVA has them; there the token is left out of the text.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llava_mistral.data.bad_samples import WrongForm
from llava_mistral.data.picture_cells import holds_picture
from llava_mistral.data.picture_places import (
    IMAGE_TOKEN,
    PICTURE_PARTS,
    check_places,
    named_pictures,
    parts_of,
    placed,
    places_in,
)
from llava_mistral.ground.bad_input import BadInput

LONGEST_TEXT = 1_000_000  # characters; the longest conversation of a real set is a tenth of it
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
FORM = "use LLaVA's form: [{id, image?, conversations: [{from: human|gpt, value}, …]}, …]"
_READ = ("from", "value", "role", "content", "loss", "weight")
_TOOLS = ("tool_calls", "function_call", "tool_call_id")
_MARKS = ("train", "training", "trainable", "loss_mask", "mask", "masked", "learn")  # of other trainers
_MARKS += ("loss_scale", "loss_weight", "train_detail", "training_detail")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
_PART_PICTURES = ("image", "path", "url", "bytes", "image_url")
Turn = dict[str, Any]
Wrong = Callable[..., BadInput]  # (problem, remedy, field=…, kind=…)


def read_turns(value: Any, wrong: Wrong) -> tuple[list[Turn], list[Any]]:
    """Return the turns as {"role", "content"} with texts, and the pictures that their content parts hold.

    Args:
        value: turns of {"from", "value"} or {"role", "content"}; contents may be lists of parts.
        wrong: makes the error of a problem and its remedy.

    Raises:
        BadInput: a turn's text, speaker or weight is missing; `WrongForm` for an unknown speaker.
    """
    if not isinstance(value, list | tuple) or not value:
        raise wrong("is missing, or has no question and answer", FORM)
    turns, pictures, before = [], [], 0
    for index, turn in enumerate(value):
        turn = turn if isinstance(turn, Mapping) else {}
        speaker = turn.get("from") if turn.get("role") is None else turn["role"]
        said = turn.get("value") if turn.get("content") is None else turn["content"]
        if "value" in turn and turn["value"] not in (None, said):
            raise wrong(f"turn {index} says one thing in value and another in content", "leave one of them out")
        if not isinstance(speaker, str) or speaker not in ROLES:
            problem = f"turn {index} is from {str(speaker)[:20]!r}, not from {' or '.join(ROLES)}"
            raise wrong(problem, "name the speakers human and gpt, or user and assistant", kind=WrongForm)
        _check_turn(turn, ROLES[speaker], said, index, wrong)
        text, own = _text_of(said, index, wrong)
        places = places_in(said, before, index, wrong)
        before += places
        turns.append({"role": ROLES[speaker], "speaker": speaker, "content": text, "places": places})
        turns[-1] |= _loss(turn, index, wrong)
        pictures += own
    return turns, pictures


def _check_turn(turn: Mapping[str, Any], role: str, content: Any, index: int, wrong: Wrong) -> None:
    """Refuse what stands beside a turn's words and would be lost: pictures, calls of tools, other trainers' marks."""
    for key, value in turn.items():
        if key in _READ or value in (None, "", [], {}):
            continue
        if key in ("image", "images") or holds_picture(value):
            raise wrong(f"turn {index} has pictures in {key}", "name them in images, or as parts of its content")
        if key in _TOOLS:
            raise wrong(f"turn {index} has {key}, which no template here words", "write it as text, or drop it")
        if key in _THOUGHTS:
            raise wrong(f"turn {index} has {key}, which would be left out", "write it into the answer, or drop it")
        if key in _MARKS:
            raise wrong(f"turn {index} is marked by {key}", 'mark it by "loss" or "weight" instead')
    parts = content if role != "user" and isinstance(content, list | tuple) else ()
    if any(isinstance(part, Mapping) and part.get("type") in PICTURE_PARTS for part in parts):
        raise wrong(f"turn {index} has a picture, and is no question", "give pictures in questions")


def _text_of(content: Any, index: int, wrong: Wrong) -> tuple[str, list[Any]]:
    """Return a content as a text with a token in each picture's place, and the pictures of its parts."""
    if isinstance(content, str):
        parts = [{"type": "text", "text": content}]
    else:
        parts = content if isinstance(content, list | tuple) and content else [None]
    text, pictures = "", []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind in PICTURE_PARTS:
            text += IMAGE_TOKEN + ("" if text.replace(IMAGE_TOKEN, "").strip() else "\n")
            given = [part[key] for key in _PART_PICTURES if part.get(key) is not None]
            pictures += [one.get("url", one) if isinstance(one, Mapping) else one for one in given]
        elif isinstance(kind, str) and kind != "text":
            problem = f"turn {index} has a part of type {kind[:20]!r}, not text or image"
            raise wrong(problem, "give parts of these two types")
        else:
            raise wrong(f"turn {index} is not a text of at most {LONGEST_TEXT:,} characters", "give a text")
    if len(text) > LONGEST_TEXT:
        raise wrong(f"turn {index} is not a text of at most {LONGEST_TEXT:,} characters", "give a text")
    return text.strip(), pictures


def _loss(turn: Mapping[str, Any], index: int, wrong: Wrong) -> dict[str, bool]:
    for key in ("loss", "weight"):
        given = turn.get(key)
        if given is not None and given not in (0, 1):
            raise wrong(f"turn {index} has {key} {str(given)[:20]!r}", "give 1 (learned) or 0 (not learned)")
        if given is not None and not given:
            return {"loss": False}
    return {}


def prompt_and_completion(prompt: Any, completion: Any, wrong: Wrong) -> tuple[list[Turn], list[Any]]:
    """Return the turns and pictures of TRL's form: texts, or lists of turns, of which those of `prompt` are given.

    Raises:
        BadInput: as `read_turns`, with the field; `completion` has no answer.
    """

    def part(value: Any, role: str) -> tuple[list[Turn], list[Any]]:
        value = [{"role": role, "content": value}] if isinstance(value, str) else value
        field = "prompt" if role == "user" else "completion"
        return read_turns(value, lambda *said, **more: wrong(*said, **{"field": field} | more))

    given, before = part(prompt, "user")
    learned, after = part(completion, "assistant")
    if not any(turn["role"] == "assistant" for turn in learned):
        raise wrong("has no turn of the assistant's", "give the answer", field="completion")
    given = [turn | ({"loss": False} if turn["role"] == "assistant" else {}) for turn in given]
    return given + learned, before + after


def row_of(turns: list[Turn], pictures: int, wrong: Wrong, *, tokens_needed: bool = False) -> dict[str, list[Turn]]:
    """Return {"prompt", "completion"} of a conversation about so many pictures.

    Args:
        turns: of `read_turns`; a last question without an answer is left out.
        tokens_needed: refuse pictures without tokens, as LLaVA does; else such pictures come first of all.

    Raises:
        BadInput: the turns do not alternate, one is empty, no answer is learned, or tokens and pictures disagree.
    """
    _check_order(turns, wrong)
    if turns[-1]["role"] == "user":
        if pictures and IMAGE_TOKEN in turns[-1]["content"]:
            raise wrong(f"turn {len(turns) - 1} names a picture, but no answer follows", "give the answer")
        turns = turns[:-1]
    check_places(turns, pictures, wrong, tokens_needed)
    contents = placed(turns) if pictures else [turn["content"] for turn in turns]
    first = next(index for index, turn in enumerate(turns) if turn["role"] == "user")
    for index, content in enumerate(contents):
        if not content and not (index == first and pictures):
            raise wrong(f"turn {index} is empty", "drop the turn or the record")
    messages = [
        {"role": turn["role"], "content": content} | ({"loss": False} if turn.get("loss") is False else {})
        for turn, content in zip(turns, contents, strict=True)
    ]
    learned = [i for i, turn in enumerate(messages) if turn["role"] == "assistant" and "loss" not in turn]
    if not learned:
        raise wrong("has no answer to learn", "leave loss or weight out at one answer, or drop the record")
    prompt = [{"role": turn["role"], "content": turn["content"]} for turn in messages[: learned[0]]]
    return {"prompt": prompt, "completion": [_answer(turn) for turn in messages[learned[0] :]]}


def _answer(turn: Turn) -> Turn:
    return turn if turn["role"] == "assistant" else {"role": turn["role"], "content": turn["content"]}


def _check_order(turns: list[Turn], wrong: Wrong) -> None:
    start = int(turns[0]["role"] == "system")
    for index, turn in enumerate(turns[start:], start):
        expected = ("user", "assistant")[(index - start) % 2]
        if turn["role"] != expected:
            theirs = next((own["speaker"] for own in turns if own["role"] == expected), expected)
            named = {"human": "gpt", "gpt": "human"}.get(turn["speaker"], theirs)
            raise wrong(f"turn {index} is from {turn['speaker']!r}, not from {named!r}", "let the two take turns")
    if len(turns) - start < 2:
        raise wrong("is missing, or has no question and answer", FORM)


def chat_of(row: Mapping[str, Any], *, answered: bool) -> list[dict[str, Any]]:
    """Return a row as a chat template takes it: every picture as a part in its place.

    Args:
        row: {"images", "prompt", "completion"}; contents are texts, or lists of parts.
        answered: with the completion, else as the model is asked.

    Raises:
        BadInput: the questions name another number of pictures than the row has, and not none.
    """
    # The answer's turns never move a picture: what is asked is a prefix of what is learned.
    turns = [{"role": turn["role"], "content": _spelled(turn)} for turn in (*row["prompt"], *row["completion"])]
    if pictures := len(row["images"] or ()):
        users = [turn for turn in turns if turn["role"] == "user"]
        named = named_pictures(users)
        if named not in (0, pictures) or not users:
            places = f"{named} places for them" if users else "no user's turn"
            remedy = f"write {IMAGE_TOKEN} once for each picture, or nowhere"
            problem = f"has {pictures} pictures and {places}"
            raise BadInput(problem, remedy=remedy, record=row.get("id"), field="prompt")
        for turn in users if named else users[:1]:
            turn["content"] = [{"type": "image"}] * (0 if named else pictures) + parts_of(turn["content"])
    return turns if answered else turns[: len(row["prompt"])]


def _spelled(turn: Turn) -> str:
    """Return a turn's words with a token in the place of each picture."""
    content = turn["content"] or ""
    return content if isinstance(content, str) else "".join(part.get("text", IMAGE_TOKEN) for part in content)


def each_answer(turns: list[Turn]) -> Iterator[list[Turn]]:
    """Yield, for each answer that is learned, the turns up to it with all answers before it given, not learned."""
    for end, turn in enumerate(turns, 1):
        if turn["role"] == "assistant" and turn.get("loss") is not False:
            yield [own | ({"loss": False} if own["role"] == "assistant" else {}) for own in turns[: end - 1]] + [turn]
