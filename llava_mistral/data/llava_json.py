"""LLaVA-format JSON as training rows, read record by record: the 665k mix is a gigabyte and never lies in memory."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from llava_mistral.data.bad_samples import BadSamples, WrongForm, usable
from llava_mistral.data.json_records import read_records
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder

IMAGE_TOKEN = "<image>"
LONGEST_TEXT = 1_000_000  # characters; the longest conversation of a real set is a tenth of it
FORM = "use LLaVA's form: [{id, image?, conversations: [{from: human|gpt, value}, …]}, …]"
_ROLES = {"human": "user", "gpt": "assistant"}
Row = dict[str, Any]


def json_rows(path: Path, folder: Path, bad: BadSamples) -> Generator[Row, None, int]:
    """Yield the rows of a LLaVA-format JSON file; returns the number of its records.

    Args:
        folder: what the pictures lie below.
        bad: what becomes of records that cannot be used. Absent pictures are named together, after the last record.

    Raises:
        BadInput: the file is no such list (also when bad samples are skipped), or a record cannot be used.
    """
    from tqdm import tqdm

    names, pictures, index = RecordNames(), PictureFolder(folder), -1
    bar = tqdm(total=path.stat().st_size, desc=f"reading {path.name}", unit="B", unit_scale=True, delay=2)
    for index, (record, read) in enumerate(read_records(path)):
        bar.update(read - bar.n)
        yield from usable(bad, partial(_record_rows, record, index, path, pictures, names, bad)) or ()
    bar.close()
    if index < 0:
        raise BadInput("is not a list of records, or an empty one", remedy=FORM, file=path)
    bad.close(index + 1)
    return index + 1


def _record_rows(
    record: Any, index: int, path: Path, folder: PictureFolder, names: "RecordNames", bad: BadSamples
) -> list[Row]:
    _check_record(record, index, path)
    turns, images = record.get("conversations"), _image_names(record, index, path)
    name = names.unique(str(record["id"]), turns, index, path)
    try:
        images = [str(folder.find(_below(folder, image), file=path, record=index)) for image in images]
    except BadInput as error:
        bad.gather(error)
        return []
    return list(conversation_rows(turns, images, name, index, path))


def _below(folder: PictureFolder, name: str) -> str:
    """Return `name` as seen from the folder: many a file says "images/1.png" of the 1.png in `images` beside it."""
    seen = name.removeprefix(f"{folder.root.name}/")
    return name if seen == name or os.path.exists(folder.root / name) else seen


def _check_record(record: Any, index: int, path: Path) -> None:
    if not isinstance(record, dict):
        raise WrongForm("is not an object", remedy=FORM, file=path, record=index)
    if not isinstance(record.get("id"), str | int) or isinstance(record["id"], bool) or record["id"] == "":
        raise WrongForm("is missing or no text", remedy="give each record an id", file=path, record=index, field="id")


def _image_names(record: Row, index: int, path: Path) -> list[str]:
    """Return the pictures of a record; LLaVA-Next files name several in a list."""
    value = record.get("image")
    names = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str) and name for name in names):
        remedy = "give a path below the image folder"
        raise BadInput("is not a path", remedy=remedy, file=path, record=index, field="image")
    return names


class RecordNames:
    """Ids given to records, in a temporary file of SQLite's: a dictionary of 665,000 takes 200 MB.

    LLaVA-665k names its records after pictures, and asks several conversations about one picture under one id; the
    same conversation twice is a fault.
    """

    def __init__(self):
        self._table = sqlite3.connect("", isolation_level=None)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("CREATE TABLE said (name TEXT, what BLOB, PRIMARY KEY (name, what)) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def unique(self, name: str, conversations: Any, index: int, path: Path) -> str:
        """Return `name`, numbered when it is not the first of its kind.

        Raises:
            BadInput: the same name and conversation were there before.
        """
        what = hashlib.blake2b(json.dumps(conversations).encode(), digest_size=16).digest()
        (before,) = self._table.execute("SELECT COUNT(*) FROM said WHERE name = ?", (name,)).fetchone()
        if not self._table.execute("INSERT OR IGNORE INTO said VALUES (?, ?)", (name, what)).rowcount:
            raise BadInput("is there twice", remedy="keep one of the two", file=path, record=index, field="id")
        return name if not before else f"{name}~{before + 1}"


def conversation_rows(turns: Any, images: list[Any], name: str, record: str | int, path: Path) -> Iterator[Row]:
    """Yield one row per answer: the turns before it are the prompt, the pictures come first of all.

    A single answer's row keeps the record's id, further ones are numbered `id#2`, `id#3`, …

    Raises:
        BadInput: the turns are no conversation about as many pictures; `WrongForm` when they are not LLaVA's.
    """
    messages = _messages(turns, len(images), record, path)
    for end in range(1, len(messages), 2):
        row_id = name if end == 1 else f"{name}#{end // 2 + 1}"
        yield {"id": row_id, "images": images, "prompt": messages[:end], "completion": [messages[end]]}


def _messages(turns: Any, images: int, record: str | int, path: Path) -> list[dict[str, str]]:
    """Return the turns as messages without image tokens.

    Takes `<image>` out of the first question, as LLaVA's `preprocess_multimodal` does before it puts it first.
    """

    def wrong(problem: str, remedy: str = FORM, kind: type[BadInput] = BadInput) -> BadInput:
        return kind(problem, remedy=remedy, file=path, record=record, field="conversations")

    if not isinstance(turns, list) or len(turns) < 2:
        raise wrong("is missing, or has no question and answer")
    messages = []
    for index, turn in enumerate(turns):
        role, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        expected = ("human", "gpt")[index % 2]
        if role != expected:
            kind = BadInput if index and isinstance(role, str) and role in _ROLES else WrongForm
            raise wrong(f"turn {index} is from {str(role)[:20]!r}, not from {expected!r}", kind=kind)
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            raise wrong(f"turn {index} is no text of at most {LONGEST_TEXT:,} characters")
        tokens = text.count(IMAGE_TOKEN)
        if tokens != (images if index == 0 else 0):
            named = f"{images} pictures" if index == 0 else "pictures named in the first question only"
            problem = f"turn {index} has {tokens} {IMAGE_TOKEN} tokens and {named}"
            raise wrong(problem, "make tokens and pictures agree")
        content = text.replace(IMAGE_TOKEN, "").strip()
        if not content and not (index == 0 and images):
            raise wrong(f"turn {index} is empty", "drop the turn or the record")
        messages.append({"role": _ROLES[role], "content": content})
    return messages
