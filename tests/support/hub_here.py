"""A Hub that this very process' client believes in, and something to send it: for faults, which are many and quick."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_mistral.commands import publish as verb
from llava_mistral.local_hub import LocalHub
from llava_mistral.publishing import connection, receiving, upload
from llava_mistral.publishing.connection import connect
from llava_mistral.publishing.upload import publish, tag
from tests.support.hub_requests import wait_until
from tests.support.running import run_here

TOKEN = "hf_" + "T" * 34
CARD = b"---\nlicense: mit\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB


class Clock:
    """Takes the place of the module `time`: to sleep moves `now`, in seconds, and takes no time.

    A thread of a download begins with the time of the main thread, which waits for it: threads that sleep side by side
    are as late as the latest of them.
    """

    def __init__(self):
        self.main, self.latest, self.local = 0.0, 0.0, threading.local()

    @property
    def now(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            return getattr(self.local, "now", self.main)
        self.main = max(self.main, self.latest)
        return self.main

    def sleep(self, seconds: float) -> None:
        self.local.now = self.now + seconds
        self.latest = max(self.latest, self.local.now)

    def monotonic(self) -> float:
        self.sleep(0.001)  # a loop that never sleeps comes to its end, too
        return self.now

    def __getattr__(self, name: str):
        return getattr(time, name)


def patch_clock(monkeypatch) -> Clock:
    """Let our waits and the client's go by a `Clock`; the Hub keeps the real time."""
    from huggingface_hub.utils import _http

    clock = Clock()
    for module in (connection, receiving, upload, _http):
        monkeypatch.setattr(module, "time", clock)
    return clock


@contextmanager
def hub_here(folder, monkeypatch) -> Iterator[LocalHub]:
    """Uploads go through LFS, where faults can strike; nothing is cached outside `folder`."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    with LocalHub(folder / "hub", token=TOKEN) as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        yield hub
    set_client_factory(default_client_factory)


def save_files(folder) -> dict:
    """Path in the repository -> a file or bytes."""
    path = folder / "model.safetensors"
    path.write_bytes(WEIGHTS)
    return {"README.md": CARD, "model.safetensors": path, "config.json": b"{}"}


def send(files, repo_id="owner/name", timeout=30, **options):
    """Publish the files and name their commit, as the verb does."""
    api = connect(timeout)
    done = publish(api, repo_id, "model", lambda head: files, message="Publish", **options)
    tag(api, done, "files-1")
    return done


def stalled_statuses(hub: LocalHub) -> list[int | None]:
    """End the stalls that are still on; the statuses of all stalled requests, None for one that was given up."""
    hub.stopping.set()
    wait_until(lambda: any(request["fault"] for request in hub.requests))
    return [request["status"] for request in hub.requests if request["fault"]]


def push(*arguments) -> str:
    """What the verb `publish` printed, run in this process."""
    return run_here(verb.main, *arguments, "--no_verify").stdout


def there(kind: str = "model") -> dict[str, bytes]:
    """Path -> bytes of what a stranger downloads from me/it."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download("me/it", repo_type=kind))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commits(repo_id="owner/name") -> int:
    """How many commits there are beside the one that made the repository."""
    from huggingface_hub import HfApi

    return len(HfApi(token=TOKEN).list_repo_commits(repo_id)) - 1
