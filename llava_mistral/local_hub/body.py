"""The body of a request: how long it is, and its bytes, with what a fault does to them on the way."""

import io
import re
from email.message import Message
from typing import BinaryIO

from llava_mistral.local_hub.faults import Fault
from llava_mistral.local_hub.messages import HubError

PIECE = 1 << 20
LINE = 1 << 16  # bytes of a chunk's head or of a trailer


class ConnectionCut(Exception):
    """The connection ends here: the client has gone, or a fault rule says so."""


def body_length(headers: Message) -> int | None:
    """Return the bytes that a request announces, or None where they come in chunks.

    Raises:
        HubError: 400, the length is no number of bytes, or there are two of them.
    """
    if (coding := headers.get("Transfer-Encoding", "").strip().lower()) == "chunked":
        return None
    lengths = {value.strip() for value in headers.get_all("Content-Length", ["0"])}
    if coding or len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,15}", next(iter(lengths)), re.ASCII):
        raise HubError(400, "the request does not say how long its body is")
    return int(lengths.pop())


class Body(io.RawIOBase):
    """The bytes of a request, sent with a length or in chunks, with a fault's cut and flip on the way.

    Raises (from reads):
        ConnectionCut: the client went away or stalled before the end, or the rule cuts here.
    """

    def __init__(self, stream: BinaryIO, length: int | None, method: str, fault: Fault | None):
        self._stream = stream
        self._chunked = length is None
        self._left = length or 0
        self._ended = False
        self._cut = fault.place("cut", "request", method, self._left) if fault else None
        self._flip = fault.place("flip", "request", method, self._left) if fault else None
        self.received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if self._chunked and not self._left and not self._ended:
            self._next_chunk()
        want = min(len(buffer), self._left)
        if self._cut is not None:
            want = min(want, self._cut - self.received)
            if want <= 0:
                raise ConnectionCut
        if want == 0:
            return 0
        try:
            count = self._stream.readinto(memoryview(buffer)[:want])
        except TimeoutError as error:
            raise ConnectionCut from error
        if not count:
            raise ConnectionCut
        if self._flip is not None and self.received <= self._flip < self.received + count:
            buffer[self._flip - self.received] ^= 1
        self.received += count
        self._left -= count
        if self._chunked and not self._left:
            self._line()
        return count

    def _next_chunk(self) -> None:
        head = self._line().split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", head):
            raise ConnectionCut  # where the next request begins is not known
        self._left = int(head, 16)
        if not self._left:
            self._ended = True
            while self._line().strip():  # trailers
                pass

    def _line(self) -> bytes:
        try:
            line = self._stream.readline(LINE)
        except TimeoutError as error:
            raise ConnectionCut from error
        if not line.endswith(b"\n"):
            raise ConnectionCut
        return line

    def drain(self) -> None:
        """Read what is left: an answer sent over an unread body resets the connection and is never seen."""
        waste = bytearray(PIECE)
        while self.readinto(waste):
            pass
