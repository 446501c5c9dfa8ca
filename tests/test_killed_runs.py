"""No run is lost: killed at any moment, the same command ends in the same bytes."""

import json
import random
import shutil

import pytest

from tests.support.trainee import Trainee, seldom

STAGES = ("pretrain", "finetune")
LORA = {"use_peft": "True", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1}


def kill_at_random(trainee, whole, stage: str, count: int) -> int:
    """Runs are killed at uniform random moments until `count` were; one that had ended before is compared as well.

    The moments are those of the shortest run so far: the first one may have met a busy machine.
    """
    seconds, expected = whole[stage]
    moments, kills, runs = random.Random(count), 0, 0
    while kills < count:
        run = trainee(stage)
        runs += 1
        after = moments.uniform(0, seconds)
        ended = run.killed(after=after)
        kills += ended.code == -9
        seconds = seconds if ended.code else after  # it took less
        run.run()
        assert run.result() == expected, f"run {runs}"
        shutil.rmtree(run.output)
    print(f"{stage}: {kills} of {runs} runs killed, {runs} ended bit-identical")
    return kills


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_at_any_moment_ends_bit_identical(trainee, whole, stage):
    kill_at_random(trainee, whole, stage, 1)


@pytest.mark.slow
@pytest.mark.case("K1", "survived")
@pytest.mark.parametrize("stage", STAGES)
def test_fifty_runs_killed_at_any_moment_end_bit_identical(trainee, whole, stage, record_property):
    record_property("tried", kill_at_random(trainee, whole, stage, 50))


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
OFTEN = ("before the manifest", "during rotation", "while it moves")


@pytest.mark.case("K2", "survived")
@pytest.mark.parametrize("moment", [seldom(name, name in OFTEN) for name in MOMENTS])
def test_a_kill_in_each_phase_of_saving_loses_nothing(trainee, whole, moment):
    run = trainee("finetune")
    assert run.killed(at=MOMENTS[moment]).code == -9
    run.run()
    assert run.result() == whole["finetune"][1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_before_each_change_of_a_file_loses_nothing(trainee, whole, stage):
    """From the second checkpoint's end on: one save, its rotation, the last save, and finishing; each third moment."""
    run = trainee(stage)
    events = run.run().events
    start = next(index for index, event in enumerate(events) if event.startswith("os.rename .partial/checkpoint-6"))
    moments = [index for index in range(start, len(events)) if not events[index].endswith(" r")]
    moments = moments[STAGES.index(stage) :: 3]  # test_checkpointing.py takes every one, without a model
    for index in moments:
        run = trainee(stage)
        assert run.killed(at=".", nth=index + 1).code == -9, events[index]
        run.run()
        assert run.result() == whole[stage][1], events[index]
        shutil.rmtree(run.output)
    print(f"{stage}: {len(moments)} moments, each ended bit-identical")


@pytest.mark.case("K3", "survived")
def test_two_kills_in_a_row_lose_nothing(trainee, whole):
    """The second while the first checkpoint after going on is written."""
    run = trainee("finetune")
    assert run.killed(at=r"os\.rename \.partial/checkpoint-6 ").code == -9
    assert run.killed(at=r"open \.partial/checkpoint-6/MANIFEST\.json w").code == -9
    assert "checkpoint-3: going on from here" in run.run().stdout
    assert run.result() == whole["finetune"][1]


@pytest.mark.slow
@pytest.mark.case("K3", "survived")
def test_kills_in_a_row_lose_nothing(trainee, whole, record_property):
    for seed in range(10):
        run, moments = trainee("finetune"), random.Random(seed)
        for _ in range(3):
            run.killed(after=moments.uniform(0, whole["finetune"][0]))
        run.run()
        assert run.result() == whole["finetune"][1], seed
    record_property("tried", 10)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(LORA, id="lora with dropout"),
        pytest.param({"dataloader_num_workers": 1}, id="workers", marks=pytest.mark.slow),
        pytest.param({"max_steps": 6, "save_steps": 5}, id="last step within an epoch", marks=pytest.mark.slow),
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


@pytest.mark.slow
def test_every_log_line_is_the_uninterrupted_run_s(trainee):
    """Losses, rates of learning, accuracies and token counts, though the kill falls between two; not the clock's."""
    from llava_mistral.training.throughput import TIMED

    logs = []
    for kill in (None, r"os\.rename \.partial/checkpoint-6 "):
        run = trainee("finetune")
        if kill:
            run.killed(at=kill)
        run.killed(at=r"os\.mkdir \.partial/\.finished")
        state = json.loads((run.output / "checkpoint-12" / "trainer_state.json").read_text())
        logs.append([{key: row[key] for key in row.keys() - set(TIMED)} for row in state["log_history"]])
    assert logs[0] == logs[1] and len(logs[0]) == 6 and "num_tokens" in logs[0][0]


@pytest.mark.case("K4", "survived")
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
    undisturbed = Trainee(first.warm, "finetune", first.output, rows_file, tmp_path / "undisturbed")
    undisturbed.run()
    assert second.result()["model.safetensors"] == undisturbed.result()["model.safetensors"]
