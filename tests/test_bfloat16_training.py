"""`--trained_dtype bfloat16`: the text model in 6 bytes a weight instead of 16, and what that costs."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_mistral.commands.train import main as train_main
from llava_mistral.training.plan.gpus import GPUS, fitting_changes
from llava_mistral.training.plan.memory import memory_of
from llava_mistral.training.plan.workload import Run, Sample, largest_batch
from tests.support.engine_environments import CACHE, QUANTISERS, run_or_skip
from tests.support.offline import UNGUARDED
from tests.support.recipe_sizes import config_of
from tests.support.running import HOME, run_apart, run_here
from tests.support.training_runs import QUICK, interrupt, train

SMALL = {"trained_dtype": "bfloat16"}


@pytest.fixture
def stand_in(monkeypatch):
    """torch's AdamW as `adamw_torch_8bit`, since torchao is not in this environment: types and files are the same."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: found("torch" if name == "torchao" else name, *more)
    )
    from transformers import trainer_optimizer
    from transformers.training_args import OptimizerNames

    def handler(context):
        return torch.optim.AdamW, context.optimizer_kwargs | context.adam_kwargs | {"foreach": False}

    monkeypatch.setitem(trainer_optimizer._OPTIMIZER_HANDLERS, OptimizerNames.ADAMW_TORCH_8BIT, handler)


@pytest.fixture(scope="module")
def published(stage0, tmp_path_factory):
    """A checkpoint that is stored in bfloat16."""
    folder = shutil.copytree(stage0, tmp_path_factory.mktemp("published") / "stage0")
    weights = {key: weight.bfloat16() for key, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def is_text_matrix(name: str) -> bool:
    return ("language_model" in name and "proj" in name) or name == "lm_head.weight"


def test_matrices_are_trained_and_saved_in_bfloat16_and_all_else_in_float32(stand_in, published, rows_file, tmp_path):
    train("finetune", published, rows_file, tmp_path / "out", bf16="True", **SMALL)
    before, after = (load_file(folder / "model.safetensors") for folder in (published, tmp_path / "out"))
    matrices = [name for name in after if is_text_matrix(name)]
    assert {after[name].dtype for name in matrices} == {torch.bfloat16}
    assert all(not torch.equal(before[name], after[name]) for name in matrices)
    others = [name for name in after if name not in matrices and "vision_tower" not in name]
    assert {after[name].dtype for name in others} == {torch.float32}
    assert any("projector" in name for name in others) and any("embed_tokens" in name for name in others)


def test_a_run_in_bfloat16_goes_on_where_it_was_interrupted(stand_in, published, rows_file, tmp_path, monkeypatch):
    schedule = {"save_strategy": "steps", "save_steps": 2, "bf16": "True", **SMALL}
    train("finetune", published, rows_file, tmp_path / "whole", bf16="True", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_save", interrupt)
        train("finetune", published, rows_file, tmp_path / "cut", code=130, **schedule)
    train("finetune", published, rows_file, tmp_path / "cut", **schedule)
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(weight, cut[name]) and cut[name].dtype == weight.dtype for name, weight in whole.items())


def test_numbers_that_bfloat16_has_not_are_rounded_and_counted(stand_in, stage0, rows_file, tmp_path):
    done = train("finetune", stage0, rows_file, tmp_path / "out", bf16="True", **SMALL)
    assert "numbers of the text model's matrices are rounded to bfloat16" in done.stderr


def test_a_head_that_shares_the_embeddings_stays_float32():
    from torch import nn

    from llava_mistral.training.frozen_weights import trained_matrices

    model = nn.ModuleDict(
        {"embed": nn.Embedding(8, 4), "mlp": nn.Linear(4, 4), "lm_head": nn.Linear(4, 8, bias=False)}
    )
    model["lm_head"].weight = model["embed"].weight
    assert [id(weight) for weight in trained_matrices(model)] == [id(model["mlp"].weight)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--bf16": "False"}, "trained_dtype: bfloat16 weights need bfloat16 arithmetic"),
        ({"--bf16": "True", "--optim": "adamw_torch"}, "optim: rounds a small step to nothing in a bfloat16 weight"),
        ({"--bf16": "True", "--optim_args": "block_size=128"}, "optim: rounds a small step to nothing"),
        ({"--bf16": "True", "--use_peft": "True"}, "trained_dtype: has no effect where the text model's own weights"),
        ({"--bf16": "True", "--stage": "pretrain"}, "trained_dtype: has no effect where the text model's own weights"),
        ({"--bf16": "True"}, "trained_dtype: torchao is not installed; pip install '.[eight_bit]'"),
    ],
)
def test_bfloat16_weights_are_refused_where_they_would_lose_steps_or_do_nothing(
    flags, message, published, rows_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, found=importlib.util.find_spec: None if name == "torchao" else found(name),
    )
    stage = flags.pop("--stage", "finetune")
    given = {"--stage": stage, "--model_name_or_path": published, "--dataset": rows_file, "--use_cpu": "True"}
    given |= {"--output_dir": tmp_path / "out", "--trained_dtype": "bfloat16", **flags}
    done = run_here(train_main, *[word for pair in given.items() for word in pair], code=2)
    assert message in done.error
    assert not (tmp_path / "out").exists()


def test_all_of_mistral_7b_is_trained_on_one_gpu_of_80_gb(tmp_path):
    """By the plan, as long as rows may be long: with accumulation the old gradients would lie beside the new ones."""
    config = config_of(tmp_path, "mistral")
    samples = [Sample(700, 3, 576, 1), Sample(250, 3, 0, 0)] * 16
    run = Run("finetune", 4, 8, 15.0, 0, "adamw_torch_fused", True, True, packed=True, small_frozen=True)

    def batch_of(other: Run):
        return largest_batch(samples, other)

    (change,) = [c for c in fitting_changes(config, run, batch_of, GPUS["H100"]) if c.run.full and c.run.world == 1]
    assert "--trained_dtype bfloat16 --optim adamw_torch_8bit" in change.flags and "bnb" not in change.flags
    planned = memory_of(config, change.run, batch_of(change.run))
    assert planned.weights + planned.gradients + planned.optimizer == pytest.approx(46e9, rel=0.05)
    assert planned.peak < 60e9


def library() -> str:
    """The folder with torchao, which pip brings into the user's cache."""
    folder = CACHE / "torchao"
    if not (folder / "torchao").is_dir():
        (pinned,) = [one for one in QUANTISERS if one.startswith("torchao==")]
        run_or_skip("torchao", UNGUARDED, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, pinned)
    return str(folder)


CUT = """
import sys
from unittest import mock
from llava_mistral.commands.train import main
from llava_mistral.ground.command_line import run_verb
sys.argv[0] = "llava-mistral train"
with mock.patch("transformers.TrainerCallback.on_save", side_effect=KeyboardInterrupt):
    run_verb(main)
"""


@pytest.mark.slow
def test_a_run_with_torchaos_optimizer_goes_on_to_the_same_bits(published, rows_file, tmp_path):
    """Its states of a byte each, and the random numbers that weights are rounded by."""
    given = QUICK | {"--stage": "finetune", "--model_name_or_path": published, "--dataset": rows_file}
    given |= {"--trained_dtype": "bfloat16", "--bf16": "True", "--save_strategy": "steps", "--save_steps": 2}
    words = [word for pair in given.items() for word in pair]
    for name, start, code in (
        ("whole", ("-m", "llava_mistral", "train"), 0),
        ("cut", ("-c", CUT), 130),
        ("cut", ("-m", "llava_mistral", "train"), 0),
    ):
        output = ("--output_dir", tmp_path / name)
        plain = {"TORCHDYNAMO_DISABLE": "1"}  # torchao compiles its step, which takes minutes on a CPU
        done = run_apart(*start, *words, *output, code=code, PYTHONPATH=library(), **plain)
        assert "there is no whole checkpoint" not in done.stdout
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    before = load_file(published / "model.safetensors")
    assert all(weight.equal(cut[name]) for name, weight in whole.items())
    assert all(not weight.equal(before[name]) for name, weight in whole.items() if is_text_matrix(name))


def test_the_page_has_the_figures_of_the_benchmark():
    from benchmarks.bfloat16_training import PAGE, as_markdown

    result = json.loads((HOME / "benchmarks" / "results" / "bfloat16_training.json").read_text())
    assert as_markdown(result) in PAGE.read_text(encoding="utf-8")
    assert result["steps"] == 500 and result["stochastic"]["largest_gap"] < 0.05 < result["nearest"]["largest_gap"]


@pytest.mark.slow
def test_torchaos_rounding_keeps_the_loss_of_float32_where_the_nearest_loses_it(published, rows_file, tmp_path):
    """The benchmark behind the figures of docs/training/plan.md, shorter."""
    given = ["--model", published, "--dataset", rows_file, "--steps", "100", "--output", tmp_path / "out.json"]
    command = [sys.executable, HOME / "benchmarks" / "bfloat16_training.py", *given]
    plain = {"TORCHDYNAMO_DISABLE": "1"}  # torchao compiles its step, which takes minutes on a CPU
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "PYTHONPATH": library(), **plain})
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["stochastic"]["largest_gap"] < 0.05 < result["nearest"]["largest_gap"]
