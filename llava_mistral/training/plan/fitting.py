"""Whether a run fits the machine it is started on."""

import sys
from collections.abc import Collection
from math import ceil
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.plan.checkpoint import configuration
from llava_mistral.training.plan.gpus import fitting_changes, present_gpu
from llava_mistral.training.plan.memory import UNKNOWN, memory_of
from llava_mistral.training.plan.printed import ANY, GB, advice, decide
from llava_mistral.training.plan.workload import largest_batch, measure, run_of, split_rows


def check_fit(stage: Any, config: Any, rows: Any, processor: Any, given: Collection[str] | None = None) -> None:
    """Refuse a run that the GPU of this process cannot hold; on a CPU, warn where the free memory will not do.

    On a GPU, what was not given is decided by its memory first, and put into `config`; see `decide`.

    Args:
        stage: a `StageArguments`.
        config: an `SFTConfig`.
        processor: with the stage's chat template.
        given: keys that recipe or flags name; None: all.

    Raises:
        BadInput: names the smallest change that fits; `--force_fit` goes on without.
    """
    gpu = None if config.use_cpu else present_gpu()
    of_model = configuration(stage)
    run = run_of(stage, config, config.world_size, cuda=gpu is not None)
    run = split_rows(run, stage, config, rows, of_model)
    samples = measure(rows, processor, of_model, config.seed)
    if gpu is not None and given is not None and config.world_size == 1:  # several would have to agree
        run = decide(of_model, run, samples, gpu, given)
        config.activation_checkpointing = config.gradient_checkpointing = run.checkpointing
        config.per_device_train_batch_size, config.gradient_accumulation_steps = run.batch, run.accumulation
        if "row_tokens" not in given:
            stage.row_tokens = ANY  # the rows are as long as they were decided to be
        if config.dataloader_num_workers and "dataloader_prefetch_factor" not in given:  # a step takes them at once
            config.dataloader_prefetch_factor = max(2, ceil(run.accumulation / config.dataloader_num_workers))
    memory = memory_of(of_model, run, largest_batch(samples, run))
    if memory is None:
        if gpu is not None and not run.deepspeed:
            message = f"whether the run fits was not checked: of {run.optim}, {UNKNOWN[run.optim]}"
            print(f"llava-mistral train: {message}", file=sys.stderr)
        return
    if gpu is None:
        free = free_ram()
        if free is not None and memory.peak > free:
            message = f"needs {memory.peak / GB:,.1f} GB and {free / GB:,.1f} GB are free"
            print(f"llava-mistral train: warning: the run {message}; it may be killed", file=sys.stderr)
        return
    if memory.peak <= gpu.memory or stage.force_fit:
        return
    changes = fitting_changes(of_model, run, lambda other: largest_batch(samples, other), gpu)
    raise BadInput(
        f"the run needs {memory.peak / GB:,.1f} GB and {gpu.name} has {gpu.memory / GB:,.1f} GB free for it",
        remedy=f"{advice([change.flags for change in changes])}; --force_fit starts it anyway",
        field="plan",
    )


def free_ram() -> float | None:
    """Bytes of memory that can be had on Linux without swapping; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else float(found) * 1024
