"""A training row as a conversation: its turns, where its pictures stand, and which of its turns are learned."""

from typing import Any

from llava_mistral.ground.bad_input import BadInput


def conversation(row: dict[str, Any], image_token: str) -> tuple[list[dict], int]:
    """The turns of a row as a chat template takes them, and how many of them are the prompt.

    A picture stands where the words have the image token, or a content part of type `image`. Where they have neither,
    the pictures come before the words of the first user's turn, as LLaVA has them.

    Raises:
        BadInput: there are fewer or more places than pictures.
    """
    turns = [*row["prompt"], *row["completion"]]
    pictures, asked = len(row["images"] or ()), len(row["prompt"])
    users = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    parts = [
        _parts(turn["content"], image_token if pictures and place in users else None)
        for place, turn in enumerate(turns)
    ]
    places = sum(part["type"] == "image" for content in parts for part in content)
    if pictures and not places:
        first = next(iter(users), None)
        if first is None:
            raise BadInput("has pictures and no user's turn", remedy="give a prompt", record=row.get("id"))
        parts[first] = [{"type": "image"}] * pictures + parts[first]
    elif places != pictures:
        raise BadInput(
            f"has {pictures} pictures and {places} places for them",
            remedy=f"write {image_token} once for each picture, or nowhere",
            record=row.get("id"),
            field="prompt",
        )
    turns = [{"role": turn["role"], "content": _worded(content)} for turn, content in zip(turns, parts, strict=True)]
    return turns, asked


def _parts(content: Any, image_token: str | None) -> list[dict[str, str]]:
    """Texts and places of pictures in order; without `image_token` every word is a text."""
    parts = []
    for part in [{"type": "text", "text": content or ""}] if not isinstance(content, list) else content:
        if part["type"] == "image":
            parts.append({"type": "image"})
            continue
        first, *rest = part["text"].split(image_token) if image_token else [part["text"]]
        parts += [{"type": "text", "text": first}] if first else []
        for text in rest:
            leads = not any(part["type"] == "text" for part in parts)
            text = text.removeprefix("\n") if leads else text  # a template ends the line of a leading picture itself
            parts += [{"type": "image"}] + ([{"type": "text", "text": text}] if text else [])
    return parts


def _worded(parts: list[dict[str, str]]) -> str | list[dict[str, str]]:
    if any(part["type"] == "image" for part in parts):
        return parts
    return "".join(part["text"] for part in parts)


def learned_turns(row: dict[str, Any]) -> list[int]:
    """Which turns of `prompt` and `completion`, counted through both, carry loss: the assistant's in the completion.

    A turn with `loss` false or `weight` 0 is not learned.

    Raises:
        BadInput: there is none, one is empty, or a weight is neither 0 nor 1.
    """
    record, learned = row.get("id"), []
    for place, turn in enumerate(row["completion"], len(row["prompt"])):
        weight = turn.get("weight")
        if weight not in (None, 0, 1):
            remedy = "give 0 for a turn that is not learned, or 1"
            raise BadInput(
                f"weight {weight} of a turn cannot be used", remedy=remedy, record=record, field="completion"
            )
        if turn["role"] != "assistant" or weight == 0 or turn.get("loss") is False:
            continue
        if not _text(turn["content"]).strip():
            problem, remedy = "an answer is empty", "give its words, or mark it with loss: false"
            raise BadInput(problem, remedy=remedy, record=record, field="completion")
        learned.append(place)
    if not learned:
        remedy = "give a completion with an assistant's turn that is learned"
        raise BadInput("there is no answer to learn", remedy=remedy, record=record, field="completion")
    return learned


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""
