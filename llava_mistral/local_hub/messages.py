"""The request of a route's function, its reply, and its refusal."""

import io
import json
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import BinaryIO

MOST = 16 << 20  # bytes of a body that is read as a whole; files come line by line (commit) or in pieces (put)


class HubError(Exception):
    """A refusal in the Hub's own words: HTTP status, `X-Error-Code` ("" for none), message and further JSON."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers, self.body = headers or {}, body


@dataclass
class Reply:
    """An answer. `content` is JSON (any value), bytes, or (file, first byte, count) to be sent from disk."""

    content: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def open(self) -> tuple[BinaryIO, int]:
        """Return the body as an open binary file and its length in bytes."""
        if isinstance(self.content, tuple):
            path, first, count = self.content
            file = open(path, "rb")  # noqa: SIM115  closed by the sender
            file.seek(first)
            return file, count
        if isinstance(self.content, bytes):
            return io.BytesIO(self.content), len(self.content)
        self.headers.setdefault("Content-Type", "application/json; charset=utf-8")
        content = json.dumps(self.content).encode()
        return io.BytesIO(content), len(content)


def refusal(error: HubError) -> Reply:
    message = " ".join(error.message.split())
    headers = {"X-Error-Message": message, **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return Reply({"error": message, **error.body}, error.status, headers)


@dataclass
class Request:
    """What a route's function gets besides the hub itself."""

    method: str
    headers: Message
    path: str
    base: str  # "http://127.0.0.1:8000", as the client calls this server
    names: dict[str, str]  # the parts of the path, percent-decoded
    query: dict[str, str]
    body: io.BufferedReader
    visitor: str  # "token", "anonymous", or "open" when the server asks for none

    def read(self) -> bytes:
        """Return the whole body.

        Raises:
            HubError: 413, it is larger than any client's.
        """
        content = self.body.read(MOST + 1)
        if len(content) > MOST:
            raise HubError(413, f"the request body is larger than {MOST} bytes")
        return content

    def json(self) -> dict:
        value = json.loads(self.read() or b"{}")
        if not isinstance(value, dict):
            raise HubError(400, "the request body is not a JSON object")
        return value

    def asks(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("true", "1")


def file_reply(path: Path, size: int, byte_range: str | None, headers: dict[str, str]) -> Reply:
    """Return a file, or the one range of it that a `Range` header asks for.

    Raises:
        HubError: 416, the range lies outside the file.
    """
    headers = {"Accept-Ranges": "bytes", **headers}
    unit, _, span = (byte_range or "").partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip() != "bytes" or not dash or "," in span or not (first + last).isdigit():
        return Reply((path, 0, size), 200, headers)
    start, end = (int(first), int(last or size - 1)) if first else (max(size - int(last), 0), size - 1)
    end = min(end, size - 1)
    if start > end:
        raise HubError(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Reply((path, start, end - start + 1), 206, headers)
