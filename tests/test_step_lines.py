"""What a run prints and logs while it trains, and the chart of it."""

import json
import sys
from types import SimpleNamespace

import pytest

from tests.support.training_runs import train


def test_a_run_prints_a_line_a_step_and_keeps_all_it_logs(stage0, rows_file, tmp_path):
    """Not on a terminal here: no bar, and held-out losses as the library prints them."""
    watch = {"eval_dataset": rows_file, "eval_strategy": "epoch", "disable_tqdm": "False"}
    done = train("finetune", stage0, rows_file, tmp_path / "out", **watch)
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert "it/s" not in done.stderr
    assert [line.split("  ")[0] for line in steps if " lr " in line] == [f"step {step}/4" for step in (1, 2, 3, 4)]
    assert all("loss" in line and len(line) < 80 for line in steps) and "left" in steps[0]
    assert [line.split("  ")[1].startswith("{'eval_loss': '") for line in steps].count(True) == 2
    assert done.stdout.count("{") == 2
    out = tmp_path / "out"
    assert done.stdout.splitlines()[-1] == f"wrote {out}; open {out / 'loss.png'} and {out / 'samples/step-4.html'}"
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
