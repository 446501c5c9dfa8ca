"""The GPUs a run is planned for, whether it fits them, and the smallest change that makes it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from llava_mistral.training.peaks import vendor_peak
from llava_mistral.training.plan.memory import memory_of
from llava_mistral.training.plan.workload import Batch, Run
from llava_mistral.training.recipe import StageArguments

# Of the peak, by all operations that are carried out, those of checkpointing a second time among them (HFU). Llama 3's
# runs on H100, which computed nothing twice, reached 38 to 43 % (Dubey et al., "The Llama 3 Herd of Models", 2024,
# table 4): there it is the same as MFU, which counts the model's operations once.
UTILISATION = 0.40
SOURCE = "Llama 3, 38-43 % on H100: Dubey et al. 2024, table 4"
SPARE = 0.06  # of a present GPU's memory, for CUDA's context and the allocator's gaps


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes, and peak bfloat16 FLOP/s without sparsity; None where it is not known."""

    name: str
    memory: float
    flops: float | None


# The boards with SXM sockets, by NVIDIA's data sheets. A sheet's 80 GB are 85e9 bytes to torch: the difference is what
# `SPARE` keeps of a GPU that is present.
GPUS = {
    "A100-80GB": Gpu("A100-80GB", 80e9, vendor_peak("NVIDIA A100-SXM4-80GB")),
    "H100": Gpu("H100", 80e9, vendor_peak("NVIDIA H100 80GB HBM3")),
    "H200": Gpu("H200", 141e9, vendor_peak("NVIDIA H200")),
}


def present_gpu() -> Gpu | None:
    """The GPU of this process with the memory that is free on it now, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    # Each process asks its own: a question to another's GPU would take half a gigabyte of it for a context.
    own = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
    free, whole = torch.cuda.mem_get_info(own)
    name = torch.cuda.get_device_name(own)
    return Gpu(name, free - SPARE * whole, vendor_peak(name))


@dataclass(frozen=True)
class Change:
    """What to do differently, as flags say it, and the run it makes."""

    said: str
    run: Run


def fits(config: Any, run: Run, batch_of: Callable[[Run], Batch], gpu: Gpu) -> bool | None:
    """Whether the peak of `run` is within the memory of `gpu`; None where it cannot be known."""
    memory = memory_of(config, run, batch_of(run))
    return None if memory is None else memory.peak <= gpu.memory


def fitting_changes(config: Any, run: Run, batch_of: Callable[[Run], Batch], gpu: Gpu) -> Iterator[Change]:
    """Changes that make `run` fit `gpu`, the least intrusive first.

    Each is tried alone, then on top of those before it that leave all weights trained. Where only fewer trained
    weights help, sharding them all over several GPUs is named, too. `batch_of` gives the largest micro-batch of a run.
    """
    bare = gentle = Change("", run)

    def fitting(kind: Callable[[Change], Iterator[Change]]) -> list[Change]:
        return [change for change in (*kind(bare), *kind(gentle)) if fits(config, change.run, batch_of, gpu)]

    for kind in (checkpointed, smaller_batch, eight_bit):
        if found := fitting(kind):
            yield found[0]
            return
        gentle = ([gentle, *kind(gentle)])[-1]
    yield from (fitting(low_rank) or fitting(four_bit))[:1]
    yield from sorted(fitting(spread), key=lambda change: change.run.world)[:1]


def _with(change: Change, said: str, **values) -> Change:
    return Change(f"{change.said} {said}".strip(), replace(change.run, **values))


def checkpointed(change: Change) -> Iterator[Change]:
    """Compute each layer again on the way back."""
    if not change.run.checkpointing:
        yield _with(change, "--gradient_checkpointing True", checkpointing=True)


def smaller_batch(change: Change) -> Iterator[Change]:
    """Halve the micro-batch and double the accumulation, so that a step has the same samples."""
    before, run = change.said, change.run
    while run.batch % 2 == 0:
        run = replace(run, batch=run.batch // 2, accumulation=run.accumulation * 2)
        flags = f"--per_device_train_batch_size {run.batch} --gradient_accumulation_steps {run.accumulation}"
        yield Change(f"{before} {flags}".strip(), run)


def eight_bit(change: Change) -> Iterator[Change]:
    """AdamW's states in a byte each (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022)."""
    if change.run.optim.startswith("adamw_torch"):
        yield _with(change, "--optim adamw_bnb_8bit", optim="adamw_bnb_8bit")


def low_rank(change: Change) -> Iterator[Change]:
    """LoRA with the recipe's rank, where stage 2 trains all weights."""
    if change.run.full:
        rank, dropout = StageArguments.lora_r, StageArguments.lora_dropout
        yield _with(change, "--use_peft True (LoRA)", lora_r=rank, lora_dropout=dropout)


def four_bit(change: Change) -> Iterator[Change]:
    """LoRA over 4-bit weights, where stage 2 does not do so already."""
    if change.run.stage == "finetune" and not change.run.four_bit:
        rank, dropout = change.run.lora_r or StageArguments.lora_r, StageArguments.lora_dropout
        flags = "--use_peft True --load_in_4bit True (QLoRA)"
        yield _with(change, flags, lora_r=rank, lora_dropout=dropout, four_bit=True)


def spread(change: Change) -> Iterator[Change]:
    """Shard weights, gradients and optimizer over two to sixty-four GPUs."""
    if change.run.four_bit:
        return
    for count in (2, 4, 8, 16, 32, 64):
        if count > change.run.world or not change.run.sharded:
            yield _with(change, f"FSDP over {count} GPUs", sharded=True, world=count)
