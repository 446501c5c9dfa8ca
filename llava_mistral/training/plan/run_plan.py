"""Estimate a run before it starts: parameters, bytes, steps, tokens, FLOP, hours, and whether it fits.

No weight is loaded: the configuration, the tokenizer and the data say it all. The modules `memory` and `flops` beside
this one name the sources of the formulas.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llava_mistral.training.plan.flops import (
    Work,
    attended_pairs,
    head_width,
    layer_weights,
    model_flops,
)
from llava_mistral.training.plan.gpus import Gpu, fits, fitting_changes, utilisation
from llava_mistral.training.plan.memory import Memory, memory_of
from llava_mistral.training.plan.sizes import sizes_of
from llava_mistral.training.plan.workload import (
    Run,
    Sample,
    largest_batch,
    mean_of,
    padding,
    steps_of,
)


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
        beyond: samples that are longer than the context, in words; the plan is without them.
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
    beyond: str
    on: dict[str, OnGpu]


def plan(config: Any, run: Run, samples: list[Sample], rows: int, gpus: list[Gpu], beyond: str = "") -> Plan:
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
        beyond=beyond,
        on={gpu.name: on_gpu(config, run, largest, gpu, executed) for gpu in gpus},
    )


def on_gpu(config: Any, run: Run, largest: Callable, gpu: Gpu, flops: float) -> OnGpu:
    """Whether and how long; the changes are looked for where it does not fit."""
    fit = fits(config, run, largest, gpu)
    changes = list(fitting_changes(config, run, largest, gpu)) if fit is False else []
    hours = flops / (gpu.flops * utilisation(run) * run.world) / 3600 if gpu.flops else None
    return OnGpu(fit, hours, [change.flags for change in changes])


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
