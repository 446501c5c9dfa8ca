"""No run is lost: killed at any moment, damaged or told to stop, the same command ends in the same bytes."""

import hashlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tiny_components import save_rows
from tests.warm_process import Ended, WarmProcess
from training.checkpointing import MANIFEST
from training.output_lock import output_lock

STAGES = ("pretrain", "finetune")
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
LORA = {"use_peft": "True", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def warm():
    with WarmProcess() as process:
        yield process


class Trainee:
    """One training command and what became of it."""

    def __init__(self, warm: WarmProcess, stage: str, base: Path, rows: Path, output: Path, **flags):
        given = {"stage": stage, "model_name_or_path": base, "dataset": rows, "output_dir": output, **FLAGS, **flags}
        self.warm, self.output, self.given = warm, output, given

    def run(self, code: int = 0, more: tuple = (), **kill) -> Ended:
        words = [word for name, value in self.given.items() for word in (f"--{name}", value)]
        ended = self.warm.run(["train_sft.py", *words, *more], self.output, **kill)
        assert ended.code == code, ended
        return ended

    def killed(self, **kill) -> Ended:
        """Killed, or finished when the moment never came."""
        words = [word for name, value in self.given.items() for word in (f"--{name}", value)]
        ended = self.warm.run(["train_sft.py", *words], self.output, **kill)
        assert ended.code in (0, -9), ended
        return ended

    def result(self) -> dict:
        """Names and bytes of the finished folder, and what of its record does not depend on the clock."""
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.output.iterdir()}
        record = json.loads((self.output / "run.json").read_text())
        files["run.json"] = {key: record[key] for key in ("steps", "epochs", "loss_curve", "final_loss", "data")}
        return files


@pytest.fixture(scope="module")
def trainee(warm, stage0, rows_file, tmp_path_factory):
    """Makes the command of a stage with an output folder of its own."""
    stage1 = tmp_path_factory.mktemp("stage1") / "stage1"
    Trainee(warm, "pretrain", stage0, rows_file, stage1).run()
    base = {"pretrain": stage0, "finetune": stage1}

    def make(stage: str, rows: Path = rows_file, **flags) -> Trainee:
        return Trainee(warm, stage, base[stage], rows, tmp_path_factory.mktemp(stage) / "out", **flags)

    return make


@pytest.fixture(scope="module")
def whole(trainee):
    """Stage -> the uninterrupted run's seconds and result."""
    ends = {}
    for stage in STAGES:
        run = trainee(stage)
        ends[stage] = run.run().seconds, run.result()
    return ends


def kill_at_random(trainee, whole, stage: str, count: int) -> None:
    """Runs are killed at uniform random moments until `count` were; one that had ended before is compared as well."""
    seconds, expected = whole[stage]
    moments, kills, runs = random.Random(count), 0, 0
    while kills < count:
        run = trainee(stage)
        runs += 1
        kills += run.killed(after=moments.uniform(0, seconds)).code == -9
        run.run()
        assert run.result() == expected, f"run {runs}"
        shutil.rmtree(run.output)
        assert runs < 3 * count, "the moments are those of a run"
    print(f"{stage}: {kills} of {runs} runs killed, {runs} ended bit-identical")


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_at_any_moment_ends_bit_identical(trainee, whole, stage):
    kill_at_random(trainee, whole, stage, 3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_fifty_runs_killed_at_any_moment_end_bit_identical(trainee, whole, stage):
    kill_at_random(trainee, whole, stage, 50)


# Moments of saving, each the beginning of what Python does next to a file of the output folder.
MOMENTS = {
    "weights written": r"open \.partial/checkpoint-9/processor_config\.json w",
    "optimizer written, state not": r"open \.partial/checkpoint-9/trainer_state\.json w",
    "before the manifest": r"open \.partial/checkpoint-9/MANIFEST\.json w",
    "manifest written": r"open \.partial/checkpoint-9/MANIFEST\.json$",
    "before the rename": r"os\.rename \.partial/checkpoint-9 checkpoint-9",
    "after the rename, before rotation": r"os\.rename checkpoint-3 ",
    "during rotation": r"os\.remove optimizer\.pt",
    "the last checkpoint is there": r"os\.mkdir \.partial/\.finished",
    "the model is written": r"open \.partial/\.finished/run\.json w",
    "before the finished model has its name": r"os\.rename \.partial/\.finished ",
    "while it moves": r"os\.rename \.finished/model\.safetensors",
    "while checkpoints are removed": r"shutil\.rmtree checkpoint-9",
    "before the record moves": r"os\.rename \.finished/run\.json",
    "before the record is shown": r"os\.rename \.run\.json run\.json",
    "after it": r"os\.remove \.lock",
}
OFTEN = ("before the manifest", "before the rename", "during rotation", "while it moves", "before the record is shown")


def seldom(parameter, often: bool):
    """`parameter`, among the slow tests unless `often`."""
    return parameter if often else pytest.param(parameter, marks=pytest.mark.slow)


@pytest.mark.parametrize("moment", [seldom(name, name in OFTEN) for name in MOMENTS])
def test_a_kill_in_each_phase_of_saving_loses_nothing(trainee, whole, moment):
    run = trainee("finetune")
    assert run.killed(at=MOMENTS[moment]).code == -9
    run.run()
    assert run.result() == whole["finetune"][1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_before_each_change_of_a_file_loses_nothing(trainee, whole, stage):
    """From the second checkpoint's end on: one save, its rotation, the last save, and finishing."""
    run = trainee(stage)
    events = run.run().events
    start = next(index for index, event in enumerate(events) if event.startswith("os.rename .partial/checkpoint-6"))
    moments = [index for index in range(start, len(events)) if not events[index].endswith(" r")]
    for index in moments:
        run = trainee(stage)
        assert run.killed(at=".", nth=index + 1).code == -9, events[index]
        run.run()
        assert run.result() == whole[stage][1], events[index]
        shutil.rmtree(run.output)
    print(f"{stage}: {len(moments)} moments, each ended bit-identical")


def test_two_kills_in_a_row_lose_nothing(trainee, whole):
    """The second while the first checkpoint after going on is written."""
    run = trainee("finetune")
    assert run.killed(at=r"os\.rename \.partial/checkpoint-6 ").code == -9
    assert run.killed(at=r"open \.partial/checkpoint-6/MANIFEST\.json w").code == -9
    assert "checkpoint-3: going on from here" in run.run().stdout
    assert run.result() == whole["finetune"][1]


@pytest.mark.slow
def test_kills_in_a_row_lose_nothing(trainee, whole):
    for seed in range(10):
        run, moments = trainee("finetune"), random.Random(seed)
        for _ in range(3):
            run.killed(after=moments.uniform(0, whole["finetune"][0]))
        run.run()
        assert run.result() == whole["finetune"][1], seed


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(LORA, id="lora with dropout"),
        pytest.param({"dataloader_num_workers": 1}, id="workers", marks=pytest.mark.slow),
        pytest.param({"max_steps": 6, "save_steps": 5}, id="last step within an epoch"),
        pytest.param(
            {"logging_steps": 5, "save_steps": 4, "per_device_train_batch_size": 3, "num_train_epochs": 6},
            id="epochs that end short of rows",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_runs_go_on_bit_identical_too(trainee, flags):
    expected = trainee("finetune", **flags)
    expected.run()
    run = trainee("finetune", **flags)
    assert run.killed(at=r"os\.mkdir \.partial/\.finished|os\.rename \.partial/checkpoint-8 ").code == -9
    if "max_steps" in flags:
        assert (run.output / "checkpoint-6").is_dir(), "the one whose resume would take a seventh step"
    assert "going on from here" in run.run().stdout
    assert run.result() == expected.result()


def test_every_log_line_is_the_uninterrupted_run_s(trainee):
    """Losses, rates, accuracies and token counts, though the kill falls between two of them."""
    logs = []
    for kill in (None, r"os\.rename \.partial/checkpoint-6 "):
        run = trainee("finetune")
        if kill:
            run.killed(at=kill)
        run.killed(at=r"os\.mkdir \.partial/\.finished")
        logs.append(json.loads((run.output / "checkpoint-12" / "trainer_state.json").read_text())["log_history"])
    assert logs[0] == logs[1] and len(logs[0]) == 6 and "num_tokens" in logs[0][0]


# Damage.


@pytest.fixture(scope="module")
def interrupted(trainee):
    """A run that was killed with checkpoints 6 and 9; copied for each test."""
    run = trainee("finetune")
    run.killed(at=r"os\.rename \.partial/checkpoint-12 ")
    return run


def again(interrupted: Trainee, tmp_path: Path, **flags) -> Trainee:
    """The command of `interrupted` in a copy of its folder."""
    shutil.copytree(interrupted.output, tmp_path / "out")
    given = {**interrupted.given, "output_dir": tmp_path / "out", **flags}
    run = Trainee(
        interrupted.warm, *(given.pop(key) for key in ("stage", "model_name_or_path", "dataset", "output_dir"))
    )
    run.given = {**interrupted.given, "output_dir": tmp_path / "out", **flags}
    return run


STORED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", MANIFEST)
SILENT = (("optimizer.pt", "missing"), ("rng_state.pth", "missing"), ("model.safetensors", "one bit"))


@pytest.mark.parametrize(
    "case",
    [seldom((name, how), (name, how) in SILENT) for name in STORED for how in ("missing", "one bit")],
    ids=" ".join,
)
def test_a_damaged_checkpoint_is_skipped_and_the_run_ends_bit_identical(interrupted, whole, tmp_path, case):
    """Always: what stock transformers goes on from without a word, to another model."""
    name, damage = case
    run = again(interrupted, tmp_path)
    file = run.output / "checkpoint-9" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content) if damage == "one bit" else file.unlink()
    out = run.run().stdout
    assert "checkpoint-9: skipped, " in out and name in out and "checkpoint-6: going on from here" in out
    assert run.result() == whole["finetune"][1]


def test_without_a_whole_checkpoint_the_run_starts_again_and_says_so(interrupted, whole, tmp_path):
    run = again(interrupted, tmp_path)
    for step in (6, 9):
        (run.output / f"checkpoint-{step}" / "rng_state.pth").unlink()
    assert "no whole checkpoint, starting from the beginning" in run.run().stdout
    assert run.result() == whole["finetune"][1]


def tree(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.name != ".lock"}


@pytest.mark.parametrize("change", ["learning rate", "picture"])
def test_another_recipe_or_other_data_is_refused_untouched_unless_forced(interrupted, tmp_path, change):
    if change == "learning rate":
        run, said = again(interrupted, tmp_path, learning_rate="2e-2"), "learning_rate was 0.01 and is 0.02 now"
    else:
        rows = Path(shutil.copytree(Path(interrupted.given["dataset"]).parent, tmp_path / "rows")) / "rows.json"
        run, said = again(interrupted, tmp_path, dataset=rows), "field dataset: the data was "
        shutil.copy(rows.parent / "images" / "1.png", rows.parent / "images" / "0.png")
    before = tree(run.output)
    refused = run.run(code=2)
    assert said in refused.stderr.splitlines()[-1] and "Traceback" not in refused.stderr
    assert tree(run.output) == before
    assert "going on from here, though" in run.run(more=("--force_resume",)).stdout


def test_the_same_data_elsewhere_is_the_same_data(interrupted, whole, tmp_path):
    rows = Path(shutil.copytree(Path(interrupted.given["dataset"]).parent, tmp_path / "rows")) / "rows.json"
    run = again(interrupted, tmp_path, dataset=rows)
    run.run()
    assert run.result()["model.safetensors"] == whole["finetune"][1]["model.safetensors"]


# Signals.


@pytest.mark.parametrize(("signal", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("workers", [seldom(0, False), 1])
def test_a_signal_to_the_group_saves_the_step_and_the_run_goes_on(trainee, whole, signal, code, workers):
    run = trainee("finetune", dataloader_num_workers=workers, save_strategy="epoch")
    stopped = run.run(code=code, at=r"open \.partial/checkpoint-4/MANIFEST\.json w", send=signal)
    assert stopped.stderr.strip().splitlines()[-1] == (
        "train_sft.py: saved at step 5; run the same command again to go on"
    )
    assert {path.name for path in run.output.iterdir()} == {"README.md", ".partial", "checkpoint-4", "checkpoint-5"}
    run.run()
    assert run.result()["model.safetensors"] == whole["finetune"][1]["model.safetensors"]


def test_a_second_interrupt_stops_at_once(trainee, whole):
    run = trainee("finetune")
    stopped = run.run(code=130, at=r"os\.rename \.partial/checkpoint-3 |open \.partial/checkpoint-4/", send="SIGINT")
    assert "interrupted; run the same command again to go on" in stopped.stderr
    assert not (run.output / "checkpoint-4").exists() and (run.output / "checkpoint-3" / MANIFEST).is_file()
    run.run()
    assert run.result() == whole["finetune"][1]


def test_a_signal_at_the_last_step_lets_the_run_finish(trainee, whole):
    run = trainee("finetune")
    run.run(at=r"open \.partial/checkpoint-12/MANIFEST\.json w", send="SIGTERM")
    assert run.result() == whole["finetune"][1]


# Two runs, two stages, a full disk.


def test_a_second_trainer_on_a_folder_is_refused_at_once_and_touches_nothing(interrupted, tmp_path):
    run = again(interrupted, tmp_path)
    with output_lock(run.output):
        before = tree(run.output)
        refused = run.run(code=2)
        assert "another process trains into this folder" in refused.stderr and tree(run.output) == before
        assert len(refused.stderr.strip().splitlines()) == 1


def test_stage2_starts_from_a_finished_stage1_only(trainee, whole, stage0, rows_file, tmp_path):
    first = trainee("pretrain")
    assert first.killed(at=r"os\.rename \.finished/processor_config\.json").code == -9
    second = Trainee(first.warm, "finetune", first.output, rows_file, tmp_path / "stage2")
    refused = second.run(code=2)
    assert "holds a run that was not finished; give the command that trains it again" in refused.stderr
    assert not second.output.exists()
    first.run()
    assert first.result() == whole["pretrain"][1]
    second.killed(at=r"os\.mkdir \.partial$")
    second.run()
    assert second.result()["model.safetensors"] == whole["finetune"][1]["model.safetensors"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a few checkpoints' size; the number of bytes that are left is given to the function."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only an administrator can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("room", [seldom("weights", False), "optimizer", seldom("finish", False)])
def test_a_full_disk_is_one_line_and_loses_nothing(warm, trainee, whole, small_disk, room):
    run = trainee("finetune", save_total_limit=5)
    run.given["output_dir"], run.output = small_disk / "out", small_disk / "out"
    assert run.killed(at=r"os\.rename \.partial/checkpoint-12 ").code == -9
    sizes = {path.name: path.stat().st_size for path in (run.output / "checkpoint-9").iterdir()}
    room_left = {
        "weights": sizes["model.safetensors"] // 2,
        "optimizer": sizes["model.safetensors"] + sizes["optimizer.pt"] // 2,
        "finish": sum(sizes.values()) + sizes["model.safetensors"] // 2,
    }[room]
    shutil.rmtree(run.output / ".partial")
    free = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - room_left))
    stopped = run.run(code=1)
    last = stopped.stderr.strip().splitlines()[-1]
    assert "cannot save: No space left on device; free the resource and run the same command again" in last
    assert "Traceback" not in stopped.stderr
    newest = 12 if room == "finish" else 9
    assert (run.output / f"checkpoint-{newest}" / MANIFEST).is_file() and not (run.output / ".partial").exists()
    filler.unlink()
    run.run()
    assert run.result() == whole["finetune"][1]


def test_rows_of_another_length_are_other_data(interrupted, tmp_path):
    run = again(interrupted, tmp_path, dataset=save_rows(tmp_path / "fewer", 6))
    assert "field dataset: the data was " in run.run(code=2).stderr
