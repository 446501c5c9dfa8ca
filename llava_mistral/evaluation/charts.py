"""Bar charts of accuracies, each bar with its 95 % interval."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.ground.whole_file import write_whole

# Okabe & Ito's colours, which colour-blind readers tell apart; grey is for what others published.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
PUBLISHED = "#9A9A9A"
_SMALL = {"textcoords": "offset points", "ha": "right", "va": "bottom", "fontsize": 8, "color": "#444444"}


@dataclass(frozen=True)
class Bar:
    """One bar: accuracy and interval in percent, and how many questions it is about."""

    name: str
    accuracy: float
    low: float
    high: float
    n: int | None = None
    published: bool = False
    unread: float = 0  # answers that named no choice, and count as wrong


def columns_chart(series: Mapping[str, Mapping[str, Any]], path: str | Path, *, title: str) -> Path:
    """Draw {name: summary} over the nine columns, a group of bars per column that has questions."""
    from llava_mistral.data.scienceqa import COLUMNS

    shown = [column for column in COLUMNS if any(summary.get(column) for summary in series.values())]
    counts = [next(s[column]["n"] for s in series.values() if s.get(column)) for column in shown]
    labels = [f"{column}\nn={n:,}" for column, n in zip(shown, counts, strict=True)]
    return _grouped_chart(series, shown, labels, path, title=title)


def grouped_chart(
    series: Mapping[str, Mapping[str, Any]], path: str | Path, *, title: str, chance: Mapping[str, float] | None = None
) -> Path:
    """Draw {name: {group: cell}}, a group of bars per group in the order of the first series.

    `chance`: {name: percent} of the dashed lines, what is reached without looking.
    """
    groups = list(next(iter(series.values())))
    return _grouped_chart(series, groups, [_wrapped(group) for group in groups], path, title=title, chance=chance)


def _grouped_chart(
    series: Mapping[str, Mapping[str, Any]],
    groups: Sequence[str],
    labels: Sequence[str],
    path: str | Path,
    *,
    title: str,
    chance: Mapping[str, float] | None = None,
) -> Path:
    figure, axes = _axes(width=1.2 + len(groups) * (0.55 + 0.35 * len(series)), title=title)
    width = 0.8 / len(series)
    for place, cells in enumerate(series.values()):
        offset = (place - (len(series) - 1) / 2) * width
        for x, group in enumerate(groups):
            if cell := cells.get(group):
                bar = Bar(group, cell["accuracy"], *cell["ci95"])
                _draw(axes, x + offset, bar, width * 0.92, COLOURS[place % len(COLOURS)])
    axes.set_xticks(range(len(groups)), labels)
    if chance is not None:
        axes.set_xlim(-0.6, len(groups) + 0.3)  # room for the words right of the last bars
        for name, percent in chance.items():
            _line(axes, name, percent)
    if len(series) > 1:
        from matplotlib.patches import Patch

        keys = [Patch(color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(series)]
        axes.legend(handles=keys, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(series))
    return _save(figure, path)


def models_chart(bars: Sequence[Bar], path: str | Path, *, title: str, chance: float | None = None) -> Path:
    """Draw one bar per model; published bars are grey. `chance` (percent) draws a dashed line."""
    figure, axes = _axes(width=1.6 + 1.15 * len(bars), title=title)
    own = 0
    for x, bar in enumerate(bars):
        _draw(axes, x, bar, 0.66, PUBLISHED if bar.published else COLOURS[own % len(COLOURS)])
        own += not bar.published
    names = [f"{_wrapped(bar.name)}\nn={bar.n:,}" if bar.n else _wrapped(bar.name) for bar in bars]
    names = [
        f"{name}\n{bar.unread:,.0f} unread" if bar.unread else name for name, bar in zip(names, bars, strict=True)
    ]
    axes.set_xticks(range(len(bars)), names)
    if chance is not None:
        axes.set_xlim(-0.6, len(bars) - 0.05)  # room for the word right of the last bar
        _line(axes, "chance", chance)
    if any(bar.published for bar in bars):
        axes.annotate("grey: as published", (1, 1), (-2, -2), xycoords="axes fraction", **_SMALL | {"va": "top"})
    return _save(figure, path)


def _line(axes: Any, name: str, percent: float) -> None:
    axes.axhline(percent, color="#444444", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(name, (1, percent), (-2, 2), xycoords=axes.get_yaxis_transform(), **_SMALL)


def _wrapped(name: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(name, 16)) or name


def _axes(width: float, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no window system, no figures that stay in memory

    figure = Figure(figsize=(max(width, 4.5), 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_ylabel("accuracy, % (whiskers: 95 % interval)")
    axes.set_ylim(0, 109)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=9)
    return figure, axes


def _draw(axes: Any, x: float, bar: Bar, width: float, colour: str) -> None:
    axes.bar(x, bar.accuracy, width, color=colour)
    reach = [[bar.accuracy - bar.low], [bar.high - bar.accuracy]]
    axes.errorbar(x, bar.accuracy, yerr=reach, color="#222222", linewidth=1, capsize=3)
    axes.annotate(
        f"{bar.accuracy:.1f}", (x, bar.high), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=8
    )


def _save(figure: Any, path: str | Path) -> Path:
    drawn = io.BytesIO()
    # Without the software's name and date the same numbers give the same bytes.
    figure.savefig(drawn, format="png", dpi=150, metadata={"Software": None})
    write_whole(Path(path), drawn.getvalue())
    return Path(path)
