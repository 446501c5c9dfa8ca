"""A run that is told to stop, meets a second trainer, or is one of several processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from llava_mistral.training.saving.output_folder import output_lock
from llava_mistral.training.saving.whole_checkpoints import MANIFEST
from tests.support.running import HOME
from tests.support.trainee import again, seldom, tree

CODES = {"SIGTERM": 143, "SIGINT": 130}


@pytest.mark.case("K5", "survived")
@pytest.mark.parametrize("name", ["SIGTERM", seldom("SIGINT", False)])
@pytest.mark.parametrize("workers", [seldom(0, False), 1])
def test_a_signal_to_the_group_saves_the_step_and_the_run_goes_on(trainee, whole, name, workers):
    run = trainee("finetune", dataloader_num_workers=workers, save_strategy="epoch")
    stopped = run.run(code=CODES[name], at=r"open \.partial/checkpoint-4/MANIFEST\.json w", send=name)
    assert stopped.stderr.strip().splitlines()[-1] == (
        "llava-mistral train: saved at step 5; run the same command again to go on"
    )
    assert {path.name for path in run.output.iterdir()} == {
        "README.md",
        "run.partial.json",
        "log.jsonl",
        ".partial",
        "checkpoint-4",
        "checkpoint-5",
    }
    run.run()
    assert run.result()["model.safetensors"] == whole["finetune"][1]["model.safetensors"]


@pytest.mark.case("K5", "survived")
def test_a_second_interrupt_stops_at_once(trainee, whole):
    run = trainee("finetune")
    stopped = run.run(code=130, at=r"os\.rename \.partial/checkpoint-3 |open \.partial/checkpoint-4/", send="SIGINT")
    assert "interrupted; run the same command again to go on" in stopped.stderr
    assert not (run.output / "checkpoint-4").exists() and (run.output / "checkpoint-3" / MANIFEST).is_file()
    run.run()
    assert run.result() == whole["finetune"][1]


@pytest.mark.case("K5", "survived")
def test_a_signal_at_the_last_step_lets_the_run_finish(trainee, whole):
    run = trainee("finetune")
    run.run(at=r"open \.partial/checkpoint-12/MANIFEST\.json w", send="SIGTERM")
    assert run.result() == whole["finetune"][1]


@pytest.mark.case("P4", "survived")
def test_a_second_trainer_on_a_folder_is_refused_at_once_and_touches_nothing(interrupted, tmp_path):
    run = again(interrupted, tmp_path)
    with output_lock(run.output):
        before = tree(run.output)
        refused = run.run(code=2)
        assert "another process trains into this folder" in refused.stderr and tree(run.output) == before
        assert len(refused.stderr.strip().splitlines()) == 1


def launch(run, port: int) -> subprocess.Popen:
    """Start the command as two processes; each has a session of its own, as the launcher starts them."""
    words = [str(word) for name, value in run.given.items() for word in (f"--{name}", value)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    return subprocess.Popen(
        [*launcher, "train_sft.py", *words], cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path) -> None:
    end = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def children(process: subprocess.Popen) -> list[int]:
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(number) for number in file.read().split()]


@pytest.mark.slow
def test_two_processes_are_killed_told_to_stop_and_end_bit_identical(trainee):
    """Each writes its random numbers' state; both stop after the same step; the first names the checkpoint."""
    two = {"gradient_accumulation_steps": 1, "num_train_epochs": 12, "save_total_limit": 20}
    expected = trainee("finetune", **two)
    assert launch(expected, 29631).wait(timeout=240) == 0
    run = trainee("finetune", **two)
    first = launch(run, 29632)
    wait_for(run.output / "checkpoint-6")
    for number in [*children(first), first.pid]:
        os.kill(number, signal.SIGKILL)
    first.wait()
    assert (run.output / "checkpoint-6" / "rng_state_1.pth").is_file()
    second = launch(run, 29633)
    wait_for(run.output / "checkpoint-24")
    second.terminate()
    said = second.communicate(timeout=240)[0]
    assert said.count("; run the same command again to go on") == 1 and "going on from here" in said
    assert launch(run, 29634).wait(timeout=240) == 0
    assert run.result() == expected.result()


@pytest.mark.slow
def test_another_number_of_processes_is_another_run(interrupted, tmp_path):
    run = again(interrupted, tmp_path)
    refused = launch(run, 29635)
    assert "processes was 1 and is 2 now" in refused.communicate(timeout=240)[0] and refused.returncode
    assert not list(run.output.glob("damaged-*"))
