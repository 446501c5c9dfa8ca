"""The environment of a process that runs foreign code: without tokens, keys, and the variables that lead to them.

Such code has the user's rights and can read any file; what is done here keeps it from being handed the logins.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence

from llava_mistral.ground.foreign_code import FLAG

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(API|ACCESS|AUTH|PRIVATE)_?KEY", re.IGNORECASE)
_AGENTS = {"SSH_AUTH_SOCK", "SSH_ASKPASS", "GIT_ASKPASS", "KUBECONFIG", "DOCKER_CONFIG"}  # what signs for the user
_NO_LOGINS = {
    **dict.fromkeys(("GIT_CONFIG_GLOBAL", "NETRC", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), os.devnull),
    **{"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"},
}


def leave_secrets(arguments: Sequence[str]) -> None:
    """Start this program again without tokens, keys and logins, where it is to run foreign code.

    Taking them out of `os.environ` alone would leave them in /proc/self/environ.
    """
    kept = without_logins(os.environ)
    if any(one.split("=")[0] == FLAG for one in arguments) and kept != dict(os.environ):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that are named like a token, a key or a password."""
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


def without_logins(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without secrets, in which the Hub's libraries, git and netrc find no login.

    The files that `hf auth login` wrote stay where they are; HF_HOME points beside them, and the caches stay shared.
    """
    home = environment.get("HF_HOME") or os.path.join(environment.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    home = os.path.expandvars(os.path.expanduser(home))
    caches = {f"HF_{kind.upper()}_CACHE": os.path.join(home, kind) for kind in ("hub", "datasets", "xet", "assets")}
    caches["HF_HUB_CACHE"] = environment.get("HUGGINGFACE_HUB_CACHE", caches["HF_HUB_CACHE"])
    caches |= {name: environment[name] for name in caches if name in environment}
    elsewhere = os.path.join(caches["HF_HUB_CACHE"], ".without-login")
    kept = {name: value for name, value in without_secrets(environment).items() if name not in _AGENTS}
    # The library takes its token from a file of this name, which is none; its name would look like a secret's.
    return {**kept, **_NO_LOGINS, **caches, "HF_HOME": elsewhere}
