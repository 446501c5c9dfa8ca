"""What a run does not go on from: a damaged checkpoint, another recipe's, other data's."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_mistral.training.saving.whole_checkpoints import MANIFEST
from tests.support.tiny_components import save_rows
from tests.support.trainee import again, tree

SHOWN = {
    ("model.safetensors", "one bit"): "D5",
    ("optimizer.pt", "missing"): "D16",
    ("scheduler.pt", "missing"): "D17",
    ("rng_state.pth", "missing"): "D18",
    ("trainer_state.json", "empty"): "D19",
}
STORED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", MANIFEST)
SILENT = (("optimizer.pt", "missing"), ("rng_state.pth", "missing"), ("model.safetensors", "one bit"))


def accepted(*cases: str):
    def mark(test):
        for case in cases:
            test = pytest.mark.case(case, "accepted")(test)
        return test

    return mark


def damages():
    """Every file, missing and flipped; always, what stock transformers goes on from without a word."""
    for case in [*((name, how) for name in STORED for how in ("missing", "one bit")), ("trainer_state.json", "empty")]:
        marks = [] if case in SILENT else [pytest.mark.slow]
        marks += [pytest.mark.case(SHOWN[case], "refused")] if case in SHOWN else []
        yield pytest.param(*case, id=" ".join(case), marks=marks)


@pytest.mark.parametrize(("name", "damage"), damages())
def test_a_damaged_checkpoint_is_skipped_and_the_run_ends_bit_identical(
    interrupted, whole, tmp_path, name, damage, by_itself
):
    def harm(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) // 3] ^= 1
        (checkpoint / name).unlink()
        if damage != "missing":
            (checkpoint / name).write_bytes(content if damage == "one bit" else b"")

    run = again(interrupted, tmp_path)
    harm(run.output / "checkpoint-9")
    out = run.run().stdout
    assert "checkpoint-9: skipped, " in out and name in out and "checkpoint-6: going on from here" in out
    assert run.result() == whole["finetune"][1]
    if (name, damage) in SHOWN:
        by_itself("Trainer", lambda: resumed(tmp_path / "stock", harm))


@accepted(*SHOWN.values(), "D20", "D21")
def test_an_undamaged_checkpoint_of_the_same_run_is_gone_on_from(interrupted, whole, tmp_path):
    run = again(interrupted, tmp_path)
    out = run.run().stdout
    assert "checkpoint-9: going on from here" in out and "skipped" not in out
    assert run.result() == whole["finetune"][1]


def test_without_a_whole_checkpoint_the_run_starts_again_and_says_so(interrupted, whole, tmp_path):
    run = again(interrupted, tmp_path)
    for step in (6, 9):
        (run.output / f"checkpoint-{step}" / "rng_state.pth").unlink()
    assert "no whole checkpoint, starting from the beginning" in run.run().stdout
    assert run.result() == whole["finetune"][1]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("learning rate", marks=pytest.mark.case("D20", "refused")),
        pytest.param("picture", marks=pytest.mark.case("D21", "refused")),
    ],
)
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


@accepted("D21")
@pytest.mark.slow
def test_the_same_data_elsewhere_is_the_same_data(interrupted, whole, tmp_path):
    rows = Path(shutil.copytree(Path(interrupted.given["dataset"]).parent, tmp_path / "rows")) / "rows.json"
    run = again(interrupted, tmp_path, dataset=rows)
    run.run()
    assert run.result()["model.safetensors"] == whole["finetune"][1]["model.safetensors"]


@pytest.mark.case("D21", "refused")
def test_rows_of_another_length_are_other_data(interrupted, tmp_path):
    run = again(interrupted, tmp_path, dataset=save_rows(tmp_path / "fewer", 6))
    assert "field dataset: the data was " in run.run(code=2).stderr


STEPS, SAVED = 6, 3


def resumed(folder: Path, damage: Callable[[Path], None]) -> str:
    """Train a tiny LLaMA whole, and again from its damaged checkpoint; say whether the weights are the same."""
    whole = _train(folder / "whole")
    shutil.copytree(folder / "whole", folder / "again")
    damage(folder / "again" / f"checkpoint-{SAVED}")
    shutil.rmtree(folder / "again" / f"checkpoint-{STEPS}")
    again = _train(folder / "again", resume=True)
    return f"goes on without a word, to {'the same' if again == whole else 'another'} model"


def _train(output: Path, resume: bool = False) -> str:
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    set_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, attention_dropout=0.1, **small))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32, (2 * STEPS, 8), generator=generator).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    given = {"per_device_train_batch_size": 2, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": SAVED}
    given |= {"learning_rate": 1e-2, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    trainer = Trainer(model, TrainingArguments(str(output), **given), train_dataset=rows)
    trainer.train(resume_from_checkpoint=resume or None)
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()
