"""The server: a store, its rules and its log behind an address on this machine."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.local_hub import xet
from llava_mistral.local_hub.exchange import Exchange
from llava_mistral.local_hub.faults import Fault, Faults
from llava_mistral.local_hub.routes import find_route
from llava_mistral.local_hub.store import Store


class LocalHub:
    """A Hub at `url`, serving the folder `root` from a thread between `start()` and `stop()`, or in a `with` block.

    Args:
        root: the folder that holds the repositories; made if absent.
        port: a TCP port of 127.0.0.1, or 0 for a free one.
        token: what clients must show to write, and to read private repositories; None makes a random one.
        unguarded: ask for no token; who can reach the address can then write.
        faults: the rules to start with; `add_fault` and `clear_faults` change them.
        log: a file to which each request is appended as a line of JSON.
        user: the name of whoever shows the token, and the namespace of repositories created without one.

    `requests` holds the log's records: time, method, route, path, query, range, visitor ("token", "anonymous", "wrong"
    or "open"), fault, status (None when the connection was cut before an answer), received and sent (body bytes) and
    seconds. The token is in none of them.

    Raises:
        BadInput: the folder, the port or the log cannot be had.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        port: int = 0,
        token: str | None = None,
        unguarded: bool = False,
        faults: Iterable[Fault] = (),
        log: str | Path | None = None,
        user: str = "local",
    ):
        self.token, self.user = None if unguarded else token or f"hf_{secrets.token_hex(17)}", user
        self.faults, self.requests = Faults(faults), []
        self.stopping = threading.Event()
        self._log_lock = threading.Lock()
        self._log = _open_log(log)
        self.store = Store(root)
        xet.forget_old_uploads(self.store)
        try:
            self._server = _Server(("127.0.0.1", port), Exchange)
        except (OSError, OverflowError) as error:
            self.store.close()
            raise BadInput(f"port {port} cannot be had", remedy="give a free port, or 0", field="port") from error
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="local-hub", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    find_route = staticmethod(find_route)

    def start(self) -> "LocalHub":
        self._thread.start()
        return self

    def stop(self) -> None:
        """Finish the requests in hand, and let go of the address and the folder."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self.store.close()
        if self._log:
            self._log.close()

    def __enter__(self) -> "LocalHub":
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def add_fault(self, **rule) -> None:
        """Put one more rule in force: the fields of `Fault`."""
        self.faults.add(Fault(**rule))

    def clear_faults(self) -> None:
        self.faults.clear()

    def environment(self, home: str | Path, *, xet: bool = True) -> dict[str, str]:
        """Return the environment for a child process that shall know this Hub and no other.

        Args:
            home: the child's HF_HOME; an empty folder is a machine that has downloaded nothing yet.
            xet: False makes huggingface_hub upload through LFS, whose bytes pass over HTTP, where faults can strike.
        """
        dropped = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(dropped)}
        ours = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",  # the commands would ask PyPI for a newer version
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets would call a counter on another host
            "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers would ask the Hub to convert checkpoints
        }
        if self.token is not None:
            ours["HF_TOKEN"] = self.token
        if not xet:
            ours["HF_HUB_DISABLE_XET"] = "1"
        return {**kept, **ours}

    def note(self, record: dict, started: float) -> None:
        """Add a request to the log."""
        record = {**record, "seconds": round(time.monotonic() - started, 4)}
        record["path"] = self._without_token(record["path"])
        record["query"] = {key: self._without_token(value) for key, value in record["query"].items()}
        with self._log_lock:
            self.requests.append(record)
            if self._log and not self._log.closed:
                print(json.dumps(record), file=self._log, flush=True)

    def _without_token(self, text: str) -> str:
        """A client may put its token into an address."""
        return text.replace(self.token, "***") if self.token else text


def _open_log(path: str | Path | None):
    try:
        return open(path, "a", encoding="utf-8") if path else None
    except OSError as error:
        raise BadInput(str(error.strerror), remedy="name a log file that can be written", file=path) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args):
        self._serving: dict[socket.socket, threading.Thread] = {}
        super().__init__(*args)

    def process_request(self, request, client_address) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._serving[request] = thread
        thread.start()

    def shutdown_request(self, request) -> None:
        self._serving.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Take no more requests, finish the answers in hand, then end what does not end by itself."""
        super().server_close()
        for how, patience in ((socket.SHUT_RD, 5), (socket.SHUT_RDWR, 1)):
            serving = list(self._serving.items())
            for connection, _ in serving:
                with suppress(OSError):
                    connection.shutdown(how)
            for _, thread in serving:
                thread.join(patience)

    def handle_error(self, request, client_address) -> None:
        """A connection that breaks is a client's affair; everything else is answered as a 500."""
