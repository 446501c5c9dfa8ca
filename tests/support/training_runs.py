"""The verb `train` on tiny models: run, interrupted, refused; and what it moved."""

import functools
import gc
import json
from pathlib import Path
from unittest import mock

from PIL import Image

from tests.support.running import HOME, run_here

TEMPLATES = HOME / "processing" / "chat_templates"
INSTRUCT = {"chat_template": TEMPLATES / "mistral_instruct.jinja"}
QUICK = {
    "--learning_rate": "1e-2",
    "--num_train_epochs": 2,
    "--per_device_train_batch_size": 4,
    "--logging_steps": 1,
    "--save_strategy": "no",
    "--report_to": "none",
    "--bf16": "False",
    "--gradient_checkpointing": "False",
    "--use_cpu": "True",
}


def train(stage, model, dataset, output, code: int = 0, drawn: bool = False, **flags):
    """Run the verb in this process; `loss.png`, a third of a small run's time, is the chart only when `drawn`."""
    from llava_mistral.commands.train import main

    libraries()
    given = {"--stage": stage, "--model_name_or_path": model, "--dataset": dataset, "--output_dir": output}
    given |= QUICK | {f"--{name}": value for name, value in flags.items()}
    words = [word for pair in given.items() for word in pair]
    if drawn:
        return run_here(main, *words, code=code)
    with mock.patch("llava_mistral.training.saving.run_record.draw_losses", blank_chart):
        return run_here(main, *words, code=code)


@functools.cache
def libraries() -> None:
    """Import what training needs, once, and keep it out of the collection of garbage with which each run ends."""
    import llava_mistral.training.trainer  # noqa: F401

    gc.collect()
    gc.freeze()


def blank_chart(log_history, path: Path, title: str) -> None:
    if any("loss" in row for row in log_history):
        Image.new("RGB", (8, 8)).save(path)


def moved(before: Path, after: Path) -> dict[str, bool]:
    """Weight name -> whether any of its bits changed."""
    import torch
    from safetensors.torch import load_file

    first, second = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(weight.isfinite().all() for weight in second.values())
    return {name: not torch.equal(weight, second[name]) for name, weight in first.items()}


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def refuse(tmp_path, flag: str, value: object, *, stage0, rows_file, message: str, stage="finetune"):
    """One line, exit code 2, nothing written, and no weights read."""
    from llava_mistral.commands.train import main

    given = {"--stage": stage, "--model_name_or_path": stage0, "--dataset": rows_file}
    given |= {"--output_dir": tmp_path / "out", "--use_cpu": "True", flag: value}
    before = sorted(tmp_path.rglob("*"))
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    with mock.patch("llava_mistral.training.loading.load_model", side_effect=AssertionError("weights were read")):
        done = run_here(main, *words, code=2)
    assert message in done.error
    assert sorted(tmp_path.rglob("*")) == before


def losses(folder) -> list[float]:
    return [loss for _, loss in json.loads((folder / "run.json").read_text())["loss_curve"]]


LORA = {"use_peft": "True", "lora_r": 4, "lora_alpha": 8, "mm_projector_lr": "5e-3"}
