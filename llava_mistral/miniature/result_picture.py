"""The miniature's one picture: three questions with and without their pictures, and the bars of what was measured."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#9a9a9a", "#0072B2", "#E69F00")
RIGHT, WRONG = "#1a7f37", "#b42318"


@dataclass(frozen=True)
class Shown:
    """A question, and what the model answered with the picture and with a blank one."""

    picture: Any
    question: str
    seeing: str
    blind: str
    right: str


@dataclass(frozen=True)
class Bar:
    """An accuracy in percent of `n` questions; chance and the best blind guess where there are any, and a note."""

    group: str
    series: str
    height: float
    n: int
    chance: float | None
    blind: float | None
    note: str


def draw_picture(shown: Sequence[Shown], bars: Sequence[Bar], path: Path) -> Path:
    """Draw both and return `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(10, 7.4), dpi=110)
    _draw_questions(figure, shown)
    _draw_bars(figure.add_axes((0.07, 0.10, 0.91, 0.42)), bars)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _draw_questions(figure, shown: Sequence[Shown]) -> None:
    """Question above, picture below it, answers on one baseline."""
    from llava_mistral.ground.pictures import open_picture

    width = 1 / len(shown)
    for place, one in enumerate(shown):
        centre = (place + 0.5) * width
        wrapped = "\n".join(textwrap.wrap(one.question, 36))
        figure.text(centre, 0.975, wrapped, ha="center", va="top", fontsize=11)
        axes = figure.add_axes((place * width + 0.03, 0.70, width - 0.06, 0.19))
        axes.imshow(open_picture(one.picture), interpolation="nearest")
        axes.set_axis_off()
        for line, (label, answer) in enumerate((("with the picture", one.seeing), ("with a blank one", one.blind))):
            mark, colour = ("right", RIGHT) if answer == one.right else (f"right is {one.right}", WRONG)
            words = f"{label}: {answer}  ({mark})"
            figure.text(centre, 0.655 - 0.04 * line, words, ha="center", va="baseline", fontsize=10.5, color=colour)


def _draw_bars(axes, bars: Sequence[Bar]) -> None:
    groups = list(dict.fromkeys(bar.group for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    drawn: set[str] = set()
    for bar in bars:
        members = [other.series for other in bars if other.group == bar.group]
        x = groups.index(bar.group) + (members.index(bar.series) - (len(members) - 1) / 2) * 0.27
        label = None if bar.series in drawn else bar.series
        drawn.add(bar.series)
        axes.bar(x, bar.height, 0.25, label=label, color=COLOURS[series.index(bar.series) % len(COLOURS)])
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # the value is read before a line behind it
        axes.text(x, bar.height + 2, f"{bar.height:.1f}", ha="center", va="bottom", fontsize=10, bbox=box)
        if bar.note:
            axes.text(x, 2, bar.note, ha="center", va="bottom", fontsize=8)
    for kind, style, colour in (("chance", ":", "black"), ("blind", "--", "#b42318")):
        for place, group in enumerate(groups):
            level = next((getattr(bar, kind) for bar in bars if bar.group == group), None)
            if level is not None:
                name = "chance" if kind == "chance" else "best guess without looking"
                label = name if name not in drawn else None
                drawn.add(name)
                axes.plot(
                    (place - 0.45, place + 0.45), (level, level), style, color=colour, linewidth=1.3, label=label
                )
    counted = [f"{group}\n(n = {next(bar.n for bar in bars if bar.group == group)})" for group in groups]
    axes.set_xticks(range(len(groups)), counted)
    axes.set(ylim=(0, 132), ylabel="accuracy %", yticks=range(0, 101, 20))
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
