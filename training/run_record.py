"""What a finished stage leaves: a checkpoint that strangers can load, and the record of what made it."""

import hashlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from training.frozen_weights import full_state
from training.loss_chart import draw_losses
from training.machine import hardware, peak_memory_gb
from training.recipe import OF_LORA
from training.throughput import rates

BEGUN = "run.partial.json"  # what is known of a run when it begins; `run.json` replaces it

PACKAGES = ("transformers", "torch", "trl", "accelerate", "peft", "datasets", "tokenizers", "safetensors")
# What of SFTConfig decides what is learned; not where it is written, nor any token.
DECISIVE = (
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


def finish_run(trainer, processor, record: dict, weights: dict | None = None) -> None:
    """Save model (or adapter), processor and `run.json` into the output folder, the record last.

    Without the record a run is unfinished, and its checkpoints are kept.

    Args:
        weights: the model's, where they are spread over processes (`processes.whole_weights`); None: its own.

    Raises:
        RuntimeError: an adapter was written without its projector.
    """
    output = Path(trainer.args.output_dir)
    staging = output / ".finished"
    shutil.rmtree(staging, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if "use_cache" in vars(model.config):  # the Trainer's own mark; those who load the model want their cache
        del model.config.use_cache
    if hasattr(model, "peft_config"):
        from training.lora import save_adapter

        save_adapter(model, staging, weights)
    else:
        model.save_pretrained(staging, state_dict=weights or full_state(model))
    processor.save_pretrained(staging)
    title = f"{record['stage']}, from {Path(record['base_model'][0]).name}"
    draw_losses(trainer.state.log_history, staging / "loss.png", title)
    _write_json(staging / "run.json", record)
    files = sorted(staging.iterdir(), key=lambda file: file.name == "run.json")
    for file in files:
        os.replace(file, output / file.name)
    staging.rmdir()
    (output / "README.md").unlink(missing_ok=True)  # TRL's own, of every checkpoint; the card is publishing's
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (output / BEGUN).unlink(missing_ok=True)


def begin_run(trainer, stage, rows, skipped: int, template: str | None, parameters: dict) -> dict:
    """What is known before the first step; written to `run.partial.json`, which a run that died leaves behind.

    Args:
        skipped: how many bad samples were left out; `skipped.json` names them.
        template: name of the chat template of this stage; None for the checkpoint's own.
        parameters: `{"trainable": …, "frozen": …}`, of `stages.set_trainable`.
    """
    base_run = Path(stage.model_name_or_path) / "run.json"
    begun = {
        "stage": stage.stage,
        "base_model": [stage.model_name_or_path],
        "before": json.loads(base_run.read_text(encoding="utf-8")) if base_run.is_file() else None,
        "recipe": {**recipe_values(stage, trainer.args), "chat_template": template},
        "seed": trainer.args.seed,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "data": {"path": stage.dataset, "rows": len(rows), "skipped": skipped, "sha256": data_hash(rows)},
        "parameters": parameters,
        "hardware": hardware(trainer.args.world_size),
    }
    if trainer.is_world_process_zero():
        output = Path(trainer.args.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        _write_json(output / f".{BEGUN}", begun)
        os.replace(output / f".{BEGUN}", output / BEGUN)
    return begun


def run_record(trainer, begun: dict, tokens: dict, seconds: float) -> dict:
    """Everything a card says about a run, as it was; unknown things are absent, never guessed.

    Args:
        begun: of `begin_run`.
        tokens: `{"prompt": …, "answer": …, "padding": …, "longest": …}`, of the collator, since this process started.
        seconds: since this process started.
    """
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
        "loss_curve": curve,
        "eval_curve": held_out,
    }


def recipe_values(stage, config) -> dict:
    """The values of a run that decide what is learned, as its flags and its recipe gave them."""
    values = {key: getattr(config, key) for key in DECISIVE}
    values = {key: getattr(value, "value", value) for key, value in values.items()}
    lora = {key: getattr(stage, key) for key in ("use_peft", *OF_LORA)} if stage.use_peft else {}
    return {**values, **lora, "answer_style": stage.answer_style}


def data_hash(rows) -> str:
    """sha256 over ids, prompts and completions in order; the pictures are named by the rows, not read again."""
    digest = hashlib.sha256()
    for row in rows.select_columns(["id", "prompt", "completion"]):
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
