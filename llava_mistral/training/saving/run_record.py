"""Save a finished stage: a loadable checkpoint, and `run.json`, the record of the run."""

import hashlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from llava_mistral.data.conversations import count_pictures
from llava_mistral.ground.strict_json import as_json, write_json
from llava_mistral.training.loss_chart import draw_losses
from llava_mistral.training.machine import hardware, peak_memory_gb
from llava_mistral.training.processes import is_first_process
from llava_mistral.training.recipe_keys import BESIDE_IDENTITY
from llava_mistral.training.saving.output_folder import BEGUN, FINISHED, RECORD
from llava_mistral.training.saving.whole_checkpoints import (
    DAMAGED,
    PARTIAL,
    checkpoints,
    partial_folder,
    sync_entry,
    sync_folder,
)

PACKAGES = ("transformers", "torch", "trl", "accelerate", "peft", "datasets", "tokenizers", "safetensors")
# What of SFTConfig a card names in any case; what else was given and decides what is learned stands beside it.
NAMED = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "bf16",
    "gradient_checkpointing",
    "seed",
)

SET_HERE = ("max_length", "remove_unused_columns")  # refused in a recipe, whatever the value here

READ_AT_MOST = 1 << 29  # bytes of picture files: half a gibibyte is read in about a second


def finish_run(trainer, processor, record: dict, weights: dict | None = None) -> None:
    """Save model (or adapter), processor and `run.json` into the output folder, the record last.

    Until `.finished` has its name the run is unfinished and goes on from its checkpoints; from then on only files have
    to be moved, which `complete_run` does now or when the same command is given again.

    Args:
        weights: the model's, where they are spread over processes (`processes.whole_weights`); None: its own.

    Raises:
        RuntimeError: an adapter was written without its projector.
    """
    output = Path(trainer.args.output_dir)
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if "use_cache" in vars(model.config):  # the Trainer's own mark; those who load the model want their cache
        del model.config.use_cache
    with partial_folder(output) as partial:
        staging = partial / FINISHED
        if hasattr(model, "peft_config"):
            from llava_mistral.training.lora import save_adapter

            save_adapter(model, staging, weights)
        else:
            from llava_mistral.training.frozen_weights import saved_state, stored_types

            stored = stored_types(record["base_model"][0], record.get("base_revision"))
            model.save_pretrained(staging, state_dict=saved_state(model, stored, weights))
        processor.save_pretrained(staging)
        title = f"{record['stage']}, from {Path(record['base_model'][0]).name}"
        draw_losses(trainer.state.log_history, staging / "loss.png", title)
        (staging / "run.json").write_text(as_json(record), encoding="utf-8")
        sync_folder(staging)
        os.rename(staging, output / FINISHED)
        sync_entry(output)
    complete_run(output)


def complete_run(output: Path) -> None:
    """Move what `.finished` holds into place, remove what only an unfinished run needs, and show `run.json` last.

    May be killed and called again at any moment; without anything to complete it does nothing.
    """
    if not is_first_process():
        return
    finished, record = output / FINISHED, output / RECORD
    if (finished / "run.json").is_file():
        for file in sorted(finished.iterdir()):
            if file.name != "run.json":
                os.replace(file, output / file.name)
        (output / "README.md").unlink(missing_ok=True)  # TRL's own, of every checkpoint; the card is publishing's
        for folder in [*checkpoints(output), *output.glob(f"{DAMAGED}*"), output / PARTIAL]:
            shutil.rmtree(folder, ignore_errors=True)
        (output / BEGUN).unlink(missing_ok=True)
        sync_entry(output)
        os.rename(finished / "run.json", record)
    if record.is_file():
        shutil.rmtree(finished, ignore_errors=True)
        sync_entry(output)
        os.rename(record, output / "run.json")
        sync_entry(output)


def terms_of(dataset: str) -> dict[str, str]:
    """Source and licence of a pruned set, as its manifest states them: so the terms of the data reach the card."""
    path = Path(dataset) / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError):  # no pruned set, or one on the Hub; a damaged manifest is pruning's to refuse
        return {}
    details = manifest if isinstance(manifest, dict) else {}
    return {key: details[key] for key in ("source", "license") if isinstance(details.get(key), str)}


def begin_run(trainer, recipe, rows, bad, template: str | None, parameters: dict) -> dict:
    """What is known before the first step; written to `run.partial.json`, which a run that died leaves behind.

    Args:
        recipe: the `Recipe` as it was given; the trainer may split its micro-batches.
        bad: the `BadSamples` that were left out; `skipped.json` names them.
        template: name of the chat template of this stage; None for the checkpoint's own.
        parameters: `{"trainable": …, "frozen": …}`, of `stages.set_trainable`.
    """
    stage = recipe.stage
    base_run = Path(stage.model_name_or_path) / "run.json"
    begun = {
        "stage": stage.stage,
        "base_model": [stage.model_name_or_path],
        "base_revision": stage.model_revision,
        "before": json.loads(base_run.read_text(encoding="utf-8")) if base_run.is_file() else None,
        "recipe": {**recipe_values(recipe), "chat_template": template},
        "seed": trainer.args.seed,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "data": {
            "path": stage.dataset,
            "rows": len(rows),
            **count_pictures(rows),
            "skipped": len(bad.listed),
            **bad.counted,
            "sha256": trainer.identity.data,
            **terms_of(stage.dataset),
        },
        "parameters": parameters,
        "micro_batches": {
            "samples": trainer.args.per_device_train_batch_size,
            "of_a_step": trainer.args.gradient_accumulation_steps,
        },
        "hardware": hardware(trainer.args.world_size),
    }
    if trainer.is_world_process_zero():
        output = Path(trainer.args.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        bad.write(output)
        write_json(output / BEGUN, begun)
    return begun


def run_record(trainer, begun: dict, tokens: dict, seconds: float) -> dict:
    """Return the record of a run for its card; unknown facts are absent, never guessed.

    Args:
        begun: of `begin_run`.
        tokens: `{"prompt": …, "answer": …, "padding": …, "longest": …}`, of the collator, since this process started.
        seconds: since this process started.
    """
    from llava_mistral.training.throughput import rates

    log, meter = trainer.state.log_history, trainer.meter
    curve, held_out = ([(row["step"], float(row[key])) for row in log if key in row] for key in ("loss", "eval_loss"))
    describe_window = getattr(trainer.model.config, "describe_window", None)  # older checkpoints lack it
    return {
        **begun,
        "tokens": tokens,
        "window": describe_window(tokens["longest"]) if describe_window and tokens["longest"] else None,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": round(seconds, 1),
        "throughput": rates(meter.total, meter.peak, trainer.args.world_size) if meter else None,
        "peak_memory_gb": peak_memory_gb(),
        "final_loss": curve[-1][1] if curve else None,
        "best": best_of(trainer),
        "loss_curve": curve,
        "eval_curve": held_out,
    }


def recipe_values(recipe) -> dict:
    """The values of a run that decide what is learned, as its flags and its recipe gave them."""
    stage, config = recipe.stage, recipe.config
    values = {key: getattr(config, key) for key in NAMED}
    given = (key for key in recipe.given if hasattr(config, key) and key not in {*BESIDE_IDENTITY, *SET_HERE})
    values |= {key: getattr(config, key) for key in given}
    values = {key: getattr(value, "value", value) for key, value in values.items()}
    lora = {key: getattr(stage, key) for key in ("use_peft", "lora_r", "lora_alpha", "lora_dropout")}
    values |= lora if stage.use_peft else {}
    values |= {"mm_projector_lr": stage.projector_lr} if stage.projector_lr is not None else {}
    return {**values, "answer_style": stage.answer_style}


def best_of(trainer) -> dict | None:
    """The step whose weights are saved where that is not the last one (`load_best_model_at_end`), and its losses."""
    state = trainer.state
    if not trainer.args.load_best_model_at_end or state.best_model_checkpoint is None:
        return None
    step = int(Path(state.best_model_checkpoint).name.removeprefix("checkpoint-"))
    losses = {
        key: row[key]
        for row in state.log_history
        if row["step"] == step
        for key in ("loss", "eval_loss")
        if key in row
    }
    return {"step": step, "metric": trainer.args.metric_for_best_model, "value": state.best_metric, **losses}


def data_hash(rows) -> str:
    """sha256 over ids, prompts, completions and pictures in order; no picture is decoded.

    A picture kept as bytes counts by them; a file by its name, size and, unless there are more than `READ_AT_MOST`
    bytes of them, its content. Folders do not count: a data set may move.
    """
    digest = hashlib.sha256()
    columns = [name for name in ("id", "prompt", "completion", "images") if name in rows.column_names]
    files = _FileIdentity(_picture_paths(rows))
    for batch in _batches(rows, columns, "hashing the data"):
        for row in batch.to_pylist():
            row["images"] = [files.of(picture) for picture in row.get("images") or ()]
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def _batches(rows, columns: list[str], doing: str):
    from tqdm import tqdm

    batches = rows.select_columns(columns).with_format("arrow").iter(batch_size=1000)
    return tqdm(batches, desc=doing, total=-(-len(rows) // 1000), delay=2, leave=False)


def _picture_paths(rows) -> set[str]:
    if "images" not in rows.column_names:
        return set()
    pictures = (
        picture
        for batch in _batches(rows, ["images"], "finding the pictures")
        for row in batch["images"].to_pylist()
        for picture in row or ()
    )
    return {picture["path"] for picture in pictures if picture["bytes"] is None}


class _FileIdentity:
    """The identity of a picture for the data hash; each file is read once."""

    def __init__(self, paths: set[str]):
        self.sizes = {path: os.stat(path).st_size for path in paths}
        self.reads = sum(self.sizes.values()) <= READ_AT_MOST
        self.known = {}

    def of(self, picture: dict) -> list:
        if picture["bytes"] is not None:
            return [hashlib.sha256(picture["bytes"]).hexdigest()]
        path = picture["path"]
        if path not in self.known:
            content = [hashlib.sha256(Path(path).read_bytes()).hexdigest()] if self.reads else []
            self.known[path] = [Path(path).name, self.sizes[path], *content]
        return self.known[path]
