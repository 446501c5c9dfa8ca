"""Whole runs of the trainer: packed and padded see the same samples a step and learn the same, wherever they stop."""

import json
import statistics

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.packing import StepSampler, rows_of_a_step
from tests.support.running import run_apart
from tests.support.training_runs import INSTRUCT, QUICK, interrupt, train

# Plain SGD: AdamW would make a step of full size out of the rounding of a gradient near 0.
STEPS = {"optim": "sgd", "learning_rate": "0.3", "gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_packed_run_walks_the_padded_runs_way(stage0, rows_file, mixed_rows, tmp_path, stage):
    """Losses of every step and the final weights, with accumulation, an incomplete last step, and two epochs."""
    rows = rows_file if stage == "pretrain" else mixed_rows
    for packed in (True, False):
        train(stage, stage0, rows, tmp_path / str(packed), **INSTRUCT, **STEPS, packed=packed)
    ours, padded = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("True", "False"))
    assert len(ours["loss_curve"]) == 4 and ours["loss_curve"][-1][1] < ours["loss_curve"][0][1]
    assert ours["loss_curve"] == [pytest.approx(entry, rel=1e-4) for entry in padded["loss_curve"]]
    assert padded["tokens"].pop("padding") > 0 == ours["tokens"].pop("padding")
    assert ours["tokens"] == padded["tokens"]
    moved = 0
    start, theirs = weights(stage0), weights(tmp_path / "False")
    for name, weight in weights(tmp_path / "True").items():
        step = (theirs[name] - start[name]).norm()
        moved += bool(step > 0)
        assert (weight - theirs[name]).norm() <= 1e-3 * step + 1e-6, name
    assert moved >= 4


def test_shorter_rows_learn_the_same(stage0, mixed_rows, tmp_path):
    """The same two steps an epoch, of more rows: which of them a sample is in decides nothing."""
    chosen = {**INSTRUCT, **STEPS, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 6}
    for row_tokens in (4096, 90):
        train("finetune", stage0, mixed_rows, tmp_path / str(row_tokens), **chosen, row_tokens=row_tokens)
    long, short = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("4096", "90"))
    assert long["recipe"] == short["recipe"]
    assert long["micro_batches"] == {"samples": 6, "of_a_step": 1}
    assert short["micro_batches"] in ({"samples": 1, "of_a_step": 6}, {"samples": 2, "of_a_step": 3})
    assert long["steps"] == short["steps"] == 4 and long["tokens"] == short["tokens"]
    assert long["loss_curve"] == [pytest.approx(entry, rel=1e-4) for entry in short["loss_curve"]]


@pytest.mark.slow
def test_two_processes_share_a_step_as_one_process_does_it(stage0, mixed_rows, tmp_path):
    """DDP on gloo: the losses of one process, and the tokens of both. Eleven rows: the last round is filled up."""
    flags = QUICK | {f"--{name}": value for name, value in {**INSTRUCT, **STEPS}.items()} | {"--max_steps": 3}
    flags |= {"--stage": "finetune", "--model_name_or_path": stage0, "--dataset": mixed_rows}
    curves, tokens = {}, {}
    for processes, accumulation in ((1, 2), (2, 1)):
        out = tmp_path / str(processes)
        chosen = flags | {"--output_dir": out, "--gradient_accumulation_steps": accumulation}
        words = [word for pair in chosen.items() for word in pair]
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, "train_sft.py")
        run_apart(*launch, *words, OMP_NUM_THREADS="1")
        record = json.loads((out / "run.json").read_text())
        curves[processes], tokens[processes] = record["loss_curve"], record["tokens"]
    assert curves[2][:2] == [pytest.approx(entry, rel=1e-4) for entry in curves[1][:2]]
    assert (tokens[1]["samples"], tokens[2]["samples"]) == (11, 12)


def logs(stage0, rows, packed: bool, folder, **settings) -> list[dict]:
    """What the trainer logs, by the very classes that the verb puts together."""
    from trl import SFTConfig

    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.packing import PackedCollator
    from llava_mistral.training.trainer import StageTrainer
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    processor = LlavaMistralProcessor.from_pretrained(stage0)
    collator = AnswerCollator(processor)
    quiet = {"report_to": "none", "save_strategy": "no", "logging_steps": 1, "use_cpu": True, "bf16": False}
    config = SFTConfig(str(folder), max_length=None, remove_unused_columns=False, **quiet, **settings)
    trainer = StageTrainer(
        model=LlavaMistralForConditionalGeneration.from_pretrained(stage0),
        args=config,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=processor,
        data_collator=PackedCollator(collator) if packed else collator,
        row_tokens=4096 if packed else None,
    )
    trainer.train()
    return [*trainer.state.log_history, trainer.evaluate()]


def test_what_is_logged_is_what_a_padded_run_logs(stage0, mixed_rows, tmp_path):
    """Tokens, accuracy and entropy, which TRL computes itself, and the loss of an evaluation."""
    from llava_mistral.data.conversations import read_rows

    rows = read_rows(mixed_rows)
    settings = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 11, "num_train_epochs": 1}
    ours, padded = (logs(stage0, rows, packed, tmp_path, **settings) for packed in (True, False))
    assert len(ours) == len(padded) == 5
    for own, theirs in zip(ours[:3], padded[:3], strict=True):
        assert own["num_tokens"] == theirs["num_tokens"] > 0
        for name in ("loss", "mean_token_accuracy", "entropy", "grad_norm"):
            assert own[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert statistics.fmean(entry["entropy"] for entry in ours[:3]) > 0
    assert ours[-1]["eval_loss"] == pytest.approx(padded[-1]["eval_loss"], rel=1e-4)


def test_tokens_are_counted_where_workers_collate(stage0, mixed_rows, tmp_path):
    for workers in (0, 2):
        out = tmp_path / str(workers)
        train("finetune", stage0, mixed_rows, out, **STEPS, dataloader_num_workers=workers, num_train_epochs=1)
    here, there = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("0", "2"))
    assert here["tokens"] == there["tokens"] and here["tokens"]["samples"] == 11
    assert here["loss_curve"] == there["loss_curve"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"padding_free": "True"}, "field padding_free: is not allowed here; leave it out: packed, which is on"),
        ({"packing": "yes"}, "field packing: is not allowed here; leave it out: packed, which is on by default"),
        (
            {"train_sampling_strategy": "group_by_length", "packed": "True"},
            "'group_by_length' has no effect on packed",
        ),
        ({"train_sampling_strategy": "group_by_length", "packed": "False"}, "has no effect on rows without token ids"),
        ({"row_tokens": "64", "packed": "False"}, "field row_tokens: has no effect on padded batches"),
        ({"packing": "False", "padding_free": False}, None),
        ({"train_sampling_strategy": "sequential", "packed": "False"}, None),
    ],
)
def test_what_cannot_go_together_is_refused_and_nothing_else(stage0, mixed_rows, tmp_path, given, said):
    from llava_mistral.training.recipe import parse_recipe
    from llava_mistral.training.recipe_checks import check_recipe

    values = {"stage": "finetune", "model_name_or_path": str(stage0), "dataset": str(mixed_rows)}
    values |= {"output_dir": str(tmp_path / "out"), "use_cpu": True, **given}
    flags = [f"--{key}={value}" for key, value in values.items()]
    if said is None:
        check_recipe(parse_recipe(flags))
    else:
        with pytest.raises(BadInput, match=said):
            check_recipe(parse_recipe(flags))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_worker_refuses_is_one_line_and_exit_code_2(stage0, rows_file, tmp_path, workers):
    template = tmp_path / "hostile.jinja"
    text = INSTRUCT["chat_template"].read_text(encoding="utf-8")
    template.write_text(text.replace("' ' + eos_token", "'<pad>' + eos_token"))
    chosen = {"chat_template": template, "dataloader_num_workers": workers}
    done = train("finetune", stage0, rows_file, tmp_path / "out", code=2, **chosen)
    assert "field completion: a padding token would carry loss" in done.stderr.splitlines()[-1]
    assert "record " in done.stderr and "Traceback" not in done.stderr


def test_a_run_stopped_in_an_epoch_goes_on_to_the_same_weights(stage0, mixed_rows, tmp_path, monkeypatch):
    """In the second of two epochs, whose order is another one."""
    schedule = {**STEPS, "save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3}
    train("finetune", stage0, mixed_rows, tmp_path / "whole", **schedule)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_save", interrupt)
        train("finetune", stage0, mixed_rows, tmp_path / "cut", code=130, **schedule)
    train("finetune", stage0, mixed_rows, tmp_path / "cut", **schedule)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(weight.equal(cut[name]) for name, weight in whole.items())


# The sampler.

LENGTHS = [(37 * index) % 101 + 700 * (index % 3 == 0) for index in range(107)]


def stock_sampler(count: int):
    import torch
    from accelerate.data_loader import SeedableRandomSampler

    return SeedableRandomSampler(range(count), data_seed=42, generator=torch.Generator())


def rounds(make, batch_size: int, processes: int, epoch: int, drop_last: bool = False) -> list[list[list[int]]]:
    """The micro-batches that the processes work on at the same time, as accelerate shares a sampler's out."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    parts = []
    for rank in range(processes):
        sampler = make()
        sampler.set_epoch(epoch)
        batches = BatchSampler(sampler, batch_size, drop_last)
        parts.append(list(BatchSamplerShard(batches, processes, rank) if processes > 1 else batches))
    return [list(together) for together in zip(*parts, strict=True)]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 4), (2, 8), (8, 1), (1, 8), (3, 5)])
@pytest.mark.parametrize("count", [107, 96, 5])
def test_every_step_sees_the_stock_samples(count, batch_size, accumulation, processes, drop_last):
    """Over epochs, for all processes together, with what is dropped or filled up at the end."""

    def ours():
        return StepSampler(LENGTHS[:count], batch_size, accumulation, processes, seed=42, drop_last=drop_last)

    for epoch in (0, 3):
        assert len(list(ours())) == len(ours())
        own = rounds(ours, batch_size, processes, epoch, drop_last)
        stock = rounds(lambda: stock_sampler(count), batch_size, processes, epoch, drop_last)
        assert len(own) == len(stock)
        for start in range(0, len(stock), accumulation):
            step, same = (sorted(flat(part[start : start + accumulation])) for part in (own, stock))
            assert step == same


def flat(step: list[list[list[int]]]) -> list[int]:
    return [index for together in step for batch in together for index in batch]


def test_micro_batches_of_a_step_are_about_equally_long():
    """On two processes: the longest row is shorter than in stock order, and those who work together work as long."""

    def ours():
        return StepSampler(LENGTHS, batch_size=4, accumulation=4, processes=2)

    totals, stock = (
        [[sum(LENGTHS[index] for index in batch) for batch in together] for together in rounds(make, 4, 2, 0)[:12]]
        for make in (ours, lambda: stock_sampler(len(LENGTHS)))
    )
    assert max(map(max, totals)) < 0.7 * max(map(max, stock))
    apart, stock_apart = (statistics.fmean(abs(one - other) for one, other in part) for part in (totals, stock))
    assert apart < 0.2 * stock_apart


def test_a_step_is_dealt_by_length_and_its_longest_rows_come_first():
    """The longest sample goes to the row that is shortest so far; processes work at rows of like length together."""
    for seed in range(6):
        assert list(StepSampler([9, 8, 2, 1], 2, accumulation=2, seed=seed).row_lengths(1)) == [10, 10]
    rows = list(StepSampler(LENGTHS[:96], 4, accumulation=4, processes=2).row_lengths(1))
    assert all(step == sorted(step, reverse=True) for step in (rows[start : start + 8] for start in (0, 8, 16)))


def test_an_epochs_order_is_another_one_and_the_same_again_when_asked():
    sampler = StepSampler(LENGTHS, batch_size=4, accumulation=2)
    first, second = list(sampler), list(sampler)
    sampler.set_epoch(0)
    assert first != second and list(sampler) == first and sorted(first) == list(range(107))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("row_tokens", [10_000, 2500, 1200, 800, 100])
def test_no_row_is_longer_than_asked_unless_it_is_one_sample(row_tokens, processes):
    """In any epoch; no row has more samples than the batch size, and a step has as many as before."""
    from types import SimpleNamespace

    args = {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "world_size": processes,
        "max_steps": -1,
    }
    args = SimpleNamespace(**args, num_train_epochs=2.5, seed=42, data_seed=None)
    samples, count = rows_of_a_step(LENGTHS, args, row_tokens)
    assert samples * count == 16 and samples <= 8
    together = (rounds(lambda: StepSampler(LENGTHS, samples, count, processes), samples, processes, e) for e in (0, 2))
    totals = [sum(LENGTHS[i] for i in row) for epoch in together for beside in epoch for row in beside]
    assert max(totals) <= row_tokens or samples == 1
    if samples < 8:
        whole = StepSampler(LENGTHS, 2 * samples, count // 2, processes)
        assert max(whole.row_lengths(3)) > row_tokens, "and rows are no shorter than they need be"


def test_estimated_lengths_rise_with_words_and_pictures(mixed_rows):
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.packing import CHARACTERS_PER_TOKEN, estimated_lengths

    rows = read_rows(mixed_rows)
    for row, length in zip(rows, estimated_lengths(rows, 576), strict=True):
        text = len(row["prompt"][0]["content"]) + len(row["completion"][0]["content"])
        assert length == round(text / CHARACTERS_PER_TOKEN) + 576 * len(row["images"])


def test_the_most_tokens_of_a_picture_are_those_of_the_largest_grid():
    from llava_mistral.training.packing import most_image_tokens
    from modeling_llava_mistral import LlavaMistralConfig

    square = LlavaMistralConfig(image_token_id=32000)
    tiles = LlavaMistralConfig(image_token_id=32000, image_aspect_ratio="anyres")
    assert (most_image_tokens(square), most_image_tokens(tiles)) == (576, 576 * 5)
