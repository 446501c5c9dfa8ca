"""Pickles: never opened where weights are loaded, read without running them where a conversion is asked for."""

import json
from pathlib import Path

import pytest

from tests.support import malformed as make
from tests.support.running import run_here
from tests.support.tiny_llava import save_tiny_llava


class Harm:
    """A pickle that makes a file when it is opened."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.case("D14", "refused")
def test_a_pickle_is_never_opened_instead_of_weights(stage0, rows_file, tmp_path, questions, by_itself):
    import torch
    import transformers

    from llava_mistral.commands.convert import main

    def pickled(folder: Path, target: Path) -> Path:
        make.copy(folder, target, make.remove("model.safetensors"))
        torch.save({"weight": Harm(tmp_path / "harmed")}, target / "pytorch_model.bin")
        return target

    bad = pickled(stage0, tmp_path / "bad")
    for said in (
        make.ask(bad, questions, tmp_path / "out", 2).error,
        make.refused_by_training(bad, rows_file, tmp_path / "out"),
    ):
        assert f"{bad}: " in said and "holds no *.safetensors file" in said
    assert "is not a pickle of weights only" in run_here(main, bad, tmp_path / "out", "--to", "plugin", code=2).error
    for auto in ("AutoModelForImageTextToText", "AutoModel"):
        with pytest.raises(OSError, match="safetensors"):
            getattr(transformers, auto).from_pretrained(bad, trust_remote_code=True)
    by_itself(
        "transformers", lambda: make.open_stock(pickled(save_tiny_llava(tmp_path / "stock"), tmp_path / "bad stock"))
    )
    assert not (tmp_path / "harmed").exists() and not (tmp_path / "out").exists()


@pytest.mark.case("D14", "accepted")
def test_a_pickle_beside_the_weights_is_passed_over(stage0, tmp_path, questions):
    import torch

    def add(folder: Path) -> None:
        torch.save({"weight": Harm(tmp_path / "harmed")}, folder / "pytorch_model.bin")

    make.ask(make.copy(stage0, tmp_path / "both", add), questions, tmp_path / "out")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.case("D15", "accepted")
def test_a_projector_in_a_pickle_is_converted_on_request_alone(stage0, tmp_path, questions):
    """Shards as older checkpoints have them, the projector in one of its own; converted, the weights are the same."""
    import torch
    from safetensors.torch import load_file

    from llava_mistral.commands.convert import main

    whole = load_file(stage0 / "model.safetensors")
    place = {name: f"pytorch_model-{1 + ('projector' in name)}.bin" for name in whole}

    def pickle(folder: Path) -> None:
        make.remove("model.safetensors")(folder)
        for file in set(place.values()):
            torch.save({name: whole[name].clone() for name, there in place.items() if there == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": place}))

    folder = make.copy(stage0, tmp_path / "pickled", pickle)
    assert "convert it with llava-mistral convert" in make.ask(folder, questions, tmp_path / "out", 2).error
    run_here(main, folder, tmp_path / "converted", "--to", "plugin")
    converted = load_file(tmp_path / "converted" / "model.safetensors")
    assert converted.keys() == whole.keys() and all(converted[name].equal(weight) for name, weight in whole.items())
    make.ask(tmp_path / "converted", questions, tmp_path / "out")
