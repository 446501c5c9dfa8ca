"""One HTTP connection: the rules (sender, token, faults, log) between a request and its answer."""

import hmac
import io
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import BinaryIO
from urllib.parse import parse_qs

from llava_mistral.local_hub.body import PIECE, Body, ConnectionCut, body_length
from llava_mistral.local_hub.faults import Fault
from llava_mistral.local_hub.guard import check_sender, check_type
from llava_mistral.local_hub.messages import HubError, Reply, Request, refusal
from llava_mistral.local_hub.repository import now


class Stream(io.RawIOBase):
    """What comes over a connection; reads end in TimeoutError at `deadline`, or `patience` seconds without a byte."""

    def __init__(self, connection: socket.socket, patience: float):
        self.connection, self.patience, self.deadline = connection, patience, None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        left = self.patience if self.deadline is None else self.deadline - time.monotonic()
        self.connection.settimeout(max(left, 0.001))
        return self.connection.recv_into(buffer)


class Exchange(BaseHTTPRequestHandler):
    """Serves one connection; `self.server.hub` is the LocalHub."""

    protocol_version = "HTTP/1.1"
    server_version = "LocalHub"
    disable_nagle_algorithm = True  # head and body are two writes: 40 ms each without this
    patience = 60.0  # seconds for the head of a request, idle ones before it included, and for a body that stalls

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._stream = Stream(self.connection, self.patience)
        self.rfile = io.BufferedReader(self._stream, PIECE)

    def handle_one_request(self) -> None:
        self._stream.deadline = time.monotonic() + self.patience
        super().handle_one_request()

    def answer(self) -> None:
        hub, started = self.server.hub, time.monotonic()
        self._stream.deadline = None
        path, _, query_text = self.path.partition("?")
        route, names = hub.find_route(self.command, path)
        length, refused = self._look_at_head(route)
        fault = None if refused else hub.faults.take(route.name, self.command, path)
        body = Body(self.rfile, length, self.command, fault)
        query = {name: ",".join(values) for name, values in parse_qs(query_text, keep_blank_values=True).items()}
        record = {"time": now(), "method": self.command, "route": route.name, "path": path}
        record["query"] = {key: "***" if key == "key" else value for key, value in query.items()}
        record["range"] = self.headers.get("Range")
        record["visitor"] = visitor = self._visitor()
        record["fault"] = fault.summary() if fault else None
        try:
            if fault and fault.delay:
                self._stall(fault.delay)
            base = f"http://{self.headers.get('Host') or hub.url.removeprefix('http://')}"
            request = Request(
                self.command, self.headers, path, base, names, query, io.BufferedReader(body, PIECE), visitor
            )
            reply = refusal(refused) if refused else self._carry_out(route, request, fault)
            if refused or reply.status == 413:
                self.close_connection = True  # what is left of the body is not waited for
            else:
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

    def _look_at_head(self, route) -> tuple[int | None, HubError | None]:
        """Return the length of the body, None for chunks, and why the request is not carried out, if it is not."""
        try:
            length = body_length(self.headers)
            check_sender(self.headers)
            check_type(self.headers, self.command, route.name)
            return length, None
        except HubError as error:
            return 0, error

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
        header = self.headers.get("Authorization", "")
        if token is None:
            return "open"
        if not header:
            return "anonymous"
        return "token" if hmac.compare_digest(header.encode(), f"Bearer {token}".encode()) else "wrong"

    def _send(self, reply: Reply, file: BinaryIO, length: int, cut: int | None, flip: int | None) -> None:
        if cut == 0:
            self.close_connection = True
            return
        self.connection.settimeout(self.patience)
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(length), **reply.headers}.items():
                self.send_header(name, value.encode("ascii", "replace").decode())
            self.send_header("X-Content-Type-Options", "nosniff")  # a repository's file is no page of this origin
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self._send_body(file, length if cut is None else min(cut, length), flip)
        except (ConnectionError, TimeoutError):
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
