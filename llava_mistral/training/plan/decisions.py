"""Settings chosen by the GPU's memory where the recipe leaves them open: gradient checkpointing and row length."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from llava_mistral.training.plan.gpus import Gpu
from llava_mistral.training.plan.memory import memory_of
from llava_mistral.training.plan.workload import Run, Sample, largest_batch

ANY = 10**9  # tokens: no row is too long
SHORT = 2048  # tokens of a row below which it is better to compute layers again than to make rows shorter


def decide(config: Any, run: Run, samples: list[Sample], gpu: Gpu, given: Collection[str]) -> Run:
    """The fastest form of `run` that `gpu` holds: layers kept rather than computed again, then rows as long as fit.

    A step has the same samples, and loss and gradients are the same. Decided is `gradient_checkpointing`, and the rows
    of a step where they are packed and `row_tokens` is not among `given`. Where nothing fits, or memory is not known,
    the run is as it was.

    Args:
        config: a `LlavaMistralConfig`.
    """
    chosen = {"gradient_checkpointing", "activation_checkpointing"} & set(given)
    ways = [run.checkpointing] if chosen else [False, True]
    step, sizes = run.batch * run.accumulation, [run.batch]
    if run.packed and "row_tokens" not in given:
        sizes = [size for size in range(step, 0, -1) if step % size == 0]
    for checkpointing in ways:
        for size in sizes:
            other = replace(run, checkpointing=checkpointing, batch=size, accumulation=step // size)
            batch = largest_batch(samples, other)
            if not checkpointing and len(ways) > 1 and size < run.batch and batch.tokens < SHORT:
                break
            memory = memory_of(config, other, batch)
            if memory is not None and memory.peak <= gpu.memory:
                return other
    return run
