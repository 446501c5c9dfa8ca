"""Sizes for a run on the machine at hand, by the plan's own count of memory: as much as fits is trained."""

from dataclasses import dataclass, replace
from typing import Any

from llava_mistral.training.plan.checkpoint import configuration, worded_processor
from llava_mistral.training.plan.fitting import free_ram
from llava_mistral.training.plan.gpus import present_gpu
from llava_mistral.training.plan.memory import memory_of
from llava_mistral.training.plan.printed import GB
from llava_mistral.training.plan.workload import largest_batch, measure, run_of, steps_of

STEP = 16  # samples of an optimizer step: a compromise for sets of a few hundred to a few thousand samples
# LLaVA-1.5's rates (scripts/v1_5/finetune.sh and finetune_lora.sh in haotian-liu/LLaVA).
RATE, LORA_RATE = 2.0e-5, 2.0e-4
MANY = 100_000  # rows from which one epoch is enough


@dataclass(frozen=True)
class Proposal:
    """The recipe's values that the machine decides, and why.

    Args:
        values: key -> value.
        machine: what it is, in words.
        need: how much memory the run is counted to need, in words.
        steps: optimizer steps in all.
    """

    values: dict[str, Any]
    machine: str
    need: str
    steps: int


def propose(recipe: Any, rows: Any) -> Proposal:
    """Find the most that fits: all weights before LoRA, LoRA before 4 bits, large micro-batches before small ones.

    Where nothing is known to fit, the smallest run is proposed and `need` says so; `llava-mistral train` checks again.

    Args:
        recipe: a `Recipe` with the data and the checkpoint.
        rows: those to train on.
    """
    gpu = present_gpu()
    room = gpu.memory if gpu else free_ram()
    machine = f"{gpu.name}, {room / GB:,.0f} GB free" if gpu else f"no GPU, {(room or 0) / GB:,.0f} GB of memory free"
    config, epochs = configuration(recipe.stage), 1 if len(rows) >= MANY else 3
    samples = measure(rows, worded_processor(recipe.stage), config, recipe.config.seed)
    base = run_of(recipe.stage, recipe.config, cuda=gpu is not None)
    base = replace(base, bf16=gpu is not None and _has_bf16(), checkpointing=gpu is not None, epochs=epochs)
    peak = None
    for run in _candidates(base, samples):
        memory = memory_of(config, run, largest_batch(samples, run))
        peak = memory and memory.peak
        if peak is None or room is None or peak <= room:
            break
    need = "unknown" if peak is None else f"about {peak / GB:,.1f} GB"
    need += " (more than is free)" if peak and room and peak > room else ""
    return Proposal(_values(run), machine, need, steps_of(len(rows), run)[1])


def _candidates(base: Any, samples: list):
    sizes = [size for size in (16, 8, 4, 2, 1) if size <= max(1, len(samples))]
    ways = [{}, {"lora_r": 128, "lora_dropout": 0.05}]
    if base.cuda and _has_bitsandbytes():
        ways.append({**ways[1], "four_bit": True})
    for way in ways:
        for batch in sizes:
            yield replace(base, batch=batch, accumulation=max(1, STEP // batch), **way)


def _values(run: Any) -> dict[str, Any]:
    values = {
        "num_train_epochs": run.epochs,
        "learning_rate": LORA_RATE if run.lora_r else RATE,
        "per_device_train_batch_size": run.batch,
        "gradient_accumulation_steps": run.accumulation,
        "bf16": run.bf16,
        "gradient_checkpointing": run.checkpointing,
    }
    if run.lora_r:
        values |= {"use_peft": True, "lora_r": run.lora_r, "lora_alpha": 2 * run.lora_r}
    return values | ({"load_in_4bit": True} if run.four_bit else {})


def _has_bf16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported()


def _has_bitsandbytes() -> bool:
    import importlib.util

    return importlib.util.find_spec("bitsandbytes") is not None
