"""Pages that Gradio serves on this machine: who may ask them, what they may load, and which files they show."""

import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.escaping import FRAMED_POLICY, SERVED_POLICY

UPLOAD = "32mb"
MOST_UPLOADED = 8 * (32 << 20)  # bytes at once: the pictures of a question
MOST_ASKED = 32 << 20  # bytes of a question and the chat before it
KEPT = (600, 3600)  # seconds: how often uploads are looked for, and how old they may become
FILES = "/files/"  # of the folder that a page shows, by their paths in it
SHOWN = (".html", ".png")
HERE = ("127.0.0.1", "localhost", "::1")
# Gradio's own ring around what has the focus is a pale shadow, and pictures have a button that uploads them.
STYLE = """
:focus-visible, button:focus-visible, textarea:focus-visible {
  outline: 3px solid #1d4ed8 !important; outline-offset: 2px; }
.dark :focus-visible { outline-color: #93c5fd !important; }
button[aria-label=Share], button[title=Share] { display: none !important; }
"""


class Guarded:
    """Lets in whom a page's server is meant for, bounds what is sent, and says in each answer what the page may load.

    A page of another origin may send requests to this machine, but cannot choose its `Origin`; one that had its own
    name point here (DNS rebinding) names itself in `Host`.

    Args:
        local: answer names of this machine alone, and no page of another origin.
        key: what a link has to carry, so that no other user of this machine may use the page.
        folder: whose reports and charts are shown below `FILES`.
    """

    def __init__(self, app: Any, local: bool = False, key: str | None = None, folder: Path | None = None):
        self.app, self.local, self.key, self.folder = app, local, key, folder

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                own = "; frame-ancestors 'self'" if self.local else ""
                policy = (b"content-security-policy", (SERVED_POLICY + own).encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if (answer := self._own_answer(scope)) is not None:
            return await answer(scope, receive, send)
        most, taken = self._most(scope), 0

        async def bounded() -> dict:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body") or b"")
            return message if taken <= most else {"type": "http.disconnect"}  # it did not say how long it is

        await self.app(scope, bounded, guarded)

    def _most(self, scope: dict) -> int:
        """How many bytes a request may have."""
        return MOST_UPLOADED if scope["path"].rstrip("/").endswith("/upload") else MOST_ASKED

    def _own_answer(self, scope: dict) -> Any:
        """What is answered instead of the page: a refusal, the way in, or a file; None for none."""
        from starlette.requests import HTTPConnection
        from starlette.responses import PlainTextResponse, RedirectResponse

        request = HTTPConnection(scope)
        path, host = unquote(scope["path"]), request.headers.get("host", "").lower()
        origins = request.headers.getlist("origin")
        if self.local and not re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", host):
            return PlainTextResponse("This page is 127.0.0.1 or localhost, and no other host.", 403)
        if self.local and any(origin.lower() != f"http://{host}" for origin in origins):
            return PlainTextResponse("This page does not answer pages of other origins.", 403)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > (most := self._most(scope)):
            return PlainTextResponse(f"A request may have {most:,} bytes.", 413)
        if self.key and path != "/gradio_api/startup-events":  # with which Gradio waits for its own server
            name, given = f"key_{scope['server'][1]}", parse_qs(scope["query_string"].decode("latin-1")).get("key")
            if given and secrets.compare_digest(given[0].encode(), self.key.encode()):
                entered = RedirectResponse("/", 303)  # the key does not stay in the address
                entered.set_cookie(name, self.key, httponly=True, samesite="strict")
                return entered
            if not secrets.compare_digest(request.cookies.get(name, "").encode(), self.key.encode()):
                return PlainTextResponse("Open the whole link that the terminal shows.", 401)
        return self._file(path.removeprefix(FILES)) if self.folder and path.startswith(FILES) else None

    def _file(self, name: str) -> Any:
        from starlette.responses import FileResponse, PlainTextResponse

        folder = self.folder.resolve()
        file = (folder / name).resolve() if "\0" not in name else folder
        if not (file.is_relative_to(folder) and file.suffix in SHOWN and file.is_file()):
            return PlainTextResponse("There is no such report.", 404)
        own = {"Content-Security-Policy": FRAMED_POLICY, "X-Content-Type-Options": "nosniff"}
        return FileResponse(file, headers={**own, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"})


def _sent_here(take: Callable) -> Callable:
    """Take files that were sent: Gradio by itself also fetches an address that a request names in place of one."""

    async def taken(place: Any) -> Any:
        if "://" in str(place):
            raise ValueError(f"{place} is an address; send the file itself")
        return await take(place)

    return taken


def serve(made: Any, *, key: str | None = None, folder: Path | None = None, style: str = "", **options) -> tuple:
    """Start a page as it is meant to be served: bounded uploads, nothing from elsewhere, no public link unasked.

    Args:
        made: `gradio.Blocks`.
        key, folder: see `Guarded`.
        style: CSS of the page.
        options: of Gradio's `launch`.

    Raises:
        BadInput: another program has the port.
    """
    port = options.get("server_port")
    with socket.socket() as probe:
        if port and probe.connect_ex(("127.0.0.1", port)) == 0:
            raise BadInput(f"{port} is in use", remedy="name another, or leave --port out", field="port")
    import gradio as gr
    from starlette.middleware import Middleware

    for part in made.blocks.values():
        part.async_move_resource_to_block_cache = _sent_here(part.async_move_resource_to_block_cache)
    local = options.get("server_name") in HERE and not options.get("share")
    guard = Middleware(Guarded, local=local, key=key, folder=folder)
    return made.queue(max_size=32).launch(
        **{"share": False, **options},
        # Gradio's own theme fetches its fonts from Google.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=STYLE + style,
        footer_links=[],
        max_file_size=UPLOAD,
        app_kwargs={"middleware": [guard]},
    )
