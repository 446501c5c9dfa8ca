"""What a run does not go on from: a damaged checkpoint, another recipe's, other data's."""

import shutil
from pathlib import Path

import pytest

from tests.tiny_components import save_rows
from tests.trainee import again, seldom, tree
from training.checkpointing import MANIFEST

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


@pytest.mark.slow
def test_the_same_data_elsewhere_is_the_same_data(interrupted, whole, tmp_path):
    rows = Path(shutil.copytree(Path(interrupted.given["dataset"]).parent, tmp_path / "rows")) / "rows.json"
    run = again(interrupted, tmp_path, dataset=rows)
    run.run()
    assert run.result()["model.safetensors"] == whole["finetune"][1]["model.safetensors"]


def test_rows_of_another_length_are_other_data(interrupted, tmp_path):
    run = again(interrupted, tmp_path, dataset=save_rows(tmp_path / "fewer", 6))
    assert "field dataset: the data was " in run.run(code=2).stderr
