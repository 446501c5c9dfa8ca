"""Bars, maps and histograms of selections as HTML and SVG: no script, no network, every word of the data escaped."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.measures import Embedding, Selection

if TYPE_CHECKING:
    import numpy as np

BEFORE = "#c9d3df"
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#4a5568")  # of the selections, in order
MOST_DOTS, MANY_LABELS, BAR = 4000, 30, 75  # dots of a map's background; labels shown unfolded; % of a cell


def colour_of(place: int) -> str:
    """Return the colour of the selection in this place."""
    return COLOURS[place % len(COLOURS)]


def formatted(value: Any) -> str:
    """Format a number for a reader; anything else is returned as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table whose first column holds names and whose others hold numbers."""
    titles = "".join(f'<th class="{"n" * bool(i)}">{html.escape(name)}' for i, name in enumerate(head))
    body = ""
    for name, *values in rows:
        body += f"<tr><td>{html.escape(str(name))}" + "".join(
            f'<td class="n">{html.escape(formatted(v))}' for v in values
        )
    return f'<div class="wide"><table>{f"<tr>{titles}" if head else ""}{body}</table></div>'


def coverage_bars(problems: Sequence[Problem], selections: Sequence[Selection], level: str) -> str:
    """Bars of the share of every label before (all samples) and after (the kept ones), most frequent first."""
    before = Counter(name for problem in problems if (name := getattr(problem, level)))
    if not before:
        return ""
    after = [
        Counter(name for i in selection.picks if (name := getattr(problems[i], level))) for selection in selections
    ]
    pools = [(BEFORE, before), *((colour_of(place), counts) for place, counts in enumerate(after))]
    scale = BAR / max(max(counts.values(), default=0) / max(counts.total(), 1) for _, counts in pools)
    rows = ""
    for name, _ in sorted(before.items(), key=lambda item: (-item[1], item[0])):
        bars = "<br>".join(
            _bar(colour, scale * counts[name] / max(counts.total(), 1), counts[name]) for colour, counts in pools
        )
        rows += f"<tr><td>{html.escape(name)}<td>{bars}"
    keys = "".join(
        f" {_key(colour)} {html.escape(name)}"
        for (colour, _), name in zip(pools, ["before", *_names(selections)], strict=True)
    )
    covered = (f"{len(counts)} {name}" for counts, name in zip(after, _names(selections), strict=True))
    caption = f"{len(before)} {html.escape(level)} labels before, {html.escape(', '.join(covered))}"
    folded = "" if len(before) <= MANY_LABELS else f"<details><summary>show all {len(before)}</summary>"
    end = "</details>" if folded else ""
    return f'<h2>Shares by {level}</h2><p>{caption}.{folded}<p>{keys}<table class="bars">{rows}</table>{end}'


def _names(selections: Sequence[Selection]) -> list[str]:
    return [selection.name for selection in selections] if len(selections) > 1 else ["after"]


def _bar(colour: str, width: float, number: int | None = None) -> str:
    label = "" if number is None else f" {number:,}"
    return f'<span class="bar" style="width:{width:.1f}%;background:{colour}"></span>{label}'


def _key(colour: str) -> str:
    return f'<span class="bar" style="width:14px;background:{colour}"></span>'


def maps(embedding: Embedding, selections: Sequence[Selection]) -> str:
    """Per selection a scatter of the first two principal directions, its picks in its colour."""
    low, high = embedding.points.min(0), embedding.points.max(0)
    size = 480 if len(selections) == 1 else 340
    places = 10 + (size - 20) * (embedding.points - low) / (high - low).clip(1e-12)
    places[:, 1] = size - places[:, 1]  # SVG counts downwards
    drawn = "".join(
        f"<figure><figcaption>{html.escape(of.name)}</figcaption>{_map(places, embedding, of, place, size)}</figure>"
        for place, of in enumerate(selections)
    )
    caption = "Along the two directions of most spread; in colour: kept."
    return f'<h2>Map of the embedding</h2><p>{caption}</p><div class="maps">{drawn}</div>'


def _map(places: "np.ndarray", embedding: Embedding, selection: Selection, place: int, size: int) -> str:
    kept = {embedding.rows[i] for i in selection.picks if i in embedding.rows}
    rest = [row for row in range(len(places)) if row not in kept]
    dots = "".join(_dot(places[row], 1.5) for row in spread(rest, MOST_DOTS))
    dots = f'<g fill="{BEFORE}">{dots}</g><g fill="{colour_of(place)}">'
    dots += "".join(_dot(places[row], 2.5) for row in spread(sorted(kept), MOST_DOTS))
    return (
        f'<svg role="img" aria-label="map" width="{size}" height="{size}" viewBox="0 0 {size} {size}">{dots}</g></svg>'
    )


def _dot(place: "np.ndarray", radius: float) -> str:
    return f'<circle cx="{place[0]:.0f}" cy="{place[1]:.0f}" r="{radius}"/>'


def histograms(nearest: Mapping[str, "np.ndarray"]) -> str:
    """Per selection a histogram of the distance of every sample to the nearest kept one, all on the same axes."""
    import numpy as np

    end = max(float(distances.max()) for distances in nearest.values()) or 1.0
    counted = {name: np.histogram(distances, bins=40, range=(0, end))[0] for name, distances in nearest.items()}
    drawn = "".join(
        f"<figure><figcaption>{html.escape(name)}: radius {nearest[name].max():.4g}, mean "
        f"{nearest[name].mean():.4g}</figcaption>{_histogram(counts, colour_of(place), end)}</figure>"
        for place, (name, counts) in enumerate(counted.items())
    )
    return f'<h2>Distance of each sample to the nearest kept one</h2><div class="maps">{drawn}</div>'


def _histogram(counts: "np.ndarray", colour: str, end: float) -> str:
    bars = "".join(
        f'<rect x="{10 + 8 * i}" y="{150 - height:.1f}" width="7" height="{height:.1f}"/>'
        for i, height in enumerate(140 * counts / counts.max())
    )
    axis = f'<text x="10" y="166">0</text><text x="330" y="166" text-anchor="end">{end:.4g}</text>'
    top = f'<text x="330" y="22" text-anchor="end">tallest bar: {counts.max():,} samples</text>'
    head = '<svg role="img" aria-label="histogram" width="340" height="172" viewBox="0 0 340 172">'
    return f'{head}<g fill="{colour}">{bars}</g>{axis}{top}</svg>'


def spread(items: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the items, evenly through them."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]
