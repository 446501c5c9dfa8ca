"""Refuse requests from other machines and from web pages (DNS rebinding, CSRF); answer programs on this machine.

A page of another origin may send requests to 127.0.0.1, but cannot choose its `Origin` header or, without being asked
first, a content type such as JSON's; a page that had its own name point here (DNS rebinding) names itself in `Host`.
"""

import re
from email.message import Message

from llava_mistral.local_hub.messages import HubError

TYPES = {"application/json", "application/x-ndjson", "application/vnd.git-lfs+json"}
OF_ANY_TYPE = {"put", "paths-info"}  # bytes at an address that was given out; a form, which changes nothing


def check_sender(headers: Message) -> None:
    """Refuse what was not sent to a name of this machine, or was sent by a page of another origin.

    Any port is right in `Host`: a tunnel or a proxy of the user's has its own.

    Raises:
        HubError: 403.
    """
    hosts, origins = (headers.get_all(name, []) for name in ("Host", "Origin"))
    names = [re.fullmatch(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", host.strip().lower()) for host in hosts]
    if len(hosts) > 1 or not all(names):
        raise HubError(403, "This Local Hub is 127.0.0.1 or localhost, and no other host")
    if any(origin.strip().lower() != f"http://{hosts[0].strip().lower() if hosts else ''}" for origin in origins):
        raise HubError(403, "This Local Hub does not answer pages of other origins")


def check_type(headers: Message, method: str, route: str) -> None:
    """Refuse a body of a type that no client of the Hub sends, and that any web page may.

    Raises:
        HubError: 415.
    """
    content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if method not in ("GET", "HEAD") and route not in OF_ANY_TYPE and content_type and content_type not in TYPES:
        raise HubError(415, f"the request body has to be JSON, not {content_type}")
