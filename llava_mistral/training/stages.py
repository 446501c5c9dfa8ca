"""The parameters that each stage trains, and the checks of its template and data.

Stage 1 (`pretrain`) moves the projector alone; stage 2 (`finetune`) moves the projector and the text model. The vision
tower is frozen in both. Source: Liu et al., "Improved Baselines with Visual Instruction Tuning", 2023.
"""

import sys
from typing import TYPE_CHECKING

from llava_mistral.ground.bad_input import BadInput

if TYPE_CHECKING:
    import torch


# With tiles (anyres) a newline stands among the projector's outputs; it is drawn at random, so it is learned with it.
PROJECTION = ("model.multi_modal_projector.", "model.image_newline")
TRAINED = {
    "pretrain": PROJECTION,
    "finetune": (*PROJECTION, "model.language_model.", "lm_head."),
}


def is_projection(name: str) -> bool:
    """Whether a parameter, of a model wrapped by PEFT or not, is what stage 1 trains."""
    return any(f".{part}" in f".{name}" for part in PROJECTION)


def set_trainable(model: "torch.nn.Module", stage: str) -> dict[str, int]:
    """Freeze all but what `stage` trains; returns parameter counts `{"trainable": …, "frozen": …}`."""
    counts = {"trainable": 0, "frozen": 0}
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(TRAINED[stage]))
        counts["trainable" if weight.requires_grad else "frozen"] += numbers_in(weight)
    return counts


def numbers_in(weight: "torch.nn.Parameter") -> int:
    """Numbers of the whole weight: ZeRO-3 leaves an empty one in each process, 4 bits lie two in a byte."""
    packed = 2 if type(weight).__name__ == "Params4bit" else 1
    return getattr(weight, "ds_numel", packed * weight.numel())


def has_untrained_projector(model: "torch.nn.Module") -> bool:
    """Whether the projector is as it was drawn: all its biases are exactly zero, which a single step ends.

    Told from the weights, because a record may be absent (a Hub id, a converted folder). A projector without biases
    says nothing.
    """
    biases = [weight for name, weight in model.named_parameters() if ".multi_modal_projector." in f".{name}"]
    biases = [weight for weight in biases if weight.ndim == 1 and weight.numel()]  # ZeRO-3's are empty and say nothing
    return bool(biases) and not any(bias.any() for bias in biases)


def warn_of_untrained_projector(model: "torch.nn.Module", name: str) -> None:
    """Warn if stage 2 would start from an untrained projector, which may be intended."""
    if has_untrained_projector(model):
        print(f"{name}: the projector looks untrained; run --stage pretrain first", file=sys.stderr)


def check_template(processor, stage: str, file: str, *, may_drop_question: bool = False) -> None:
    """Refuse to fine-tune with a template that does not render the question.

    The study's published scripts did: LLaVA's `plain` renders picture and answer, so the loss went down while the
    question was never seen.

    Args:
        may_drop_question: do not refuse; for measuring what it costs.

    Raises:
        BadInput: stage 2 and the question is not in the rendered prompt.
    """
    probe = "zebra crossing"  # words no template brings along
    question = [{"type": "image"}, {"type": "text", "text": probe}]
    prompt = processor.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    if stage == "finetune" and probe not in prompt and not may_drop_question:
        raise BadInput(
            "the chat template drops the question",
            remedy="use mistral_instruct or vicuna_v1 for stage 2; plain is for captions in stage 1",
            file=file,
            field="chat_template",
        )


def check_rows(rows, stage: str, file: str) -> None:
    """Refuse an empty data set, and pictures missing where stage 1 has nothing else to learn from.

    Raises:
        BadInput: names the first row without a picture.
    """
    if len(rows) == 0:
        raise BadInput("the data set is empty", remedy="give one with at least one row", file=file, field="dataset")
    if stage != "pretrain":
        return
    counts = rows.with_format("arrow")["images"]
    for index, count in enumerate(_lengths(counts)):
        if not count:
            raise BadInput(
                "stage 1 trains the projector and this row has no picture",
                remedy="give image-text pairs",
                file=file,
                record=rows[index]["id"],
                field="images",
            )


def check_batch(rows: int, config, file: str) -> None:
    """Refuse data that has not one batch, where incomplete ones are dropped.

    Args:
        config: an `SFTConfig`.

    Raises:
        BadInput: names both numbers.
    """
    batch = config.train_batch_size * config.world_size
    if config.dataloader_drop_last and rows < batch:
        raise BadInput(
            f"{rows:,} rows do not fill one batch of {batch:,}, and dataloader_drop_last drops what is not full",
            remedy="use a smaller --per_device_train_batch_size, or --dataloader_drop_last False",
            file=file,
            field="dataloader_drop_last",
        )


def _lengths(column) -> list[int]:
    import pyarrow.compute

    chunks = column.chunks if hasattr(column, "chunks") else [column[:]]
    return [length for chunk in chunks for length in pyarrow.compute.list_value_length(chunk).to_pylist()]
