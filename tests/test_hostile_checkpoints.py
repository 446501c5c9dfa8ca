"""Checkpoints that would run code or read files of others' choosing are refused by every verb that loads one."""

import json
import os
import shutil
from pathlib import Path

import pytest

from llava_mistral.commands import convert as convert_checkpoint
from tests.support.hub_here import hub_here
from tests.support.refusals import Trap, change, loads, refused
from tests.support.running import run_here
from tests.support.small_problems import save_problems

shows = pytest.mark.case


@pytest.fixture
def copy(stage0, tmp_path) -> Path:
    return Path(shutil.copytree(stage0, tmp_path / "checkpoint"))


@pytest.fixture
def problems(tmp_path) -> Path:
    return save_problems(tmp_path / "problems", 6)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that asks no verb but `llava-mistral publish` for anything: what it logs then was a write."""
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the Hub of the test before
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


def pickled(folder: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({"w": Trap(folder.parent / "ran")}, folder / "pytorch_model.bin")


def foreign_code(folder: Path) -> None:
    change(folder / "config.json", auto_map={"AutoConfig": "else/where--modeling_x.X"})


def foreign_processor(folder: Path) -> None:
    change(folder / "processor_config.json", auto_map={"AutoProcessor": ["else/where--processing_x.X", None]})


def other_code(folder: Path) -> None:
    with (folder / "modeling_llava_mistral.py").open("a") as file:
        file.write(f"\nopen({str(folder.parent / 'ran')!r}, 'w')\n")


def climbing_tokenizer(folder: Path) -> None:
    shutil.move(folder / "tokenizer.json", folder.parent / "tokenizer.1.json")
    change(folder / "tokenizer_config.json", tokenizer_file="../tokenizer.1.json")


def climbing_index(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "model.safetensors")
    names = dict.fromkeys(_weights(folder.parent / "model.safetensors"), "../model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def _weights(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def hole(folder: Path) -> None:
    os.truncate(folder / "tokenizer.json", 1 << 40)


def huge_pictures(folder: Path) -> None:
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"] |= {"size": {"shortest_edge": 10**9}, "crop_size": {"height": 10**9, "width": 10**9}}
    (folder / "processor_config.json").write_text(json.dumps(settings))


def many_grids(folder: Path) -> None:
    change(folder / "config.json", image_grid_pinpoints=[[336 * (i % 1000 + 1), 336] for i in range(10**6)])


def many_layers(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config={**text, "num_hidden_layers": 10**9})


def many_beams(folder: Path) -> None:
    change(folder / "generation_config.json", num_beams=10**6)


def many_words(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config={**text, "vocab_size": 10**12})


def endless_rope(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    rope = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 1e308}
    change(folder / "config.json", text_config={**text, "rope_parameters": rope})


def linked(folder: Path) -> None:
    (folder / "NOTICE").symlink_to("/etc/passwd")


HOSTILE = {
    "S29": (linked, ("push",), "NOTICE: is a link to somewhere outside of the folder"),
    "S39 beams": (many_beams, ("evaluate", "train", "app"), "field num_beams: is 1,000,000, more than"),
    "S39 words": (many_words, ("evaluate", "train", "app"), "field vocab_size: is 1,000,000,000,000, more than"),
    "S39 rope": (endless_rope, ("evaluate", "train", "app"), "field factor: is 1e+308, more than"),
    "S39 pipe": (pipe, ("evaluate", "train", "app"), "is not a regular file"),
    "S39 hole": (hole, ("evaluate", "train", "app"), "has 1,099,511,627,776 bytes, more than"),
    "S39 grids": (many_grids, ("evaluate", "train", "app"), "lists 1,000,000 grids"),
    "S39 layers": (many_layers, ("evaluate", "train", "app"), "field num_hidden_layers: is 1,000,000,000"),
    "S39 pictures": (huge_pictures, ("evaluate", "train", "app"), "makes pictures of more than 4096 pixels a side"),
    "S10": (pickled, ("evaluate", "train", "embedder", "scorer", "convert", "push", "app"), ""),
    "S13": (foreign_code, ("evaluate", "train", "plan", "embedder", "scorer", "push", "app"), "another repository"),
    "S13 processor": (foreign_processor, ("evaluate", "train", "embedder", "push", "app"), "another repository"),
    "S14": (other_code, ("push",), "is not this project's own code; load the checkpoint and save it again"),
    "S15": (climbing_tokenizer, ("evaluate", "train", "embedder", "push"), "names a file outside of its folder"),
    "S16": (climbing_index, ("evaluate", "train", "embedder", "convert", "push", "app"), ""),
}


@pytest.mark.parametrize(
    ("case", "verb"),
    [
        pytest.param(case, verb, marks=shows(case[:3], "refused"))
        for case, (_, verbs, _) in HOSTILE.items()
        for verb in verbs
    ],
)
def test_a_hostile_checkpoint_is_refused(copy, problems, rows_file, hub, tmp_path, case, verb):
    damage, _, said = HOSTILE[case]
    damage(copy)
    main, *arguments = loads(verb, copy, problems, rows_file, tmp_path / "out")
    line = refused(main, *arguments, output=tmp_path / "out")
    assert said in line and str(copy) in line, line
    assert not (tmp_path / "ran").exists() and not hub.requests


@shows("S10", "accepted")
@shows("S13", "accepted")
@shows("S14", "accepted")
@shows("S15", "accepted")
@shows("S16", "accepted")
@shows("S39", "accepted")
def test_its_legal_neighbours_are_loaded(copy, problems, tmp_path):
    """Safetensors in several files that an index names, code of its own beside them, a tokenizer of plain names."""
    sharded = tmp_path / "sharded"
    run_here(convert_checkpoint.main, copy, sharded, "--to", "plugin", "--max_shard_size", "50KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1 and (sharded / "model.safetensors.index.json").is_file()
    change(sharded / "tokenizer_config.json", tokenizer_file="tokenizer.json", vocab_file=None)
    main, *arguments = loads("evaluate", sharded, problems, None, tmp_path / "out")
    assert "pictures" in run_here(main, *arguments).stdout
