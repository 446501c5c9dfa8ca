"""Frozen matrices in 16 bits: the same losses, the same gradients, the same checkpoint, half the memory."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_mistral.training.frozen_weights import is_safe, saved_state, shrink_frozen
from tests.support.training_runs import interrupt, train

BF16 = {"bf16": "True", "gradient_checkpointing": "True"}


@pytest.fixture(scope="module")
def published(stage0, tmp_path_factory):
    """A checkpoint whose text model is of bfloat16 numbers, its tower of float16 ones, and one matrix of neither."""
    folder = tmp_path_factory.mktemp("published") / "stage0"
    shutil.copytree(stage0, folder)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "projector" not in name and not name.endswith("layers.0.mlp.up_proj.weight"):
            small = torch.float16 if "vision_tower" in name else torch.bfloat16
            weights[name] = weight.to(small).float()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("stage", "more"), [("pretrain", {}), ("finetune", {}), ("finetune", {"use_peft": "True", "lora_r": 4})]
)
def test_training_is_bit_for_bit_that_of_float32(stage, more, published, rows_file, tmp_path):
    """Weights and losses under bfloat16 autocast; what was frozen is saved as it was loaded."""
    files = {}
    for dtype in ("auto", "float32"):
        out = tmp_path / dtype
        train(stage, published, rows_file, out, frozen_dtype=dtype, **BF16, **more)
        files[dtype] = load_file(next(out.glob("*model.safetensors")))
    curves, configs = (
        [json.loads((tmp_path / dtype / name).read_text()) for dtype in files]
        for name in ("run.json", "adapter_config.json" if more else "config.json")
    )
    assert curves[0]["loss_curve"] == curves[1]["loss_curve"]
    assert files["auto"].keys() == files["float32"].keys()
    for name, weight in files["float32"].items():
        assert weight.dtype == files["auto"][name].dtype == torch.float32
        assert torch.equal(weight, files["auto"][name]), name
    if not more:
        assert configs[0] == configs[1]
        before = load_file(published / "model.safetensors")
        still = [name for name in before if torch.equal(before[name], files["auto"][name])]
        assert any("vision_tower" in name for name in still) and (stage == "finetune" or len(still) == len(before) - 4)


def test_an_interrupted_run_goes_on_with_its_shrunk_weights(published, rows_file, tmp_path, monkeypatch):
    """Its checkpoint holds them in 16 bits, the finished folder in float32."""
    schedule = {"save_strategy": "steps", "save_steps": 2, **BF16}
    train("pretrain", published, rows_file, tmp_path / "whole", **BF16)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_save", interrupt)
        train("pretrain", published, rows_file, tmp_path / "cut", code=130, **schedule)
    saved = load_file(tmp_path / "cut" / "checkpoint-2" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32, torch.bfloat16, torch.float16}
    train("pretrain", published, rows_file, tmp_path / "cut", **schedule)
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(weight, cut[name]) and cut[name].dtype == weight.dtype for name, weight in whole.items())


def loaded(folder):
    from llava_mistral.training.stages import set_trainable
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    model = LlavaMistralForConditionalGeneration.from_pretrained(folder, dtype="float32")
    set_trainable(model, "pretrain")
    return model


def test_only_frozen_matrices_that_lose_nothing_are_shrunk(published):
    model = loaded(published)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    counts = shrink_frozen(model)
    dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
    assert counts["kept"] == before["model.language_model.layers.0.mlp.up_proj.weight"].numel()
    assert counts["shrunk"] == sum(
        weight.numel() for name, weight in before.items() if dtypes.get(name, torch.float32) != torch.float32
    )
    for name, dtype in dtypes.items():
        full = any(part in name for part in ("norm", "embed", "projector", "layers.0.mlp.up_proj"))
        zero = not before[name].any()  # is any format's
        small = torch.float16 if "vision_tower" in name and not zero else torch.bfloat16
        assert dtype == (torch.float32 if full else small), name
    after = saved_state(model, {})
    assert all(
        torch.equal(weight, after[name]) and after[name].dtype == weight.dtype for name, weight in before.items()
    )


def test_a_head_that_shares_the_embeddings_stays_as_it_is(published):
    """Embeddings are the residual stream's first value, and give it their precision."""
    model = loaded(published)
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    shrink_frozen(model)
    assert model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "environment", "safe"),
    [
        ({"bf16": True}, {}, True),
        ({"bf16": False}, {}, False),
        ({"bf16": True}, {"ACCELERATE_USE_FSDP": "true"}, False),
        ({"bf16": True}, {"ACCELERATE_USE_DEEPSPEED": "true"}, False),
        ({"bf16": True, "deepspeed": "zero3.json"}, {}, False),
    ],
)
def test_weights_that_are_gathered_together_stay_of_one_precision(given, environment, safe, monkeypatch):
    from types import SimpleNamespace

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert bool(is_safe(SimpleNamespace(**{"fsdp": [], "deepspeed": None, **given}))) is safe
