"""Access rules: private repositories look absent without the token, and gated ones refuse their files."""

from llava_mistral.local_hub.messages import HubError, Reply, Request
from llava_mistral.local_hub.protocol import REPO, Hub, find_repo, route
from llava_mistral.local_hub.repository import Repo

VISIBILITIES = {"public": False, "private": True}
GATES = (False, "auto", "manual")


@route("settings", "PUT", REPO + "/settings", writes=True)
def settings(hub: Hub, request: Request) -> Reply:
    """Change who may see a repository."""
    repo, fields = find_repo(hub, request), request.json()
    changes = {}
    if "visibility" in fields or "private" in fields:
        private = VISIBILITIES.get(fields["visibility"]) if "visibility" in fields else fields["private"]
        if not isinstance(private, bool):
            raise HubError(400, f"Invalid visibility: {fields.get('visibility', fields.get('private'))}")
        changes["private"] = private
    if "gated" in fields:
        if fields["gated"] not in GATES:
            raise HubError(400, f"Invalid gated status: {fields['gated']}")
        changes["gated"] = fields["gated"]
    with hub.store.lock:
        repo.change_settings(**changes)
    return Reply(repo.settings)


@route("auth-check", "GET", REPO + "/auth-check(?P<write>/write)?")
def auth_check(hub: Hub, request: Request) -> Reply:
    repo = find_repo(hub, request)
    if request.names["write"] and request.visitor == "anonymous":
        raise HubError(401, "Invalid username or password.")
    pass_gate(repo, request)
    return Reply({})


def pass_gate(repo: Repo, request: Request) -> None:
    """Refuse a gated repository's files to a visitor without the token, who may see that they are there.

    Raises:
        HubError: GatedRepo.
    """
    if repo.settings["gated"] and request.visitor == "anonymous":
        message = (
            f"Access to {repo.kind.removesuffix('s')} {repo.id} is restricted. You must be authenticated to access it."
        )
        raise HubError(401, message, "GatedRepo")


ROUTES = (
    settings,
    auth_check,
)
