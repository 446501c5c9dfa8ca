"""The GPUs a run is planned for, whether it fits them, and the smallest change that makes it."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from llava_mistral.training.machine import vendor_peak
from llava_mistral.training.plan.memory import memory_of
from llava_mistral.training.plan.workload import Batch, Run
from llava_mistral.training.recipe import StageArguments

# Shares of the peak, by all operations that are carried out, those of checkpointing a second time among them (HFU; MFU
# counts the model's operations once). Of stage 1 and of a full stage 2 what LLaVA-1.5's published hours mean, on the
# mean of 7B and 13B (`published`); LoRA's hours are not published: its share is computed from the memory traffic of
# its low-rank matrices and their dropout. None was measured with this code.
UTILISATION = {"stage 1": 0.45, "stage 2": 0.30, "LoRA": 0.26}
SOURCES = dict.fromkeys(("stage 1", "stage 2"), "LLaVA-1.5's published hours on A100")
SOURCES["LoRA"] = "computed, not measured"
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


def kind_of(run: Run) -> str:
    """The key of `UTILISATION` that applies to `run`."""
    return "LoRA" if run.lora_r else "stage 1" if run.stage == "pretrain" else "stage 2"


def utilisation(run: Run) -> float:
    """The share of the peak that runs of this kind reach."""
    return UTILISATION[kind_of(run)]


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
    """A change to a run as flags, and the changed run."""

    flags: str
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

    def peak(change: Change) -> float:
        memory = memory_of(config, change.run, batch_of(change.run))
        return inf if memory is None else memory.peak

    for kind in (checkpointed, fewer_rows, smaller_batch, eight_bit):
        if found := fitting(kind):
            yield found[0]
            return
        gentle = min([gentle, *kind(gentle)], key=peak)
    if found := fitting(sixteen_bit):  # which cannot be spread over several GPUs
        yield found[0]
        return
    yield from (fitting(low_rank) or fitting(four_bit))[:1]
    yield from sorted(fitting(spread), key=lambda change: change.run.world)[:1]


def _with(change: Change, note: str, **values) -> Change:
    return Change(f"{change.flags} {note}".strip(), replace(change.run, **values))


def _with_rows(change: Change, run: Run, more: str = "") -> Change:
    """The change with the micro-batches of `run` in place of those that it named."""
    before = re.sub(r"--per_device_train_batch_size \d+ --gradient_accumulation_steps \d+", "", change.flags)
    flags = f"--per_device_train_batch_size {run.batch} --gradient_accumulation_steps {run.accumulation}{more}"
    return Change(" ".join(f"{before} {flags}".split()), run)


def checkpointed(change: Change) -> Iterator[Change]:
    """Compute each layer again on the way back."""
    if not change.run.checkpointing:
        yield _with(change, "--gradient_checkpointing True", checkpointing=True)


def smaller_batch(change: Change) -> Iterator[Change]:
    """Halve the micro-batch and double the accumulation, so that a step has the same samples."""
    run = change.run
    while run.batch % 2 == 0:
        run = replace(run, batch=run.batch // 2, accumulation=run.accumulation * 2)
        yield _with_rows(change, run)


def fewer_rows(change: Change) -> Iterator[Change]:
    """A step's samples in one longer row: where all weights are trained no old gradients then lie beside the casts."""
    if change.run.packed and change.run.accumulation > 1:
        run = replace(change.run, batch=change.run.batch * change.run.accumulation, accumulation=1)
        yield _with_rows(change, run, " --row_tokens 1000000")


def eight_bit(change: Change) -> Iterator[Change]:
    """AdamW's states in a byte each (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022)."""
    if change.run.optim.startswith("adamw_torch"):
        yield _with(change, "--optim adamw_bnb_8bit", optim="adamw_bnb_8bit")


def sixteen_bit(change: Change) -> Iterator[Change]:
    """Trained matrices and their gradients in bfloat16 with stochastic rounding, and AdamW's states in a byte each."""
    if change.run.full and not change.run.small_trained and change.run.bf16 and not change.run.sharded:
        flags = "--trained_dtype bfloat16 --optim adamw_torch_8bit"
        before = replace(change, flags=change.flags.replace("--optim adamw_bnb_8bit", "").strip())
        yield _with(before, flags, optim="adamw_torch_8bit", small_trained=True)


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
