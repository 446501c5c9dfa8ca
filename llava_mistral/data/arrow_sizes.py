"""How much an Arrow file says that it unpacks to, read from its messages before a buffer of it is touched.

pyarrow unpacks a batch as a whole when it is asked for it, and shows nothing of it before; the few fields that tell
are read here, by https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
and the layout of flatbuffers (a table begins with the distance to its list of field offsets).
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput

LEAST = 256 << 20  # bytes that any file may unpack to
MOST_TIMES = 100  # its size; columns of few different texts pack well
_MAGIC = b"ARROW1"
_DICTIONARY, _BATCH = 2, 3  # kinds of messages


def check_arrow(file: Path) -> None:
    """Refuse an Arrow stream or file that unpacks to more than 256 MiB and more than a hundred times its size.

    A row counts as a byte at least: nulls, runs and empty values take none in a file, and some in a list.

    Raises:
        BadInput: it does, or is no Arrow file.
    """
    size = file.stat().st_size
    most, seen = max(LEAST, MOST_TIMES * size), 0
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for place in _blocks(data) if data[:6] == _MAGIC else _messages(data):
                seen += _unpacked(data, *place)
                if seen > most:
                    problem = f"has {size:,} bytes and unpacks to {seen:,} or more"
                    raise BadInput(problem, remedy="write it again without what repeats", file=file)
    except (struct.error, ValueError, IndexError, OSError) as error:
        if isinstance(error, BadInput):
            raise
        problem = f"is not a complete arrow file ({' '.join(str(error).split())[:120]})"
        raise BadInput(problem, remedy="fetch or write it again", file=file) from error


def _messages(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where each message of a stream has its flatbuffer, and where its body begins."""
    at = 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<i", data, at)
        at += 4
        if length == -1:
            (length,) = struct.unpack_from("<i", data, at)
            at += 4
        if length == 0:
            return
        if length < 0 or at + length > len(data):
            raise ValueError("a message beyond the end")
        yield at, at + length
        body = _scalar(data, _table(data, at), 3, "<q")
        if body < 0:
            raise ValueError("a body of negative length")
        at += length + body


def _blocks(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """The same of a file, whose messages are found by its footer; the readers go by it, too."""
    (length,) = struct.unpack_from("<i", data, len(data) - 10)
    footer = _table(data, len(data) - 10 - length)
    for field in (2, 3):  # dictionaries, record batches
        for at in _vector(data, footer, field, 24):
            offset, metadata = struct.unpack_from("<qi", data, at)
            (first,) = struct.unpack_from("<i", data, offset)
            yield offset + (8 if first == -1 else 4), offset + metadata


def _unpacked(data: mmap.mmap, at: int, body: int) -> int:
    """The bytes that one message unpacks to; 0 of a schema."""
    message = _table(data, at)
    kind = _scalar(data, message, 1, "<B")
    if kind not in (_DICTIONARY, _BATCH):
        return 0
    batch = _inner(data, message, 2)
    if kind == _DICTIONARY:
        batch = _inner(data, batch, 1)
    rows, packed = _scalar(data, batch, 0, "<q"), _inner(data, batch, 3) is not None
    total = sum(abs(struct.unpack_from("<q", data, node)[0]) for node in _vector(data, batch, 1, 16))
    total = max(abs(rows), total)
    for buffer in _vector(data, batch, 2, 16):
        offset, length = struct.unpack_from("<qq", data, buffer)
        size = struct.unpack_from("<q", data, body + offset)[0] if packed and length >= 8 else -1
        total += length if size < 0 else size  # -1: this one is not packed
    return total


def _table(data: mmap.mmap, at: int) -> int:
    return at + struct.unpack_from("<I", data, at)[0]


def _field(data: mmap.mmap, table: int, number: int) -> int | None:
    """Where a table keeps a field; None where it has its default."""
    offsets = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, offsets)[0]:
        return None
    offset = struct.unpack_from("<H", data, offsets + 4 + 2 * number)[0]
    return table + offset if offset else None


def _scalar(data: mmap.mmap, table: int, number: int, kind: str) -> int:
    place = _field(data, table, number)
    return 0 if place is None else struct.unpack_from(kind, data, place)[0]


def _inner(data: mmap.mmap, table: int, number: int) -> int | None:
    place = _field(data, table, number)
    return None if place is None else _table(data, place)


def _vector(data: mmap.mmap, table: int, number: int, size: int) -> Iterator[int]:
    """Where each of the structs of a field lies."""
    if (start := _inner(data, table, number)) is None:
        return
    (count,) = struct.unpack_from("<I", data, start)
    if start + 4 + count * size > len(data):
        raise ValueError("a list beyond the end")
    yield from range(start + 4, start + 4 + count * size, size)
