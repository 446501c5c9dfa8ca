"""What a finished stage leaves: a checkpoint that strangers can load, and the record of what made it."""

import hashlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from transformers import TrainerCallback


PACKAGES = ("transformers", "torch", "trl", "accelerate", "peft", "datasets", "tokenizers", "safetensors")


class LossLog(TrainerCallback):
    """Keeps every logged loss, `(step, loss)`, for the record and the curve."""

    def __init__(self):
        self.curve: list[tuple[int, float]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.curve.append((state.global_step, float(logs["loss"])))

    @property
    def last(self) -> float:
        return self.curve[-1][1] if self.curve else float("nan")


def finish_run(
    trainer, processor, stage, rows, parameters: dict, tokens: dict, losses: LossLog, seconds: float
) -> None:
    """Save model, processor and `run.json` into the output folder, the record last: without it a run is unfinished."""
    output = Path(trainer.args.output_dir)
    staging = output / ".finished"
    shutil.rmtree(staging, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if "use_cache" in vars(model.config):  # the Trainer's own mark; those who load the model want their cache
        del model.config.use_cache
    model.save_pretrained(staging)
    processor.save_pretrained(staging)
    _write_json(staging / "run.json", run_record(trainer, stage, rows, parameters, tokens, losses, seconds))
    files = sorted(staging.iterdir(), key=lambda file: file.name == "run.json")
    for file in files:
        os.replace(file, output / file.name)
    staging.rmdir()
    (output / "README.md").unlink(missing_ok=True)  # TRL's own, of every checkpoint; the card is publishing's
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def run_record(trainer, stage, rows, parameters: dict, tokens: dict, losses: LossLog, seconds: float) -> dict:
    """Everything a card says about a run, as it was; unknown things are absent, never guessed."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    base_run = Path(stage.model_name_or_path) / "run.json"
    return {
        "stage": stage.stage,
        "base_model": [stage.model_name_or_path],
        "before": json.loads(base_run.read_text(encoding="utf-8")) if base_run.is_file() else None,
        "recipe": recipe_values(stage, trainer.args),
        "seed": trainer.args.seed,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "data": {"path": stage.dataset, "rows": len(rows), "sha256": data_hash(rows)},
        "parameters": parameters,
        "tokens": tokens,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": round(seconds, 1),
        "hardware": {"gpu": gpu, "gpus": torch.cuda.device_count(), "cpu_cores": os.cpu_count()},
        "final_loss": losses.last if losses.curve else None,
        "loss_curve": losses.curve,
    }


def recipe_values(stage, config) -> dict:
    """The values that decide what is learned; not where it is written, nor any token."""
    keys = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
            "weight_decay", "lr_scheduler_type", "warmup_steps", "optim", "bf16", "gradient_checkpointing", "seed")  # fmt: skip
    values = {key: getattr(config, key) for key in keys}
    values = {key: getattr(value, "value", value) for key, value in values.items()}
    return {**values, "answer_style": stage.answer_style, "chat_template": stage.chat_template}


def data_hash(rows) -> str:
    """sha256 over ids, prompts and completions in order; the pictures are named by the rows, not read again."""
    digest = hashlib.sha256()
    for row in rows.select_columns(["id", "prompt", "completion"]):
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
