"""`llava-mistral hub`: serve a folder as a Hugging Face Hub on this machine until told to stop."""

import os
import signal
from pathlib import Path

from llava_mistral.ground.command_line import VerbParser, run_verb


def main() -> None:
    parser = VerbParser(prog="llava-mistral hub", about=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the repositories (made if absent)")
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1; 0 takes a free one (default)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--token", help="token that clients need for writing; default: $LOCAL_HUB_TOKEN, or a random one"
    )
    shown.add_argument("--open", action="store_true", help="require no token: any program on this machine may write")
    parser.add_argument("--user", default="local", help="name of whoever shows the token (default: local)")
    parser.add_argument("--faults", type=Path, metavar="RULES.json", help="JSON list of fault rules (local_hub.Fault)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append each request to FILE as a line of JSON")
    asked = parser.parse_args()
    from llava_mistral.local_hub import LocalHub
    from llava_mistral.local_hub.faults import read_rules

    # Blocked before the server's threads start, which inherit the mask: the signals wait for sigwait() below.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    rules = read_rules(asked.faults) if asked.faults else []
    token = None if asked.open else asked.token or os.environ.get("LOCAL_HUB_TOKEN") or None
    options = {"token": token, "unguarded": asked.open, "faults": rules, "log": asked.log, "user": asked.user}
    with LocalHub(asked.root, port=asked.port, **options) as hub:
        print(f"Local Hub at {hub.url}", flush=True)
        # The clients send nothing without a token, and the reader's own has no business here. A given one is known.
        shown = "any" if asked.open else "..." if token else hub.token
        print(f"export HF_ENDPOINT={hub.url} HF_TOKEN={shown}", flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    run_verb(main)
