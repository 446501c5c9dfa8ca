"""QLoRA as far as a machine without a GPU can tell: what is in 4 bits, what is trained, what is refused."""

import importlib.util

import pytest

from llava_mistral.training.recipe import StageArguments
from tests.support.tiny_plugin import tiny_config
from tests.support.training_runs import train

QLORA = {"use_peft": "True", "load_in_4bit": "True", "lora_r": "4"}


@pytest.fixture
def model():
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    return LlavaMistralForConditionalGeneration(tiny_config("mistral"))


def test_exactly_the_matrices_that_lora_adapts_are_in_4_bits(model):
    """By the rule with which transformers replaces linear layers."""
    import re

    from torch import nn
    from transformers.quantizers.quantizers_utils import should_convert_module

    from llava_mistral.training.loading import four_bit_config
    from llava_mistral.training.lora import TARGETS

    config = four_bit_config()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    replaced = {name for name in linear if should_convert_module(name, config.llm_int8_skip_modules)}
    assert replaced == {name for name in linear if re.fullmatch(TARGETS, name)} != set()
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert str(config.bnb_4bit_compute_dtype) == "torch.bfloat16"


def test_the_projector_is_trained_in_float32_over_4_bit_weights(model, stage0, rows_file, tmp_path):
    """TRL rounds what is trained to bfloat16 then; the projector keeps every bit, the low-rank pairs are rounded."""
    import torch
    from transformers import AutoProcessor
    from trl import SFTConfig

    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.loading import set_trainable
    from llava_mistral.training.lora import add_lora
    from llava_mistral.training.trainer import StageTrainer

    stage = StageArguments(stage="finetune", use_peft=True, load_in_4bit=True, lora_r=4)
    model.is_loaded_in_4bit = True
    before = {name: weight.clone() for name, weight in model.model.multi_modal_projector.state_dict().items()}
    set_trainable(model, stage)
    assert not any(weight.requires_grad for weight in model.parameters()), "LoRA says what moves"
    model, counts = add_lora(model, stage, seed=0)
    processor = AutoProcessor.from_pretrained(stage0, trust_remote_code=True)
    trainer = StageTrainer(
        model=model,
        args=SFTConfig(str(tmp_path), use_cpu=True, max_length=None, remove_unused_columns=False, report_to="none"),
        train_dataset=read_rows(rows_file),
        processing_class=processor,
        data_collator=AnswerCollator(processor),
    )
    moving = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert sum(weight.numel() for weight in moving.values()) == counts["trainable"]
    kept = {name.split(".default.")[-1]: weight for name, weight in moving.items() if "projector" in name}
    assert kept.keys() == before.keys() and all(torch.equal(kept[name], before[name]) for name in before)
    assert {weight.dtype for name, weight in moving.items() if "lora_" in name} == {torch.bfloat16}


def test_two_weights_in_a_byte_are_counted_as_two(model):
    import torch
    from torch import nn

    from llava_mistral.training.lora import add_lora

    class Params4bit(nn.Parameter):
        pass

    stage = StageArguments(stage="finetune", use_peft=True, lora_r=4)
    layer = model.model.language_model.layers[0].mlp.up_proj
    known = sum(weight.numel() for weight in model.parameters())
    packed = Params4bit(torch.zeros(layer.weight.shape[0], layer.weight.shape[1] // 2), requires_grad=False)
    layer.weight = packed
    _, counts = add_lora(model, stage, seed=0)
    projector = sum(weight.numel() for name, weight in model.named_parameters() if "original_module" in name)
    assert counts["frozen"] == known - projector


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (QLORA, "field load_in_4bit: bitsandbytes is not installed; pip install '.[qlora]'"),
        ({"load_in_4bit": "True"}, "field load_in_4bit: 4-bit weights cannot be trained; add --use_peft"),
    ],
)
def test_qlora_that_cannot_be_is_one_line(flags, said, stage0, rows_file, tmp_path):
    if "use_peft" in flags and importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is here")
    assert said in train("finetune", stage0, rows_file, tmp_path / "out", code=2, **flags).error
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_qlora_is_refused_before_weights_are_read():
    import torch

    from llava_mistral.ground.bad_input import BadInput
    from llava_mistral.training.loading import load_options

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(BadInput, match="field load_in_4bit: 4-bit weights need a GPU; use a machine"):
        load_options(StageArguments(load_in_4bit=True))
    assert load_options(StageArguments()) == {}


def test_qlora_is_planned_without_its_library(stage0, rows_file, tmp_path):
    lora = {"use_peft": "True", "lora_r": "4", "plan": "True", "plan_gpu": "H100"}
    plans = [
        train("finetune", stage0, rows_file, tmp_path / "out", **lora, **more).stdout.splitlines()[0:3]
        for more in ({}, {"load_in_4bit": "True"})
    ]
    assert plans[0][:2] == plans[1][:2], "as many parameters"
