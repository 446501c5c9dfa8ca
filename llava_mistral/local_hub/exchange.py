"""One HTTP request and its answer: the body in, the rules (token, faults, log) in between, the body out."""

import hmac
import io
import json
import time
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

from llava_mistral.local_hub.errors import HubError
from llava_mistral.local_hub.faults import Fault
from llava_mistral.local_hub.repository import now

PIECE = 1 << 20


class ConnectionCut(Exception):
    """The connection ends here: the client has gone, or a fault rule says so."""


class Body(io.RawIOBase):
    """The bytes of a request, sent with a length or in chunks, with a fault's cut and flip on the way.

    Raises (from reads):
        ConnectionCut: the client went away before the end, or the rule cuts here.
    """

    def __init__(self, stream: BinaryIO, headers: Message, method: str, fault: Fault | None):
        self._stream = stream
        self._chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self._left = 0 if self._chunked else max(int(headers.get("Content-Length") or 0), 0)
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
        count = self._stream.readinto(memoryview(buffer)[:want])
        if not count:
            raise ConnectionCut
        if self._flip is not None and self.received <= self._flip < self.received + count:
            buffer[self._flip - self.received] ^= 1
        self.received += count
        self._left -= count
        if self._chunked and not self._left:
            self._stream.readline()
        return count

    def _next_chunk(self) -> None:
        line = self._stream.readline()
        if not line:
            raise ConnectionCut
        self._left = int(line.split(b";")[0], 16)
        if not self._left:
            self._ended = True
            while self._stream.readline().strip():  # trailers
                pass

    def drain(self) -> None:
        """Read what is left: an answer sent over an unread body resets the connection and is never seen."""
        waste = bytearray(PIECE)
        while self.readinto(waste):
            pass


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

    def json(self) -> dict:
        value = json.loads(self.body.read() or b"{}")
        if not isinstance(value, dict):
            raise HubError(400, "the request body is not a JSON object")
        return value

    def asks(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("true", "1")


class Exchange(BaseHTTPRequestHandler):
    """Serves one connection; `self.server.hub` is the LocalHub."""

    protocol_version = "HTTP/1.1"
    server_version = "LocalHub"
    disable_nagle_algorithm = True  # head and body are two writes: 40 ms each without this
    rbufsize = PIECE

    def answer(self) -> None:
        hub, started = self.server.hub, time.monotonic()
        url = urlsplit(self.path)
        route, names = hub.find_route(self.command, url.path)
        fault = hub.faults.take(route.name, self.command, url.path)
        body = Body(self.rfile, self.headers, self.command, fault)
        query = {name: ",".join(values) for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        record = {"time": now(), "method": self.command, "route": route.name, "path": url.path}
        record["query"] = {key: "***" if key == "key" else value for key, value in query.items()}
        record["range"] = self.headers.get("Range")
        record["visitor"] = visitor = self._visitor()
        record["fault"] = fault.summary() if fault else None
        try:
            if fault and fault.delay:
                self._stall(fault.delay)
            base = f"http://{self.headers.get('Host') or hub.url.removeprefix('http://')}"
            request = Request(
                self.command, self.headers, url.path, base, names, query, io.BufferedReader(body, PIECE), visitor
            )
            reply = self._carry_out(route, request, fault)
            body.drain()
            file, length = reply.open()
        except (ConnectionCut, ConnectionError):
            self.close_connection = True
            hub.note({**record, "status": None, "received": body.received, "sent": 0}, started)
            return
        with file:
            cut = fault.place("cut", "response", self.command, length) if fault else None
            sent = 0 if self.command == "HEAD" else length if cut is None else min(cut, length)
            status = None if cut == 0 else reply.status
            # Noted before it is sent, so that a client that has its answer finds it in the log.
            hub.note({**record, "status": status, "received": body.received, "sent": sent}, started)
            flip = fault.place("flip", "response", self.command, length) if fault else None
            self._send(reply, file, length, cut, flip)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _carry_out(self, route, request: Request, fault: Fault | None) -> Reply:
        try:
            if fault and fault.status:
                retry = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                raise HubError(fault.status, fault.message, headers={**retry, **fault.headers})
            if request.visitor == "wrong":
                raise HubError(401, "Invalid credentials in Authorization header")
            if route.writes and request.visitor == "anonymous":
                raise HubError(401, "Invalid username or password.")
            return route.function(self.server.hub, request)
        except HubError as error:
            return refusal(error)
        except (ConnectionCut, ConnectionError):
            raise
        except (KeyError, TypeError, ValueError) as error:
            return refusal(HubError(400, f"the request has not the form the Hub expects: {error!r}"))
        except Exception as error:
            return refusal(HubError(500, f"{type(error).__name__}: {error}"))

    def _stall(self, seconds: float) -> None:
        if self.server.hub.stopping.wait(seconds):
            raise ConnectionCut

    def _visitor(self) -> str:
        token = self.server.hub.token
        given = self.headers.get("Authorization", "")
        if token is None:
            return "open"
        if not given:
            return "anonymous"
        return "token" if hmac.compare_digest(given.encode(), f"Bearer {token}".encode()) else "wrong"

    def _send(self, reply: Reply, file: BinaryIO, length: int, cut: int | None, flip: int | None) -> None:
        if cut == 0:
            self.close_connection = True
            return
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(length), **reply.headers}.items():
                self.send_header(name, value.encode("ascii", "replace").decode())
            self.end_headers()
            if self.command != "HEAD":
                self._send_body(file, length if cut is None else min(cut, length), flip)
        except ConnectionError:
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def _send_body(self, file: BinaryIO, count: int, flip: int | None) -> None:
        at = 0
        while at < count:
            piece = bytearray(file.read(min(PIECE, count - at)))
            if not piece:
                raise ConnectionAbortedError  # the file shrank: end the connection rather than wait for ever
            if flip is not None and at <= flip < at + len(piece):
                piece[flip - at] ^= 1
            self.wfile.write(piece)
            at += len(piece)

    def log_message(self, *_) -> None:
        """The request log takes the place of lines on standard error."""


def file_reply(path: Path, size: int, wanted: str | None, headers: dict[str, str]) -> Reply:
    """Return a file, or the one range of it that a `Range` header asks for.

    Raises:
        HubError: 416, the range lies outside the file.
    """
    headers = {"Accept-Ranges": "bytes", **headers}
    unit, _, span = (wanted or "").partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip() != "bytes" or not dash or "," in span or not (first + last).isdigit():
        return Reply((path, 0, size), 200, headers)
    start, end = (int(first), int(last or size - 1)) if first else (max(size - int(last), 0), size - 1)
    end = min(end, size - 1)
    if start > end:
        raise HubError(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Reply((path, start, end - start + 1), 206, headers)
