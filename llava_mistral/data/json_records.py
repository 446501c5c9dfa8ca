"""The records of a JSON list, or of JSON lines: a file of any size is read in the memory of its longest record.

`json`'s own decoder reads each record out of a buffer, under the rules of `strict_json`. Streaming parsers (ijson,
msgspec, orjson) keep the last of two equal keys without a word, so none of them is used.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.bounded import check_hole
from llava_mistral.ground.strict_json import check_parsed, decoder, too_deep

CHUNK = 1 << 20  # bytes read at a time
LONGEST_RECORD = 64 << 20  # characters
_SPACE = " \t\n\r"
_AGAIN = "write the file again from its source"


def first_sign(path: str | Path) -> str:
    """Return the first character of a text file that is no space ("[" of a list); "" when there is none."""
    check_hole(path)
    text = codecs.getincrementaldecoder("utf-8-sig")("replace")
    with Path(path).open("rb") as file:
        while part := file.read(4096):
            if sign := text.decode(part).lstrip(_SPACE)[:1]:
                return sign
    return ""


def read_records(path: str | Path) -> Iterator[tuple[Any, int]]:
    """Yield (record, bytes of the file read so far) of a JSON file whose top level is a list.

    Raises:
        BadInput: as `strict_json.read_json`, and for a record of more than 64 million characters. Records before the
            fault have been yielded by then.
    """
    path = Path(path)
    with path.open("rb") as file:
        text = _Text(file, path)
        if text.next_sign() != "[":
            raise BadInput("is not a list of records", remedy=_AGAIN, file=path)
        text.take()
        if text.next_sign() == "]":
            text.take()
        else:
            yield from _items(text)
        if text.next_sign():
            raise text.wrong("there is more after the end of the list")


def read_lines(path: str | Path) -> Iterator[tuple[Any, int]]:
    """Yield (record, bytes of the file read so far) of a file of JSON lines; empty lines are passed over.

    Raises:
        BadInput: as `read_records`.
    """
    path, json_decoder, read, index = Path(path), decoder(), 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_RECORD), b""), 1):
            read += len(line)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                record = json_decoder.decode(text) if text else None
            except UnicodeDecodeError as error:
                remedy = "convert the file to UTF-8"
                raise BadInput(f"is not UTF-8 text (line {number})", remedy=remedy, file=path) from error
            except json.JSONDecodeError as error:
                problem = f"is not valid JSON at line {number}: {error.msg}"
                raise BadInput(problem, remedy=_AGAIN, file=path) from error
            except RecursionError as error:
                raise too_deep(path, index) from error
            except ValueError as error:
                remedy = "correct that value in the file"
                raise BadInput(str(error), remedy=remedy, file=path, record=index) from error
            if text:
                check_parsed(record, text, path, index)
                yield record, read
                index += 1


def is_lines(path: Path) -> bool:
    """Whether a file is of JSON lines: by its name, or because its first line is an object and another follows."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return True
    if first_sign(path) != "{":
        return False
    with path.open("rb") as file:
        first, second = file.readline(LONGEST_RECORD), file.readline(LONGEST_RECORD)
    try:
        return isinstance(json.loads(first), dict) and isinstance(json.loads(second), dict)
    except (ValueError, RecursionError):
        return False


def _items(text: "_Text") -> Iterator[tuple[Any, int]]:
    index = 0
    while True:
        yield text.value(index), text.bytes
        index += 1
        sign = text.next_sign()
        if sign not in (",", "]"):
            raise text.wrong("expected ',' or the end of the list")
        text.take()
        if sign == "]":
            return


class _Text:
    """A window over the decoded file that moves on by values."""

    def __init__(self, file: Any, path: Path):
        self.file, self.path, self.bytes, self.line = file, path, 0, 1
        self.window, self.at, self.ended = "", 0, False
        self._utf8, self._json = codecs.getincrementaldecoder("utf-8-sig")(), decoder()

    def next_sign(self) -> str:
        """Return the next character that is no space, without taking it; "" at the end of the file."""
        while True:
            while self.at < len(self.window) and self.window[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.window) or self.ended:
                return self.window[self.at : self.at + 1]
            self._read(CHUNK)

    def take(self) -> None:
        self.at += 1

    def value(self, index: int) -> Any:
        """Return the JSON value that comes next, reading on until it is whole."""
        sign, size = self.next_sign(), CHUNK
        if sign and sign not in '{["-tfnNI0123456789':
            raise self.wrong("expected a value")
        while True:
            try:
                value, end = self._json.raw_decode(self.window, self.at)
            except json.JSONDecodeError as error:
                if self.ended:
                    raise self.wrong(error.msg, error.pos) from error
                self._grow(index, size)
                size *= 2  # so that a long record is parsed a few times, not once for each chunk
                continue
            except RecursionError as error:
                raise too_deep(self.path, index) from error
            except ValueError as error:  # a duplicate key, NaN, or an integer of more digits than Python reads
                remedy = "correct that value in the file"
                raise BadInput(str(error), remedy=remedy, file=self.path, record=index) from error
            if end < len(self.window) or self.ended:
                check_parsed(value, self.window[self.at : end], self.path, index)
                self.at = end
                return value
            self._grow(index, size)  # a number may go on in the next chunk

    def _grow(self, index: int, size: int) -> None:
        if len(self.window) - self.at > LONGEST_RECORD:
            problem = f"is not a complete record within {LONGEST_RECORD:,} characters"
            raise BadInput(problem, remedy=_AGAIN, file=self.path, record=index)
        self._read(size)

    def _read(self, size: int) -> None:
        data = self.file.read(size)
        self.ended = not data
        self.line += self.window.count("\n", 0, self.at)
        try:
            self.window = self.window[self.at :] + self._utf8.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 text (near byte {self.bytes + error.start})"
            raise BadInput(problem, remedy="convert the file to UTF-8", file=self.path) from error
        self.bytes += len(data)
        self.at = 0

    def wrong(self, problem: str, at: int | None = None) -> BadInput:
        at = self.at if at is None else at
        line = self.line + self.window.count("\n", 0, at)
        return BadInput(f"is not valid JSON at line {line}: {problem}", remedy=_AGAIN, file=self.path)
