"""The command `llava-mistral`: finds the page of a verb and runs it. A verb's libraries are imported by the verb."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from llava_mistral.ground.command_line import run_verb

VERBS = {
    "prune": "choose the samples that are worth training on",
    "init": "write a recipe for your data and this machine",
    "build": "join a vision tower and a text model into a checkpoint",
    "train": "train a stage with TRL's SFTTrainer",
    "evaluate": "measure accuracy on ScienceQA, of a checkpoint or of predictions",
    "compare": "compare models that answered the same questions",
    "publish": "publish a model, a pruned data set or a Space on the Hub",
    "chat": "talk to a model about a picture, in a browser",
    "studio": "the whole way on one page in a browser",
    "convert": "write a checkpoint in another layout",
    "study": "run a whole study from one YAML file",
    "hub": "run a Hub on this machine, for rehearsals",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `llava-mistral VERB …`; exits with the verb's code, 2 for a verb that does not exist."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        with suppress(BrokenPipeError):  # `llava-mistral --help | head`
            print(_help(), flush=True)
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"llava-mistral {version('llava-mistral')}")
        sys.exit(0)
    verb = arguments[0]
    if verb not in VERBS:
        nearest = get_close_matches(verb, VERBS, 1, 0)[0]
        print(f"llava-mistral: there is no command {ascii(verb)[1:-1][:80]}; did you mean {nearest}?", file=sys.stderr)
        sys.exit(2)
    run(verb, arguments[1:])


def run(verb: str, arguments: Sequence[str]) -> NoReturn:
    """Run one verb as if it had been typed, and exit with its code."""
    sys.argv = [f"llava-mistral {verb}", *arguments]
    run_verb(import_module(f"llava_mistral.commands.{verb}").main, keeps_secrets=verb == "publish")


def _help() -> str:
    lines = [f"  {verb:<10}{does}" for verb, does in VERBS.items()]
    return "\n".join(
        [
            "usage: llava-mistral VERB [options]",
            "",
            *lines,
            "",
            "`llava-mistral VERB --help` lists the options of a command.",
        ]
    )
