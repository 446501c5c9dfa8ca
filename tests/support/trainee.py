"""A training command that is killed, stopped or damaged, and what became of it."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.support.warm_process import Ended, WarmProcess

# Twelve steps of two rows; checkpoints lie within epochs and between log lines.
FLAGS = {
    "learning_rate": "1e-2",
    "num_train_epochs": 3,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "logging_steps": 2,
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 2,
    "report_to": "none",
    "bf16": "False",
    "gradient_checkpointing": "False",
    "use_cpu": "True",
    "disable_tqdm": "True",
}


class Trainee:
    """One training command and what became of it."""

    def __init__(self, warm: WarmProcess, stage: str, base: Path, rows: Path, output: Path, **flags):
        given = {"stage": stage, "model_name_or_path": base, "dataset": rows, "output_dir": output, **FLAGS, **flags}
        self.warm, self.output, self.given = warm, output, given

    def start(self, more: tuple = (), **kill) -> Ended:
        """Run the command, and `more` flags, to its end or until it is killed (`WarmProcess.run`)."""
        words = [word for name, value in self.given.items() for word in (f"--{name}", value)]
        return self.warm.run(["train", *words, *more], self.output, **kill)

    def run(self, code: int = 0, more: tuple = (), **kill) -> Ended:
        ended = self.start(more, **kill)
        assert ended.code == code, ended
        return ended

    def killed(self, **kill) -> Ended:
        """Killed, or finished when the moment never came."""
        ended = self.start(**kill)
        assert ended.code in (0, -9), ended
        return ended

    def result(self) -> dict:
        """Names and bytes of the finished folder, and what of its record does not depend on the clock."""
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.output.iterdir()}
        record = json.loads((self.output / "run.json").read_text())
        files["log.jsonl"] = None  # names the seconds of this run
        files["run.json"] = {key: record[key] for key in ("steps", "epochs", "loss_curve", "final_loss", "data")}
        return files


def again(interrupted: Trainee, tmp_path: Path, **flags) -> Trainee:
    """The command of `interrupted` in a copy of its folder."""
    run = copy.copy(interrupted)
    run.output = Path(shutil.copytree(interrupted.output, tmp_path / "out"))
    run.given = {**interrupted.given, "output_dir": run.output, **flags}
    return run


def tree(folder: Path) -> dict:
    """Every file and folder below `folder` with its time of change, the lock aside."""
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.name != ".lock"}


def seldom(parameter, often: bool):
    """`parameter`, among the slow tests unless `often`."""
    return parameter if often else pytest.param(parameter, marks=pytest.mark.slow)
