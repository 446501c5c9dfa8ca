"""`loss.png`: loss of training and evaluation above, learning rate below, by optimizer step."""

import sys
from pathlib import Path

# Okabe & Ito's colours, which colour-blind readers tell apart.
TRAINING, EVALUATION, RATE = "#0072B2", "#D55E00", "#555555"
STRAY = 1.5  # times the highest of all other losses: a first point beyond that is not drawn


def draw_losses(log_history: list[dict], path: Path, title: str) -> bool:
    """Draw the Trainer's log rows; returns whether a picture was written.

    Without matplotlib, which is an extra, one line says so. Without a single loss there is nothing to draw.

    Args:
        log_history: rows with `step` and `loss` and `learning_rate`, or `eval_loss`.
    """
    trained, evaluated, rate = (_points(log_history, key) for key in ("loss", "eval_loss", "learning_rate"))
    if not trained:
        return False
    try:
        from matplotlib.figure import Figure  # not pyplot: no window system, no figures that stay in memory
    except ImportError:
        print("no loss.png: matplotlib is not installed; pip install '.[charts]'", file=sys.stderr)
        return False
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.set_title(title, fontsize=11, loc="left")
    mark = {"marker": "o", "markersize": 3.5} if len(trained) < 30 else {}
    upper.plot(*zip(*trained, strict=True), color=TRAINING, linewidth=1.3, label="training", **mark)
    if evaluated:
        points = {"marker": "o", "markersize": 5, "linewidth": 1.3}
        upper.plot(*zip(*evaluated, strict=True), color=EVALUATION, label="held-out rows", **points)
        upper.legend(frameon=False, loc="upper right")
    upper.set_ylabel("loss, nats per answer token")
    upper.set_ylim(0, _top(upper, trained, evaluated))
    lower.plot(*zip(*rate, strict=True), color=RATE, linewidth=1.3, **mark)
    lower.set_ylabel("learning rate")
    lower.set_ylim(bottom=0)
    lower.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    lower.set_xlabel("optimizer step")
    lower.xaxis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        axes.grid(color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    # Without the software's name and date the same numbers give the same bytes.
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return True


def _top(axes, trained: list[tuple[int, float]], evaluated: list[tuple[int, float]]) -> float | None:
    """The upper end of the axis; None for matplotlib's.

    An untrained projector's first loss is many times the others, which it would press flat: it is named, not drawn.
    """
    (step, first), *others = trained
    rest = [loss for _, loss in others + evaluated]
    if len(others) < 5 or not first > STRAY * max(rest) > 0:
        return None
    place = {"transform": axes.transAxes, "ha": "center", "va": "top", "fontsize": 9}
    axes.text(0.5, 0.98, f"step {step}: {first:.3g}, above the axis", **place)
    return 1.15 * max(rest)


def _points(log_history: list[dict], key: str) -> list[tuple[int, float]]:
    return [(row["step"], float(row[key])) for row in log_history if key in row]
