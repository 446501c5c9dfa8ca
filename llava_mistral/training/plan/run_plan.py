"""What a run will take, before it is started: weights, bytes, steps, tokens, operations, hours, and whether it fits.

No weight is loaded: the configuration, the tokenizer and the data say it all. The modules `memory` and `flops` beside
this one name the sources of the formulas.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import opening
from llava_mistral.ground.foreign_code import loading
from llava_mistral.training.plan.flops import (
    Work,
    attended_pairs,
    head_width,
    layer_weights,
    model_flops,
)
from llava_mistral.training.plan.gpus import (
    GPUS,
    MFU,
    SOURCE,
    Change,
    Gpu,
    fits,
    fitting_changes,
    present_gpu,
)
from llava_mistral.training.plan.memory import Memory, memory_of
from llava_mistral.training.plan.sizes import sizes_of
from llava_mistral.training.plan.workload import (
    Run,
    Sample,
    largest_batch,
    mean_of,
    measure,
    padding,
    run_of,
    steps_of,
)
from llava_mistral.training.recipe import is_true, template_file

GB = 1e9


@dataclass(frozen=True)
class OnGpu:
    """How the run fares on one GPU: None is unknown. `changes`: flags that make it fit, the smallest change first."""

    fits: bool | None
    hours: float | None
    changes: list[str]


@dataclass(frozen=True)
class Plan:
    """See the module; bytes, tokens of text and pictures without padding, operations with recomputation.

    Args:
        memory: on one device; None where it is not known, as of other optimizers or DeepSpeed.
        activations: `{"with checkpointing": …, "without": …}`, bytes of the largest micro-batch.
        steps, samples, tokens: by `step`, `epoch` and `run`.
        padding: tokens computed for each of them.
        measured: rows whose lengths are known, of all `rows`.
        flops: of the run, on all devices; `model_flops` are without what checkpointing computes again.
        on: by GPU.
    """

    parameters: dict[str, int]
    memory: Memory | None
    activations: dict[str, float | None]
    rows: int
    measured: int
    longest: int
    padding: float
    steps: dict[str, int]
    samples: dict[str, int]
    tokens: dict[str, float]
    flops: float
    model_flops: float
    on: dict[str, OnGpu]


def plan(config: Any, run: Run, samples: list[Sample], rows: int, gpus: list[Gpu]) -> Plan:
    """Plan `run` over `rows` rows whose lengths are those of `samples`.

    Args:
        config: a `LlavaMistralConfig`.
    """
    epoch, steps = steps_of(rows, run)
    seen = run.step_samples * steps if run.max_steps else round(rows * run.epochs)
    each = mean_of(samples, "tokens")
    model, executed = run_flops(config, run, samples, seen, rows)

    def largest(other: Run):
        return largest_batch(samples, other)

    kinds = {"with checkpointing": True, "without": False}
    memories = {name: memory_of(config, replace(run, checkpointing=on), largest(run)) for name, on in kinds.items()}
    return Plan(
        parameters=sizes_of(config, run.lora_r).counts(run.stage),
        memory=memory_of(config, run, largest(run)),
        activations={name: memory and memory.activations for name, memory in memories.items()},
        rows=rows,
        measured=len(samples),
        longest=max(sample.tokens for sample in samples),
        padding=padding(samples, run),
        steps={"step": 1, "epoch": epoch, "run": steps},
        samples={"step": run.step_samples, "epoch": rows, "run": seen},
        tokens={"step": run.step_samples * each, "epoch": rows * each, "run": seen * each},
        flops=executed,
        model_flops=model,
        on={gpu.name: on_gpu(config, run, largest, gpu, executed) for gpu in gpus},
    )


def on_gpu(config: Any, run: Run, largest: Callable, gpu: Gpu, flops: float) -> OnGpu:
    """Whether and how long; the changes are looked for where it does not fit."""
    fit = fits(config, run, largest, gpu)
    changes = list(fitting_changes(config, run, largest, gpu)) if fit is False else []
    hours = flops / (gpu.flops * MFU * run.world) / 3600 if gpu.flops else None
    return OnGpu(fit, hours, [change.said for change in changes])


def run_flops(config: Any, run: Run, samples: list[Sample], seen: int, rows: int) -> tuple[float, float]:
    """Operations of the model on `seen` samples, and those that are carried out.

    The latter compute padding, too, and again: each layer under checkpointing, and the logits, which TRL's head does
    not keep. Both count as in "PaLM" (Chowdhery et al. 2022), appendix B.
    """
    text, window = config.text_config, config.window
    pairs = sum(attended_pairs(sample.tokens, window) for sample in samples) / len(samples)
    read = min(seen, rows) if run.reads_once else seen
    work = Work(
        tokens=seen * mean_of(samples, "tokens"),
        pairs=seen * pairs,
        answers=seen * mean_of(samples, "answer"),
        images=read * mean_of(samples, "tiles"),
        features=seen * mean_of(samples, "features"),
    )
    model = model_flops(config, work, run.stage, run.lora_r)
    computed = replace(work, tokens=work.tokens * padding(samples, run))
    return model, model_flops(config, computed, run.stage, run.lora_r) + repeated_flops(config, run, computed, text)


def repeated_flops(config: Any, run: Run, work: Work, text: Any) -> float:
    """Operations of what is computed a second time.

    Of a checkpointed layer all but the last matrix: torch stops when it has what the backward reads.
    """
    again = 2 * text.hidden_size * text.vocab_size * work.answers
    if run.checkpointing:
        weights = layer_weights(text) - (0 if run.lora_r else text.intermediate_size * text.hidden_size)
        weights += layer_weights(text, run.lora_r) - run.lora_r * text.hidden_size if run.lora_r else 0
        again += 2 * text.num_hidden_layers * weights * work.tokens
        again += 4 * text.num_hidden_layers * text.num_attention_heads * head_width(text) * work.pairs
    return float(again)


def world_of(values: dict) -> int:
    """How many processes train together: as asked for, or as launched."""
    return int(values.get("plan_gpus") or os.environ.get("WORLD_SIZE", 1))


def print_plan(values: dict, rows: Any) -> int:
    """Print the plan of a recipe's values as a table and one line of JSON; returns 2 if it fits on no GPU, else 0."""
    named = values.get("plan_gpu")
    present = None if named else present_gpu()
    gpus = [GPUS[named]] if named else [present] if present else list(GPUS.values())
    config, run = configuration(values), run_of(values, world_of(values))
    samples = measure(rows, worded_processor(values), config, int(values.get("seed", 0)))
    made = plan(config, run, samples, len(rows), gpus)
    print("\n".join(lines_of(made, run)))
    print("PLAN " + json.dumps(asdict(made)))
    return 2 if all(gpu.fits is False for gpu in made.on.values()) else 0


def configuration(values: dict) -> Any:
    """The checkpoint's."""
    from transformers import AutoConfig

    name = values["model_name_or_path"]
    load = loading(name, values.get("model_revision"))
    with opening(name, "config.json"):
        return AutoConfig.from_pretrained(name, **load)


def worded_processor(values: dict) -> Any:
    """The checkpoint's, with the stage's chat template."""
    from transformers import AutoProcessor

    load = loading(values["model_name_or_path"], values.get("model_revision"))
    processor = AutoProcessor.from_pretrained(values["model_name_or_path"], **load)
    template = values.get("chat_template") or ("plain" if values["stage"] == "pretrain" else None)
    if template:
        processor.chat_template = template_file(template).read_text(encoding="utf-8")
    return processor


def lines_of(made: Plan, run: Run) -> list[str]:
    """The plan for a reader; what is not known is called unknown."""

    def gb(count: float | None) -> str:
        return "unknown" if count is None else f"{count / GB:,.2f} GB"

    memory = made.memory
    parts = ("weights", "gradients", "optimizer", "casts", "loss", "pictures", "exchange")
    table = [(f"{name} parameters", f"{count:,}") for name, count in made.parameters.items()]
    table += [(part, gb(memory and getattr(memory, part))) for part in parts]
    table += [(f"activations, {name}", gb(count)) for name, count in made.activations.items()]
    table += [("peak on each GPU", gb(memory and memory.peak))]
    table += [("optimizer steps", f"{made.steps['run']:,} ({made.steps['epoch']:,} an epoch)")]
    for name in ("samples", "tokens"):
        step, epoch, whole = (getattr(made, name)[key] for key in ("step", "epoch", "run"))
        table.append((name, f"{step:,.0f} a step, {epoch:,.0f} an epoch, {whole:,.0f} in all"))
    table += [("lengths", f"of {made.measured:,} of {made.rows:,} rows; the longest has {made.longest:,} tokens")]
    table += [("computed with padding", f"{made.padding:.2f} tokens for each")]
    table += [("operations", f"{made.flops:.3g}, of which {made.model_flops:.3g} are the model's")]
    table += [(f"on {run.world} {name}", said_of(on)) for name, on in made.on.items()]
    width = max(len(name) for name, _ in table)
    lines = [f"{name:<{width}}  {value}" for name, value in table]
    return [*lines, f"Hours at {MFU:.0%} of the peak bfloat16 FLOP/s of NVIDIA's data sheets ({SOURCE})."]


def said_of(on: OnGpu) -> str:
    """One GPU's cell."""
    fit = {True: "fits", False: "does not fit", None: "unknown whether it fits"}[on.fits]
    hours = "unknown" if on.hours is None else f"{on.hours:,.2f}"
    return f"{fit}; {advice(on.changes)}" if on.fits is False else f"{fit}, {hours} hours"


def advice(changes: list[str]) -> str:
    """The changes that help, the smallest first."""
    return "use " + ", or ".join(changes) if changes else "no change that is known here makes it fit"


def check_fit(values: dict, rows: Any, processor: Any) -> None:
    """Refuse a run that the GPU of this process cannot hold; on a CPU, warn where the free memory will not do.

    Args:
        processor: with the stage's chat template.

    Raises:
        BadInput: names the smallest change that fits; `--force_fit` goes on without.
    """
    on_cpu = is_true(values.get("use_cpu", False))
    gpu = None if on_cpu else present_gpu()
    config, run = configuration(values), run_of(values, world_of({}), cuda=gpu is not None)
    samples = measure(rows, processor, config, int(values.get("seed", 0)))
    memory = memory_of(config, run, largest_batch(samples, run))
    if memory is None:
        return
    if gpu is None:
        free = free_ram()
        if free is not None and memory.peak > free:
            said = f"needs {memory.peak / GB:,.1f} GB and {free / GB:,.1f} GB are free"
            print(f"llava-mistral train: warning: the run {said}; it may be killed", file=sys.stderr)
        return
    if memory.peak <= gpu.memory or is_true(values.get("force_fit", False)):
        return
    changes: list[Change] = list(fitting_changes(config, run, lambda other: largest_batch(samples, other), gpu))
    raise BadInput(
        f"the run needs {memory.peak / GB:,.1f} GB and {gpu.name} has {gpu.memory / GB:,.1f} GB free for it",
        remedy=f"{advice([change.said for change in changes])}; --force_fit tries all the same",
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
