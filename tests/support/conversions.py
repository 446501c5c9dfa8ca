"""The verb `convert`, run and refused."""

import json
from pathlib import Path

from tests.support.running import run_here


def convert(source: Path, folder: Path, to: str, *options: str) -> Path:
    from llava_mistral.commands.convert import main

    run_here(main, source, folder, "--to", to, *options)
    return folder


def all_weights(folder: Path) -> dict:
    """Every weight of a folder by name, whichever file it lies in."""
    from safetensors.torch import load_file

    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.parent.relative_to(folder)}:{k}": w for file in files for k, w in load_file(file).items()}


def assert_same_weights(first: Path, second: Path) -> None:
    import torch

    one, two = all_weights(first), all_weights(second)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert weight.dtype == two[name].dtype and torch.equal(weight, two[name]), name


def case(folder: Path, name: str) -> dict:
    return next(case for case in json.loads((folder / "cases.json").read_text()) if case["name"] == name)


def picture(folder: Path, name: str):
    from PIL import Image

    return Image.open(folder / f"{name}.png")
