"""The interface of the Hub's handlers: the hub they receive, and the routes they answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from llava_mistral.local_hub.messages import HubError, Reply, Request
from llava_mistral.local_hub.repository import Entry, Repo
from llava_mistral.local_hub.store import Store

KIND = r"/api/(?P<kind>models|datasets|spaces)"
REPO = KIND + r"/(?P<repo>[^/]+(?:/[^/]+)?)"  # names without an owner ("gpt2") are asked for, and never found here
PAGES = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+(?:/[^/]+?)?)"
REVISION = r"/(?P<revision>[^/]+)"  # percent-encoded by the clients: refs%2Fheads%2Fmain


class Hub(Protocol):
    """The part of the server that a route's function may use: its repositories and its token."""

    store: Store
    user: str


@dataclass(frozen=True)
class Route:
    """An address: its name in fault rules and in the request log, its methods and path, and whether it changes things.

    `function` may raise HubError. Routes that change things need the token, if the server has one.
    """

    name: str
    methods: tuple[str, ...]
    path: str
    function: Callable[[Hub, Request], Reply]
    writes: bool

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the percent-decoded parts of a request path, or None."""
        match = method in self.methods and re.fullmatch(self.path, path)
        return {name: unquote(value or "") for name, value in match.groupdict().items()} if match else None


def route(name: str, methods: str, path: str, writes: bool = False) -> Callable[[Callable], Route]:
    """Make the decorated function the answer at an address."""
    return lambda function: Route(name, tuple(methods.split()), path, function, writes)


def find_repo(hub: Hub, request: Request) -> Repo:
    """Return the repository a request names.

    Raises:
        HubError: there is none, or it is private and the visitor shows no token; the two look alike, as on the Hub.
    """
    repo = hub.store.repo(request.names["kind"] or "models", request.names["repo"])
    if repo is not None and not (repo.settings["private"] and request.visitor == "anonymous"):
        return repo
    if request.visitor == "anonymous":
        raise HubError(401, "Invalid username or password.", "RepoNotFound")
    raise HubError(404, "Repository not found", "RepoNotFound")


def find_commit(hub: Hub, request: Request) -> tuple[Repo, str]:
    """Return the repository and the id of the commit that a request names (the head of main if it names none)."""
    repo = find_repo(hub, request)
    return repo, repo.resolve(request.names.get("revision") or "main")


def entry_not_found(path: str, commit_id: str) -> HubError:
    """Return the 404 for a path; the commit id lets the client remember that the file does not exist."""
    return HubError(404, f"{path} does not exist on this revision", "EntryNotFound", {"X-Repo-Commit": commit_id})


def page_url(base: str, repo: Repo) -> str:
    """Return the address that names a repository to people (and to `create_repo`)."""
    return f"{base}/{'' if repo.kind == 'models' else repo.kind + '/'}{repo.id}"


def known_oid(entry: Entry | None) -> str | None:
    """Return the id by which a client sees that its file is there already: sha256 if large, git's sha1 if not."""
    return entry and (entry.sha256 if entry.lfs else entry.oid)
