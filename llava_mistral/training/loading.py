"""Processor, model and collator of a stage, ready to train."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import check_image_token, opening
from llava_mistral.ground.foreign_code import loading
from llava_mistral.training import stages
from llava_mistral.training.batch_pictures import Pictures
from llava_mistral.training.collator import AnswerCollator
from llava_mistral.training.frozen_weights import is_safe, load_small, narrow, shrink_frozen, trained_matrices, widen
from llava_mistral.training.packing import PackedCollator
from llava_mistral.training.stages import check_template, warn_of_untrained_projector
from llava_mistral.training.vision_features import VisionFeatures, open_cache

if TYPE_CHECKING:
    import torch

# Kept in full precision under QLoRA: what the loss reads, what is trained in full, and the eyes.
IN_FULL = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]


def load_processor(stage: Any, template: Path | None) -> tuple[Any, str]:
    """Return the checkpoint's processor, wording as this stage does, and the checkpoint's own template.

    Args:
        stage: a `StageArguments`.
        template: chat template of this stage; None: the checkpoint's own.

    Raises:
        BadInput: stage 2 with a template that drops the question, or a checkpoint that does not open.
    """
    name = stage.model_name_or_path
    with opening(name, "config.json"):
        config = AutoConfig.from_pretrained(name, **_source(stage))
    with opening(name):
        processor = AutoProcessor.from_pretrained(name, **_source(stage))
    check_image_token(config, processor, name)
    own_template = processor.chat_template
    processor.chat_template = template.read_text(encoding="utf-8") if template else own_template
    file = str(template or stage.model_name_or_path)
    check_template(processor, stage.stage, file, may_drop_question=stage.may_drop_question)
    return processor, own_template


def load_model(stage: Any, config: Any) -> tuple["torch.nn.Module", dict[str, int]]:
    """Return the model, frozen but for what `stage` trains, with LoRA where that is asked for; and parameter counts.

    Args:
        stage: a `StageArguments`.
        config: an `SFTConfig`.

    Returns:
        the model, and `{"trainable": …, "frozen": …}`.
    """
    name = stage.model_name_or_path
    with opening(name):
        options = {"dtype": "float32", **_source(stage), **load_options(stage)}
        model = None
        # PEFT draws its matrices in the type of what they stand beside: with LoRA that must be float32 at first.
        if stage.frozen_dtype == "auto" and is_safe(config) and not stage.use_peft:
            model = load_small(AutoModelForImageTextToText, name, stage.model_revision, options)
        model = AutoModelForImageTextToText.from_pretrained(name, **options) if model is None else model
    if stage.stage == "finetune" and config.process_index == 0:
        warn_of_untrained_projector(model, name)
    return prepare_model(model, stage, config)


def prepare_model(model: "torch.nn.Module", stage: Any, config: Any) -> tuple["torch.nn.Module", dict[str, int]]:
    """As `load_model`, of a model that is there."""
    parameters = set_trainable(model, stage)
    small = trained_matrices(model) if stage.trained_dtype == "bfloat16" else []
    if stage.use_peft:
        from llava_mistral.training.lora import add_lora

        model, parameters = add_lora(model, stage, config.seed, bool(config.bf16))
    if stage.frozen_dtype == "auto" and is_safe(config):
        widen(model, {id(weight) for weight in small})
        shrink_frozen(model)
    if (rounded := narrow(small)) and config.process_index == 0:
        print(
            f"{rounded:,} numbers of the text model's matrices are rounded to bfloat16, where they are trained",
            file=sys.stderr,
        )
    return model, parameters


def make_collator(stage: Any, config: Any, rows: Any, model: "torch.nn.Module", processor: Any) -> Any:
    """Return what makes batches of rows, and let `model` read what it makes of their pictures."""
    cache, slots = open_cache(stage, config, rows, model, processor)
    VisionFeatures(model, cache, slots)
    collator = AnswerCollator(processor, Pictures(processor, cache))
    return PackedCollator(collator) if stage.packed else collator


def _source(stage: Any) -> dict[str, Any]:
    return loading(stage.model_name_or_path, stage.model_revision)


def load_options(stage: Any) -> dict[str, Any]:
    """Return extra keywords of `from_pretrained` for a `StageArguments`; none without `load_in_4bit`.

    Raises:
        BadInput: 4 bits are asked for and there is no GPU.
    """
    if not stage.load_in_4bit:
        return {}
    import torch

    if not torch.cuda.is_available():
        remedy = "use a machine with an NVIDIA GPU and the extra `qlora`, or leave it out for LoRA"
        raise BadInput("4-bit weights need a GPU", remedy=remedy, field="load_in_4bit")
    place = {"": int(os.environ.get("LOCAL_RANK", 0))}
    return {"quantization_config": four_bit_config(), "device_map": place}


def four_bit_config() -> Any:
    """QLoRA: the frozen matrices of the text layers in nf4 with double quantisation, computed in bfloat16.

    Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023.
    """
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=IN_FULL,
    )


def set_trainable(model: "torch.nn.Module", stage: Any) -> dict[str, int]:
    """As `stages.set_trainable`; a model in 4 bits is frozen as a whole, for LoRA to say what moves.

    Bytes take no gradient, so asking the text model for one would fail.
    """
    if not stage.load_in_4bit:
        return stages.set_trainable(model, stage.stage)
    from peft import prepare_model_for_kbit_training

    # The Trainer switches checkpointing on itself, as in every other stage.
    prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return {}
