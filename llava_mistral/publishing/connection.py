"""Talking to a Hub that may stall, fail or refuse: time-outs, tries that end, and errors that say what to do.

What huggingface_hub 2.4 leaves to its caller (measured): requests wait without limit (its client has no time-out), a
commit and a download are not tried again after a 5xx, and the retries it does make know nothing of each other.
"""

import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.hub_access import reach_hub, unreachable

TRANSIENT = {408, 429, 500, 502, 503, 504}
NOTICED = 5  # seconds after which a wait is explained
FAILING_SECONDS = 35  # how long one route may go on failing before we say so


class HubError(RuntimeError):
    """The Hub, or the way to it, failed for longer than it is worth waiting; nothing half-done is visible there."""


class Unreachable(HubError):
    """Raised inside a request whose route has been failing for FAILING_SECONDS: ends the client's own retries."""


class TryAgain(Exception):
    """A passing failure of something that must be looked at before it is sent again.

    Attributes:
        seconds: how long to wait before.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds


def connect(timeout: float = 30):
    """The Hub client of this process: the token from the environment or the client's own store, and time-outs.

    Args:
        timeout: seconds without a byte after which a request is given up and tried again.

    Raises:
        BadInput: there is no token, the Hub is unreachable, or offline mode is set.
    """
    from huggingface_hub import HfApi, constants, get_token, set_client_factory

    if constants.HF_HUB_OFFLINE:
        raise BadInput("HF_HUB_OFFLINE forbids every request", remedy="unset it to publish", field="HF_HUB_OFFLINE")
    if not get_token():
        raise BadInput("there is no token to publish with", remedy="set HF_TOKEN or run `hf auth login`")
    reach_hub(None)
    if nobody := unreachable():
        raise BadInput(nobody, remedy="check the network and HF_ENDPOINT, and run the same command again")
    set_client_factory(lambda: _client(timeout, _Patience()))
    return HfApi()


def call(action: Callable[[], Any], repo_id: str) -> Any:
    """Call the Hub; retry transient failures, and raise other ones with a plain message.

    Raises:
        BadInput: the Hub refuses the token, the repository or what was sent.
        HubError: it kept failing.
    """
    started, attempt = time.monotonic(), 0
    while True:
        try:
            return once(action, repo_id, attempt)
        except TryAgain as again:
            if time.monotonic() - started > 3 * FAILING_SECONDS:
                raise explained(again.__cause__, repo_id) from again.__cause__
            wait(again)
            attempt += 1


def once(action: Callable[[], Any], repo_id: str, attempt: int = 0) -> Any:
    """Like `call`, for what must not simply be sent again: a passing failure raises `TryAgain`.

    Args:
        attempt: how many times it has failed already; the wait doubles with it.
    """
    try:
        return action()
    except Exception as error:
        if not _is_passing(error):
            raise explained(error, repo_id) from error
        conflict = is_conflict(error)  # others are committing: spread out, do not queue up
        raise TryAgain(
            random.uniform(0.05, 0.5) if conflict else max(_asked_wait(error), min(2**attempt, 8))
        ) from error


def wait(again: TryAgain) -> None:
    """Wait before the next try; a wait that a reader would wonder about says what it is for."""
    if again.seconds > NOTICED:
        print(f"the Hub: {_message(again.__cause__)}; trying again in {again.seconds:.0f} s", file=sys.stderr)
    time.sleep(again.seconds)


class _Patience:
    """Counts how long each route has been failing, across the client's retries and ours, and ends them in time.

    What takes longer than a reader expects is said once: an answer that does not come, a route that keeps failing.
    """

    def __init__(self):
        self.lock, self.pending, self.failing = threading.Lock(), set(), {}
        self.timers, self.reported = {}, set()

    def before(self, request) -> None:
        route = (request.method, request.url.path)
        if request.method != "PUT":  # an upload has a bar of its own
            timer = threading.Timer(NOTICED, self._say, (route, "waiting for an answer to"))
            timer.daemon = True
            timer.start()
            if earlier := self.timers.pop(route, None):
                earlier.cancel()
            self.timers[route] = timer
        with self.lock:
            if route in self.pending:  # the last one got no answer at all
                self.failing.setdefault(route, time.monotonic())
            self.pending.add(route)
            since = self.failing.get(route)
        if since is not None and time.monotonic() - since > FAILING_SECONDS:
            raise Unreachable(f"{request.method} {request.url.path} has failed for {FAILING_SECONDS} s")

    def after(self, response) -> None:
        route = (response.request.method, response.request.url.path)
        if timer := self.timers.pop(route, None):
            timer.cancel()
        if time.monotonic() - self.failing.get(route, time.monotonic()) > NOTICED:
            self._say(route, f"the Hub answers {response.status_code}; for up to {FAILING_SECONDS} s tries again")
        with self.lock:
            self.pending.discard(route)
            if response.status_code in TRANSIENT:
                self.failing.setdefault(route, time.monotonic())
            else:
                self.failing.pop(route, None)
        wait = response.headers.get("Retry-After", "0")
        if response.status_code in TRANSIENT and wait.isdigit() and int(wait) > FAILING_SECONDS:
            raise Unreachable(f"the Hub asks to come back in {wait} s")

    def _say(self, route: tuple[str, str], what: str) -> None:
        if route not in self.reported:
            self.reported.add(route)
            print(f"{what} {route[0]} {route[1]}", file=sys.stderr, flush=True)


def _client(timeout: float, patience: _Patience):
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.utils._http import hf_request_event_hook

    limits = httpx2.Timeout(timeout, connect=min(timeout, 10))

    def limit(request) -> None:  # some calls (repo_info) pass timeout=None, which overrules the client's own
        asked = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            kind: asked.get(kind) or seconds for kind, seconds in limits.as_dict().items()
        }

    def keep_token(request) -> None:  # the client shows it to whatever address a Hub gives for verifying an upload
        if request.url.origin != httpx2.URL(constants.ENDPOINT).origin:
            request.headers.pop("Authorization", None)

    return httpx2.Client(
        event_hooks={
            "request": [hf_request_event_hook, limit, keep_token, patience.before],
            "response": [patience.after],
        },
        follow_redirects=True,
        timeout=limits,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    from huggingface_hub.errors import HfHubHTTPError

    found = next((e for e in _chain(error) if isinstance(e, HfHubHTTPError) and e.response is not None), None)
    if found is not None:
        return found.response.status_code
    for message in map(str, _chain(error)):  # the Xet client's own requests: a ConnectionError, its status in words
        if numbers := re.search(r"HTTP status (?:client|server) error \((\d{3})\b", message):
            return int(numbers[1])
    return None


def is_conflict(error: BaseException) -> bool:
    """Whether somebody else committed first."""
    return _status(error) in (409, 412)


def _asked_wait(error: BaseException) -> float:
    response = next((e.response for e in _chain(error) if getattr(e, "response", None) is not None), None)
    seconds = response.headers.get("Retry-After", "0") if response is not None else "0"
    return float(seconds) if seconds.isdigit() else 0.0


def _is_passing(error: BaseException) -> bool:
    import httpx2

    if any(isinstance(e, Unreachable | BadInput) for e in _chain(error)):
        return False
    if (status := _status(error)) is not None:
        return status in TRANSIENT | {409, 412}
    cut = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, ConnectionError)
    return any(isinstance(e, cut) for e in _chain(error))


def explained(error: BaseException, repo_id: str) -> Exception:
    """The error a user can act on, one for each thing that can be wrong; never with a header or a token in it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    kinds = {type(e) for e in _chain(error)}
    status, message = _status(error), _message(error)
    if isinstance(error, BadInput | HubError) and not isinstance(error, Unreachable):
        return error
    if GatedRepoError in kinds:
        return BadInput(f"{repo_id} is gated", remedy="ask for access on its page, or use another repository")
    if status == 401 and RepositoryNotFoundError not in kinds:
        return BadInput(
            "the Hub does not accept the token", remedy="set HF_TOKEN to a valid one or run `hf auth login`"
        )
    if status == 403:
        return BadInput(
            f"the token may not write to {repo_id}",
            remedy="use a token with write access, or a repository of your own",
        )
    if RepositoryNotFoundError in kinds or status == 404 and RevisionNotFoundError not in kinds:
        return BadInput(
            f"{repo_id} does not exist, or the token cannot see it", remedy="check the name and the token's rights"
        )
    if RevisionNotFoundError in kinds:
        return BadInput(f"{repo_id} has no such revision", remedy="publish to a repository with a main branch")
    if status == 400:
        return BadInput(f"the Hub refuses this ({message})", remedy="correct what it names")
    if status is not None and status not in TRANSIENT:
        return HubError(f"the Hub answers {status} ({message}); see its status page, or run again with --verbose")
    wire = any(isinstance(e, Unreachable | ConnectionError) or "httpx" in type(e).__module__ for e in _chain(error))
    if status is None and not wire:
        return error if isinstance(error, Exception) else HubError(message)
    return HubError(
        f"the Hub kept failing ({message}); nothing half-sent is visible there; run the same command again to go on"
    )


def _message(error: BaseException) -> str:
    """The innermost plain sentence of an error, in one line, with the token taken out should a server echo it."""
    from huggingface_hub import get_token

    last = next((e for e in _chain(error) if isinstance(e, Unreachable)), error)
    text = " ".join((str(last) or type(last).__name__).split())[:300]
    token = get_token()
    return text.replace(token, "<token>") if token else text
