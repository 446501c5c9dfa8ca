"""`python -m local_hub`: serve a folder as a Hugging Face Hub on this machine until told to stop."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from bad_input import BadInput


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; run `{self.prog} --help` for the arguments\n")


def main() -> int:
    parser = _Parser("python -m local_hub", description=__doc__, allow_abbrev=False)
    parser.add_argument("--root", type=Path, required=True, help="folder of the repositories (made if absent)")
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1; 0 takes a free one (default)")
    parser.add_argument("--token", help="what clients must show to write; default: $LOCAL_HUB_TOKEN, or nothing")
    parser.add_argument("--user", default="local", help="name of whoever shows the token (default: local)")
    parser.add_argument("--faults", type=Path, metavar="RULES.json", help="JSON list of fault rules (local_hub.Fault)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append each request to FILE as a line of JSON")
    asked = parser.parse_args()
    from local_hub import LocalHub
    from local_hub.faults import read_rules

    # Blocked before the server's threads start, which inherit the mask: the signals wait for sigwait() below.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        rules = read_rules(asked.faults) if asked.faults else []
        token = asked.token or os.environ.get("LOCAL_HUB_TOKEN") or None
        hub = LocalHub(asked.root, port=asked.port, token=token, faults=rules, log=asked.log, user=asked.user)
    except BadInput as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    with hub:
        print(f"Local Hub at {hub.url}", flush=True)
        # The clients send nothing without a token, and the reader's own has no business here.
        print(f"export HF_ENDPOINT={hub.url} HF_TOKEN={'any' if token is None else '...'}", flush=True)
        signal.sigwait(ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
