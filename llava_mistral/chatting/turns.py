"""The turns of a chat: from Gradio's messages to the model's, and the text shown when the model cannot answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_mistral.chatting.answering import Chat
from llava_mistral.ground.bad_input import BadInput

NOTICE = "⚠ "  # begins a turn that is the page's and not the model's
MOST_PICTURES = 8  # of one question, and of what is kept of a chat
MOST_CHARACTERS = 100_000  # of one question


def conversation(message: dict, history: list[dict]) -> list[dict]:
    """Return Gradio's message and history as a chat for the processor's template.

    Questions that the page itself answered, since they could not be put to the model, are left out, and so are turns
    before the last `MOST_PICTURES` pictures.

    Args:
        message: `{"text": words, "files": [paths]}`, the newest question.
        history: `{"role", "content": [{"type": "text", "text"} | {"type": "file", "file": {"path"}}]}` per message.

    Raises:
        BadInput: a file is not a picture, or the question is too long.
    """
    files = message.get("files") or []
    if len(files) > MOST_PICTURES or len(message["text"]) > MOST_CHARACTERS:
        problem = f"the question has {len(message['text']):,} characters and {len(files)} pictures"
        raise BadInput(problem, remedy=f"send at most {MOST_CHARACTERS:,} and {MOST_PICTURES}")
    newest = [*({"type": "file", "file": {"path": path}} for path in files), {"type": "text", "text": message["text"]}]
    turns: list[dict] = []
    for entry in [*history, {"role": "user", "content": newest}]:
        if entry["role"] == "assistant" and _words(entry["content"]).startswith(NOTICE):
            turns = turns[:-1] if turns and turns[-1]["role"] == "user" else turns
        elif turns and turns[-1]["role"] == entry["role"]:  # Gradio keeps each upload as a message of its own
            turns[-1]["content"] += entry["content"]
        else:
            turns.append({"role": entry["role"], "content": list(entry["content"])})
    while sum(part["type"] == "file" for turn in turns for part in turn["content"]) > MOST_PICTURES:
        turns = turns[2:]
    for turn in turns:
        words, files = _words(turn["content"]), [part for part in turn["content"] if part["type"] == "file"]
        turn["content"] = [{"type": "image", "image": _picture(part["file"]["path"])} for part in files]
        turn["content"].append({"type": "text", "text": words})
    return turns


def _words(content: list[dict]) -> str:
    return "\n".join(part["text"].strip() for part in content if part["type"] == "text" and part["text"].strip())


def _picture(path: str) -> Any:
    from llava_mistral.ground.pictures import open_picture  # Pillow is not needed for --help

    try:
        return open_picture(path, file=Path(path).name, field=None)
    except BadInput as error:
        said = error.problem.removeprefix(f"{path} ")
        raise BadInput(
            f"is not a picture that can be shown ({said})", remedy="send another", file=Path(path).name
        ) from None


def respond(chat: Chat, message: dict, history: list[dict]) -> Iterator[str]:
    """Answer one message of the page; an error is shown in place of the answer, so that the chat can go on."""
    answer = ""
    try:
        if not message["text"].strip() and not message.get("files"):
            yield f"{NOTICE}There was no question. Write one, or add a picture."
            return
        for answer in chat.answer(conversation(message, history)):
            yield answer
        if not answer.strip():
            yield f"{NOTICE}The model gave an empty answer. Ask in other words."
    except BadInput as error:
        yield f"{NOTICE}This cannot be answered: {error}."
    except Exception as error:  # whatever a model or a template raises: the reader is told, and asks on
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        stopped = f"{answer}\n\n" if answer else ""
        yield f"{NOTICE}{stopped}The model failed ({type(error).__name__}: {reason}). Ask again, or start a new chat."
