"""The addresses of the Hub's HTTP API: as many as huggingface_hub, transformers and datasets call.

Read from huggingface_hub 2.4.0 and checked against it; the client's own source is the only full description there is.
"""

from llava_mistral.local_hub import access, reading, writing
from llava_mistral.local_hub.messages import HubError, Reply, Request
from llava_mistral.local_hub.protocol import Hub, Route

ROUTES = (*access.ROUTES, *reading.ROUTES, *writing.ROUTES)


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Return the route of a request and the parts of its path, or the one that answers 404."""
    for candidate in ROUTES:
        if (names := candidate.match(method, path)) is not None:
            return candidate, names
    return _UNKNOWN, {}


def _unknown(hub: Hub, request: Request) -> Reply:
    raise HubError(404, "This Local Hub does not speak that part of the protocol")


_UNKNOWN = Route("unknown", (), "", _unknown, False)
