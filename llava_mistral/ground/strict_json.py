"""JSON files read as they are written: no key twice, no NaN, and every fault named in one line."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.bounded import read_bounded

_ARCHIVES = (b"PK\3\4", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")
MOST_BYTES = 4 << 30  # of a file that is read whole
DEEPEST = 100  # lists and objects in each other; Python gives up at some 1,000, where depends on who reads
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | Path) -> Any:
    """Return the contents of a JSON file; a UTF-8 byte order mark is accepted.

    Raises:
        BadInput: the file is missing, empty, not UTF-8, not JSON, nested beyond reason, says NaN or Infinity, holds
            half a character, or names one key twice (Python's own reader would keep the last one without a word).
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput("is a folder, not a JSON file", remedy="name the JSON file inside it", file=path)
    if not path.is_file():
        raise BadInput("no such file", remedy="check the path", file=path)
    try:
        data = read_bounded(path, MOST_BYTES)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(_ARCHIVES):
            raise BadInput("is an archive", remedy="unpack it and name what was in it", file=path) from error
        problem = f"is not UTF-8 text (byte {error.start})"
        raise BadInput(problem, remedy="convert the file to UTF-8", file=path) from error
    if not text.strip():
        raise BadInput("is empty", remedy="write the file again from its source", file=path)
    data = _parse(text, path)
    check_parsed(data, text, path)
    return data


def decoder() -> json.JSONDecoder:
    """Return a decoder that raises `ValueError` for a key written twice, NaN and Infinity."""
    return json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def check_parsed(data: Any, text: str, path: Path, record: int | None = None) -> None:
    """Refuse half a character, which JSON can escape and no file, hash or tokenizer can take; and nesting.

    Raises:
        BadInput: `data`, which was read from `text`, holds one, or is nested too deeply.
    """
    if text.count("[") + text.count("{") > DEEPEST:
        parts = [data]
        for _ in range(DEEPEST + 1):
            parts = [part for whole in parts if isinstance(whole, dict | list) for part in _inside(whole)]
        if parts:
            raise too_deep(path, record)
    if not _SURROGATE.search(text):
        return
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        problem = f"holds half a character ({half!a})"
        raise BadInput(problem, remedy="correct that text", file=path, record=record) from error


def _inside(whole: dict | list) -> Iterable[Any]:
    return whole.values() if isinstance(whole, dict) else whole


def too_deep(path: Path, record: int | None = None) -> BadInput:
    return BadInput("is nested too deeply", remedy="flatten it to the documented form", file=path, record=record)


def _parse(text: str, path: Path) -> Any:
    try:
        return decoder().decode(text)
    except RecursionError as error:
        raise too_deep(path) from error
    except json.JSONDecodeError as error:
        problem = f"is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        raise BadInput(problem, remedy="write the file again from its source", file=path) from error
    except ValueError as error:  # a duplicate key, NaN, or an integer of more digits than Python reads
        raise BadInput(str(error), remedy="correct that value in the file", file=path) from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"the key {twice[:80]!r} is written twice in one object")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
