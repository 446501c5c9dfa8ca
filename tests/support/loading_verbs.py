"""Every verb that loads a checkpoint, by one name each."""

import json
import sys
from pathlib import Path

from llava_mistral.commands import chat as app
from llava_mistral.commands import convert as convert_checkpoint
from llava_mistral.commands import evaluate as evaluate_scienceqa
from llava_mistral.commands import prune as prune_dataset
from llava_mistral.commands import publish as push_to_hub
from llava_mistral.commands import train as train_sft
from tests.support.refusals import training


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
    app.open_chat(app.find(sys.argv[1], None))


def change(file: Path, **entries) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
