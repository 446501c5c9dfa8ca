"""report.png of a comparison: overlap, coverage, maps and distances of several selections in one picture."""

import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.coverage import LEVELS
from llava_mistral.pruning.measures import Embedding, Selection
from llava_mistral.pruning.selection_charts import BEFORE, MOST_DOTS, colour_of, spread

MOST_TOPICS = 24  # labels of the chart of shares, most frequent first


def draw_poster(
    path: Path,
    title: str,
    problems: Sequence[Problem],
    selections: Sequence[Selection],
    result: Mapping[str, Any],
    embedding: Embedding | None,
) -> None:
    """Draw `result` (comparison.json) and the embedding, where there is one; the same input gives the same bytes."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no figures that stay in memory

    columns = max(3, len(selections))
    rows = 2 if embedding is None else 4
    figure = Figure(figsize=(3.6 * columns, 4.2 * rows), layout="constrained")
    figure.suptitle(_plain(title, 120), fontsize=14)
    grid = figure.add_gridspec(rows, columns)
    _overlaps(figure.add_subplot(grid[0, 0]), result)
    _coverage(figure.add_subplot(grid[0, 1:]), result)
    _shares(figure.add_subplot(grid[1, :]), problems, selections)
    if embedding is not None:
        _maps([figure.add_subplot(grid[2, i]) for i in range(len(selections))], embedding, selections)
        _distances(figure.add_subplot(grid[3, :]), embedding)
    # Without the software's name the same numbers give the same bytes.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # scripts that the font lacks are drawn as boxes
        figure.savefig(path, dpi=100, metadata={"Software": None})


def _plain(text: str, width: int = 24) -> str:
    """Return text that matplotlib draws as it is: a dollar would begin a formula."""
    return "\n".join(textwrap.wrap(text, width, max_lines=3, placeholder=" …")).replace("$", r"\$")


def _overlaps(axes: Any, result: Mapping[str, Any]) -> None:
    names = list(result["sets"])
    shares = np.eye(len(names))
    for of in result["overlaps"]:
        a, b = (names.index(name) for name in of["sets"])
        shares[a, b] = shares[b, a] = of["jaccard"]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.6)
    for a, b in np.ndindex(*shares.shape):
        axes.text(b, a, f"{100 * shares[a, b]:.1f}", ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(names)), [_plain(name, 14) for name in names], rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), [_plain(name, 14) for name in names], fontsize=8)
    axes.set_title("overlap, % of the union", fontsize=10)


def _coverage(axes: Any, result: Mapping[str, Any]) -> None:
    names = [f"{level} labels" for level in LEVELS if result["all"][f"{level} labels"]]
    width = 0.8 / len(result["sets"])
    for place, (name, measures) in enumerate(result["sets"].items()):
        shares = [100 * measures[label] / result["all"][label] for label in names]
        x = np.arange(len(names)) + (place - (len(result["sets"]) - 1) / 2) * width
        axes.bar(x, shares, width * 0.92, color=colour_of(place), label=_plain(name))
        for at, share, label in zip(x, shares, names, strict=True):
            axes.text(at, share + 1, measures[label], ha="center", fontsize=8)
    axes.set_xticks(range(len(names)), [f"{name}\nof {result['all'][name]}" for name in names], fontsize=8)
    axes.set(ylim=(0, 112))
    axes.set_title("labels covered, % of all there are", fontsize=10)
    axes.legend(fontsize=8, ncols=4, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes.spines[["top", "right"]].set_visible(False)


def _shares(axes: Any, problems: Sequence[Problem], selections: Sequence[Selection]) -> None:
    """Share of every topic before and after; the finest level that is not too fine to read."""
    counts = {level: Counter(n for p in problems if (n := getattr(p, level))) for level in LEVELS}
    level = next((of for of in reversed(LEVELS) if 0 < len(counts[of]) <= MOST_TOPICS), "topic")
    names = [name for name, _ in sorted(counts[level].items(), key=lambda item: (-item[1], item[0]))][:MOST_TOPICS]
    pools = [(BEFORE, "before", range(len(problems)))]
    pools += [(colour_of(place), of.name, of.picks) for place, of in enumerate(selections)]
    width = 0.84 / len(pools)
    for place, (colour, name, picks) in enumerate(pools):
        found = Counter(n for i in picks if (n := getattr(problems[i], level)))
        shares = [100 * found[label] / max(found.total(), 1) for label in names]
        x = np.arange(len(names)) + (place - (len(pools) - 1) / 2) * width
        axes.bar(x, shares, width * 0.95, color=colour, label=_plain(name))
    axes.set_xticks(range(len(names)), [_plain(name, 22) for name in names], rotation=40, ha="right", fontsize=8)
    axes.set_title(f"share of each {level}, %", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, ncols=len(pools), loc="lower right", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)


def _maps(places: Sequence[Any], embedding: Embedding, selections: Sequence[Selection]) -> None:
    for place, (axes, of) in enumerate(zip(places, selections, strict=True)):
        kept = [embedding.rows[i] for i in of.picks if i in embedding.rows]
        rest = sorted(set(range(len(embedding.points))) - set(kept))
        for rows, colour, size in ((rest, BEFORE, 2), (kept, colour_of(place), 5)):
            axes.scatter(*embedding.points[spread(rows, MOST_DOTS)].T, s=size, color=colour, linewidths=0)
        axes.set(xticks=[], yticks=[])
        axes.set_title(_plain(of.name), fontsize=10)


def _distances(axes: Any, embedding: Embedding) -> None:
    end = max(float(distances.max()) for distances in embedding.nearest.values()) or 1.0
    for place, (name, distances) in enumerate(embedding.nearest.items()):
        said = f"{_plain(name)}: radius {distances.max():.4g}"
        axes.hist(distances, 60, (0, end), histtype="step", linewidth=1.6, color=colour_of(place), label=said)
    axes.set_yscale("log")
    axes.set_title("samples by their distance to the nearest kept one", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
