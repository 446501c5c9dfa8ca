"""QLoRA: the frozen matrices of the text layers in 4 bits, everything else as it is in LoRA.

Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023. Needs bitsandbytes and a GPU.
"""

import os
from typing import TYPE_CHECKING, Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training import stages

if TYPE_CHECKING:
    import torch

# Kept in full precision: what the loss reads, what is trained in full, and the eyes.
IN_FULL = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]


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
    """nf4 with double quantisation, computed in bfloat16."""
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
