"""JSON files, read strictly (no key twice, no NaN, every fault named in one line) and written in one layout."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.bounded import read_bounded
from llava_mistral.ground.whole_file import write_whole

ARCHIVES = (b"PK\3\4", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")
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
        if data.startswith(ARCHIVES):
            raise BadInput("is an archive", remedy="unpack it and name what was in it", file=path) from error
        problem = f"is not UTF-8 text (byte {error.start})"
        raise BadInput(problem, remedy="convert the file to UTF-8", file=path) from error
    if not text.strip():
        raise BadInput("is empty", remedy="write the file again from its source", file=path)
    data = _parse(text, path)
    check_parsed(data, text, path)
    return data


def read_object(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file of a checkpoint, as leniently as the libraries that wrote it: NaN is a number.

    Raises:
        BadInput: the file is absent, is not JSON, or holds something else.
    """
    try:
        return parse_object(read_bounded(path), path)
    except FileNotFoundError:
        raise BadInput("does not exist", remedy="name an existing file", file=path) from None


def parse_object(data: bytes, file: str | Path) -> dict[str, Any]:
    """Return the object in the bytes of a JSON file, as `read_object` does."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"is not valid JSON ({error})", remedy="write it again from its source", file=file) from error
    if not isinstance(value, dict):
        raise BadInput("is not a JSON object", remedy="write it again from its source", file=file)
    return value


def as_json(value: Any) -> str:
    """Return `value` as JSON in one fixed layout, so that the same content is the same file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    write_whole(path, as_json(value))


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
