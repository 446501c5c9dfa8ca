"""The plan of a run for a reader, and the settings that a GPU's memory decides where the recipe leaves them open."""

import json
import os
from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

from llava_mistral.training.context import beyond_context, describe_beyond
from llava_mistral.training.plan.checkpoint import configuration, worded_processor
from llava_mistral.training.plan.gpus import GPUS, SOURCES, Gpu, kind_of, present_gpu, utilisation
from llava_mistral.training.plan.memory import memory_of
from llava_mistral.training.plan.run_plan import OnGpu, Plan, plan
from llava_mistral.training.plan.workload import Run, Sample, largest_batch, measure, run_of, split_rows

GB = 1e9
ANY = 10**9  # tokens: no row is too long
SHORT = 2048  # tokens of a row below which it is better to compute layers again than to make rows shorter


def print_plan(recipe: Any, rows: Any) -> int:
    """Print the plan of a `Recipe` as a table and one line of JSON; returns 2 if it fits on no GPU, else 0."""
    stage, config = recipe.stage, recipe.config
    present = None if stage.plan_gpu else present_gpu()
    gpus = [GPUS[stage.plan_gpu]] if stage.plan_gpu else [present] if present else list(GPUS.values())
    if stage.peak_tflops:
        gpus = [replace(gpu, flops=stage.peak_tflops * 1e12) for gpu in gpus]
    of_model, processor = configuration(stage), worded_processor(stage)
    beyond, rows = without_beyond(rows, processor, of_model)
    run = run_of(stage, config, stage.plan_gpus or int(os.environ.get("WORLD_SIZE", 1)))
    run = split_rows(run, stage, config, rows, of_model)
    samples = measure(rows, processor, of_model, config.seed)
    if len(gpus) == run.world == 1:
        run = decide(of_model, run, samples, gpus[0], recipe.given)
    made = plan(of_model, run, samples, len(rows), gpus, beyond)
    print("\n".join(lines_of(made, run)))
    print("PLAN " + json.dumps(asdict(made)))
    return 2 if all(gpu.fits is False for gpu in made.on.values()) else 0


def without_beyond(rows: Any, processor: Any, config: Any) -> tuple[str, Any]:
    """What is beyond the context, in words ("" for nothing), and the rows that are not."""
    long = beyond_context(rows, processor, config)
    if not long:
        return "", rows
    indices = {index for index, _ in long}
    lines = describe_beyond(long, list(rows.select(sorted(indices))["id"]), len(rows), config)
    return lines, rows.select([index for index in range(len(rows)) if index not in indices])


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
    table += [("beyond the context", made.beyond or "no sample")]
    table += [("rows of a step", f"{run.accumulation:,} of up to {run.batch:,} samples on each GPU")]
    table += [("computed with padding", f"{made.padding:.2f} tokens for each")]
    table += [("operations", f"{made.flops:.3g}, of which {made.model_flops:.3g} are the model's")]
    table += [(f"on {run.world} {name}", gpu_cell(on)) for name, on in made.on.items()]
    width = max(len(name) for name, _ in table)
    lines = [f"{name:<{width}}  {value}" for name, value in table]
    share = f"Hours with all operations, repeated ones too, at {utilisation(run):.0%} of the peak bfloat16 FLOP/s"
    share += f" of NVIDIA's data sheets ({SOURCES[kind_of(run)]})."
    unknown = [name for name, on in made.on.items() if on.hours is None]
    notes = [f"{name}: no peak known, give --peak_tflops N for its hours and its MFU." for name in unknown]
    return [*lines, share, *notes]


def gpu_cell(on: OnGpu) -> str:
    """One GPU's cell."""
    fit = {True: "fits", False: "does not fit", None: "unknown whether it fits"}[on.fits]
    hours = "unknown" if on.hours is None else f"{on.hours:,.2f}"
    return f"{fit}; {advice(on.changes)}" if on.fits is False else f"{fit}, {hours} hours"


def advice(changes: list[str]) -> str:
    """The changes that help, the smallest first."""
    return "use " + ", or ".join(changes) if changes else "no change that is known here makes it fit"


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
