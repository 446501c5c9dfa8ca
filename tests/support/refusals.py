"""What a refused verb leaves, and bait that shows whether it was taken."""

import json
import sys
import warnings
from pathlib import Path

from llava_mistral.commands import chat as app
from llava_mistral.commands import convert as convert_checkpoint
from llava_mistral.commands import evaluate as evaluate_scienceqa
from llava_mistral.commands import prune as prune_dataset
from llava_mistral.commands import publish as push_to_hub
from llava_mistral.commands import train as train_sft
from llava_mistral.ground.foreign_code import split_revision
from tests.support.running import run_here


def refused(main, *arguments, output: Path) -> str:
    """The one line of a verb that wrote nothing."""
    with warnings.catch_warnings():  # a library's word on its next version is no line of ours
        warnings.simplefilter("ignore")
        error = run_here(main, *arguments, code=2).stderr
    # Bars of progress end in a carriage return and are no lines.
    lines = [line for line in error.splitlines() if line.strip() and "/s]" not in line]
    assert len(lines) == 1 and "Traceback" not in error, error
    assert not output.exists() or not any(output.iterdir())
    return lines[0]


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def training(model, rows, output, **flags) -> list:
    given = {"stage": "pretrain", "model_name_or_path": model, "dataset": rows, "output_dir": output}
    given |= {"bf16": "False", "use_cpu": "True", "report_to": "none"} | flags
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def loads(verb: str, name, problems: Path, rows: Path, output: Path, *more) -> tuple:
    """A verb's `main`, and the arguments with which it loads the checkpoint `name`."""
    asking = ("--dataset", problems, "--split", "train", "--output", output)
    choosing = ("--dataset", problems, "--size", 3, "--output", output)
    return {
        "evaluate": (evaluate_scienceqa.main, "--model", name, *asking, *more),
        "train": (train_sft.main, *training(name, rows, output), *more),
        "plan": (train_sft.main, *training(name, rows, output, plan="True"), *more),
        "embedder": (prune_dataset.main, "--method", "farthest", "--embedder", name, *choosing, *more),
        "scorer": (prune_dataset.main, "--method", "principles", "--scorer", name, *choosing, *more),
        "convert": (convert_checkpoint.main, name, output, "--to", "llava-hf", *more),
        "push": (push_to_hub.main, "model", name, "me/model", *more),
        "app": (open_chat, name, *more),
    }[verb]


def open_chat() -> None:
    """What `llava-mistral chat` does before it needs Gradio."""
    app.open_chat(app.find(*split_revision(sys.argv[1])))


def change(file: Path, **entries) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
