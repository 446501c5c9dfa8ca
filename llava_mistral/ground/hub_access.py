"""Whether anybody answers at the Hub's address, found out once and at once.

The client's libraries try each file five times and wait in between; of a machine without a network that makes minutes
of silence and a traceback. Where nobody answers they are told to stay offline: what the cache holds is used, and what
it does not hold is refused at once.
"""

import os
import socket
import sys
import threading
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from llava_mistral.ground.bad_input import BadInput

SECONDS = 6  # until an address counts as unreachable, its name's look-up included
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def reach_hub(name: str | Path | None, kind: str = "model", field: str | None = None) -> None:
    """To be called before `name` is looked up, which may be a folder or file; None for what is on the Hub alone.

    Args:
        kind: of the repository: model or dataset.

    Raises:
        BadInput: nobody answers, and nothing of `name` is in the cache.
    """
    if name is not None and (Path(name).exists() or not _is_hub_id(str(name))):
        return  # what it is, or is not, those who read it say
    nobody = _reach()
    if nobody and name is not None:
        from huggingface_hub.constants import HF_HUB_CACHE

        if not (Path(HF_HUB_CACHE) / f"{kind}s--{str(name).replace('/', '--')}").is_dir():
            problem = f"cannot be loaded from the Hub or from the cache ({nobody})"
            raise BadInput(
                problem, remedy="see to the network or HF_ENDPOINT, or name a folder", file=name, field=field
            )


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def unreachable() -> str | None:
    """In words, that nobody answers at the Hub's address; None where somebody does or nobody has tried."""
    return _reach() if _reach.cache_info().currsize else None


@cache
def _reach() -> str | None:
    """In words, that nobody answers; None where somebody does, or where it is not for this process to find out."""
    from huggingface_hub import constants

    proxied = any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES)
    if constants.HF_HUB_OFFLINE or proxied or (reason := _connected(constants.ENDPOINT)) is None:
        return None
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if datasets := sys.modules.get("datasets"):  # which copied it
        datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
    return f"nobody answers at {constants.ENDPOINT} ({reason})"


def _connected(endpoint: str) -> str | None:
    """None where a connection is accepted, else why there is none."""
    address, found = urlsplit(endpoint), []
    port = address.port or (80 if address.scheme == "http" else 443)

    def connect() -> None:
        try:
            socket.create_connection((address.hostname, port), timeout=SECONDS).close()
            found.append(None)
        except OSError as error:
            found.append(error.strerror or str(error) or type(error).__name__)

    trying = threading.Thread(target=connect, daemon=True)  # a look-up of the name has no time-out of its own
    trying.start()
    trying.join(SECONDS)
    return found[0] if found else f"no connection within {SECONDS} s"
