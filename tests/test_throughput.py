"""Rates and MFU: operations against torch's own count, batches padded or packed, the clock of training alone."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from llava_mistral.training.machine import vendor_peak
from llava_mistral.training.plan.flops import Work, attended_pairs, model_flops
from llava_mistral.training.throughput import TIMED, Meter, measured_peak, rates
from tests.support.tiny_components import TEXT, VISION
from tests.support.training_runs import train


def tiny_model(**text):
    from tests.support.tiny_plugin import tiny_model as made

    return made(text_config={"model_type": "mistral", "vocab_size": 420, "sliding_window": None, **TEXT, **text})


def batch(model) -> dict[str, torch.Tensor]:
    """Two rows of one picture each and 9 words; every position but the first is an answer."""
    side = VISION["image_size"] // VISION["patch_size"]
    ids = torch.randint(5, 250, (2, side**2 + 9), generator=torch.Generator().manual_seed(0))
    ids[:, 1 : 1 + side**2] = model.config.image_token_id
    pixels = torch.randn(2, 3, VISION["image_size"], VISION["image_size"])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "labels": ids.clone()}


@pytest.mark.parametrize("case", ["pretrain", "finetune", "lora"])
def test_the_operations_are_those_that_torch_counts(case):
    """Products of matrices one by one, forward and backward. Eager attention, so that no kernel hides them.

    Torch counts the whole square of attention, the head at every position and the tower's last layer; so does the sum
    that it is compared with.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from llava_mistral.training.lora import add_lora
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.stages import set_trainable

    model = tiny_model()
    model.set_attn_implementation("eager")
    config, inputs = model.config, batch(model)
    config.vision_feature_layer = -1
    stage = "pretrain" if case == "pretrain" else "finetune"
    set_trainable(model, stage)
    rank = 4 if case == "lora" else None
    if rank:
        model, _ = add_lora(model, StageArguments(lora_r=rank, lora_dropout=0.0, model_name_or_path="x"), seed=0)
    with FlopCounterMode(display=False) as counter:
        model(**inputs).loss.backward()
    rows, length = inputs["input_ids"].shape
    features = int((inputs["input_ids"] == config.image_token_id).sum())
    work = Work(rows * length, rows * length**2, rows * length, images=rows, features=features)
    assert counter.get_total_flops() == model_flops(config, work, stage, rank)


def test_a_window_bounds_what_a_token_attends_to():
    assert attended_pairs(5) == 1 + 2 + 3 + 4 + 5
    assert attended_pairs(5, window=3) == 1 + 2 + 3 + 3 + 3 == attended_pairs(5, 3)
    assert attended_pairs(3, window=3) == attended_pairs(3)


@pytest.mark.parametrize("window", [None, 4])
def test_padded_and_packed_batches_count_alike(window):
    """Samples of 7 and 4 tokens, with padding in one and restarting positions in the other."""
    model = tiny_model(sliding_window=window)
    image, lengths = model.config.image_token_id, (7, 4)
    padded = {name: torch.zeros(2, 7, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    padded["labels"] = torch.full((2, 7), -100)
    packed = {name: torch.zeros(1, 11, dtype=torch.long) for name in ("input_ids", "position_ids")}
    packed["labels"] = torch.full((1, 11), -100)
    start = 0
    for row, length in enumerate(lengths):
        for ids, place in ((padded["input_ids"][row], 0), (packed["input_ids"][0], start)):
            ids[place : place + length] = torch.tensor([image, image, *range(9, 9 + length - 2)])
        padded["attention_mask"][row, :length] = 1
        packed["position_ids"][0, start : start + length] = torch.arange(length)
        padded["labels"][row, length - 1] = packed["labels"][0, start + length - 1] = 9
        start += length
    seen = []
    for inputs in (padded, packed):
        meter = Meter(model.config, "finetune", peak=1.0)
        meter.count({**inputs, "pixel_values": torch.zeros(2, 3, 8, 8)})
        meter.read()
        seen.append({key: value for key, value in meter.total.items() if key != "seconds"})
    pairs = sum(attended_pairs(length, window) for length in lengths)
    flops = model_flops(model.config, Work(11, pairs, 2, 2, 4), "finetune")
    assert seen[0] == seen[1] == {"tokens": 11, "samples": 2, "flops": flops}


def test_the_time_of_evaluation_and_saving_is_left_out():
    model = tiny_model()
    meter = Meter(model.config, "pretrain")
    assert meter.read() == {}, "nothing was counted"
    meter.count(batch(model))
    with meter.paused():
        time.sleep(0.5)
    assert set(meter.read()) == set(TIMED) - {"mfu"}
    assert meter.total["seconds"] < 0.5


def test_rates_are_work_by_time_and_peak():
    seen = {"tokens": 600, "samples": 6, "flops": 4e12, "seconds": 2.0}
    assert rates(seen, peak=1e12, processes=4) == {"tokens_per_second": 300, "samples_per_second": 3, "mfu": 0.5}
    assert "mfu" not in rates(seen, peak=None), "a peak that nobody knows is not guessed"


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(name, peak):
    assert vendor_peak(name) == peak


def test_the_measured_peak_is_that_of_a_product_and_draws_no_number():
    before = torch.random.get_rng_state()
    assert measured_peak(torch.device("cpu"), size=64, rounds=3) > 0
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_run_prints_a_line_a_step_and_keeps_all_it_logs(stage0, rows_file, tmp_path):
    """Not on a terminal here: no bar, and held-out losses as the library prints them."""
    watch = {"eval_dataset": rows_file, "eval_strategy": "epoch", "disable_tqdm": "False"}
    done = train("finetune", stage0, rows_file, tmp_path / "out", drawn=True, **watch)
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert "it/s" not in done.stderr
    assert [line.split("  ")[0] for line in steps if " lr " in line] == [f"step {step}/4" for step in (1, 2, 3, 4)]
    assert all("loss" in line and len(line) < 80 for line in steps) and "left" in steps[0]
    assert [line.split("  ")[1].startswith("{'eval_loss': '") for line in steps].count(True) == 2
    assert done.stdout.count("{") == 2
    out = tmp_path / "out"
    assert done.stdout.splitlines()[-1] == f"wrote {out}; open {out / 'loss.png'} and {out / 'samples/step-4.html'}"
    assert (out / "loss.png").stat().st_size > 5000, "a chart"
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    run = json.loads((out / "run.json").read_text())
    assert [[row["step"], row["loss"]] for row in rows if "loss" in row] == run["loss_curve"]
    assert {"learning_rate", "grad_norm", "tokens_per_second"} <= rows[0].keys() and "train_runtime" in rows[-1]


def test_on_a_terminal_bar_and_lines_do_not_break_each_other(tmp_path, monkeypatch, capsys):
    from llava_mistral.training.reporting import StepLines

    shown, args = StepLines(), SimpleNamespace(output_dir=tmp_path, disable_tqdm=False)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=3, log_history=[])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown.on_train_begin(args, state, None)
    for step in (1, 2, 3):
        state.global_step = step
        shown.on_step_end(args, state, None)
        row = {"loss": 1.0 / step, "learning_rate": 1e-5, "step": step}
        state.log_history.append(row)
        shown.on_log(args, state, None, logs=row)
    shown.on_train_end(args, state, None)
    seen = capsys.readouterr()
    assert [line.split("  ")[:2] for line in seen.out.splitlines()] == [
        ["step 1/3", "loss 1"],
        ["step 2/3", "loss 0.5"],
        ["step 3/3", "loss 0.3333"],
    ]
    assert "3/3" in seen.err and "loss" not in seen.err


def test_a_first_loss_that_would_press_the_others_flat_is_named_beside_them(tmp_path):
    from matplotlib.figure import Figure

    from llava_mistral.training import loss_chart

    losses = [3.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    axes = Figure().subplots()
    assert loss_chart._top(axes, list(enumerate(losses, 1)), []) == pytest.approx(1.15)
    assert axes.texts[0].get_text() == "step 1: 3, above the axis"
    assert loss_chart._top(axes, list(enumerate(losses[1:], 1)), []) is None
