"""A checkpoint that was trained in 16 bits is asked in 16 bits, and the record says so."""

import json
import shutil

import pytest

from tests.support.running import run_here
from tests.support.small_problems import PROBLEM

RECIPES = {
    "bfloat16": {"recipe": {"bf16": True}},
    "float16": {"recipe": {"fp16": True, "bf16": False}},
    "float32": {"recipe": {"bf16": False}},
}


@pytest.mark.parametrize("dtype", RECIPES)
def test_a_folder_is_asked_in_the_type_it_was_trained_in(stage0, tmp_path, dtype):
    from llava_mistral.evaluation.asking import Checkpoint
    from llava_mistral.ground.checkpoint_headers import computing_type

    folder = shutil.copytree(stage0, tmp_path / "checkpoint")
    (folder / "run.json").write_text(json.dumps(RECIPES[dtype]))
    assert computing_type(folder) == dtype
    checkpoint = Checkpoint(str(folder), device="cpu")
    assert checkpoint.dtype == dtype
    assert {str(weight.dtype) for weight in checkpoint.model.parameters()} == {f"torch.{dtype}"}


def test_without_a_record_the_configuration_says(stage0, tmp_path):
    from llava_mistral.ground.checkpoint_headers import computing_type

    assert computing_type(stage0) == "float32"
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "torch.bfloat16"}))
    assert computing_type(tmp_path) == "bfloat16"
    (tmp_path / "config.json").write_text("{}")
    assert computing_type(tmp_path) == "auto"


def test_the_summary_names_the_type(stage0, tmp_path):
    from llava_mistral.commands.evaluate import main

    folder = shutil.copytree(stage0, tmp_path / "checkpoint")
    (folder / "run.json").write_text(json.dumps(RECIPES["bfloat16"]))
    (tmp_path / "problems.json").write_text(json.dumps({"1": PROBLEM | {"split": "test"}}))
    given = ("--dataset", tmp_path, "--model", folder, "--device", "cpu", "--output", tmp_path / "out")
    run_here(main, *given)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dtype"] == "bfloat16"
