"""report.html: what was kept against what was pruned, in one file that needs no network and no script."""

import base64
import html
import io
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from pictures import open_picture
from processing.scienceqa import Problem, question_text
from processing.sources import undecoded
from pruning.coverage import LEVELS, skill_of
from pruning.methods import Choice
from pruning.principles import Scores

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from pruning.samples import Samples

SHOWN, THUMBNAIL = 12, 160  # samples on each side of the contact sheet; pixels
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.sheet{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem}
.card{display:flex;gap:.8rem;border-top:1px solid #ddd;padding:.6rem 0}
.card .picture{flex:0 0 160px;text-align:center}.card img{max-width:160px;max-height:120px}
.card p{margin:0 0 .3rem;white-space:pre-line}.why{color:#666;font-size:.85rem}
.bar{display:inline-block;height:.7rem;vertical-align:middle}
.all{background:#c9d3df}.kept{background:#2b6cb0}svg{background:#fafafa;border:1px solid #ddd}
"""


@dataclass(frozen=True)
class Embedding:
    """The embedded samples, as the report draws them."""

    points: "np.ndarray"  # (n, 2)
    nearest: "np.ndarray"  # (n,) distance to the nearest pick
    picks: list[int]  # rows of the two


def write_report(
    folder: Path,
    manifest: dict[str, Any],
    samples: "Samples",
    choice: Choice,
    scores: Sequence[Scores],
    embedding: "Embedding | None" = None,
) -> None:
    """Write report.html, and report.png (its contact sheet) where the pictures are at hand.

    Args:
        embedding: for the map and the histogram, where there are embeddings.
    """
    shown = _shown(samples, choice)
    pictures = {i: _thumbnail(samples, i) for i in sum(shown, [])} if samples.pictures else {}
    parts = [
        f"<h1>{choice_title(manifest)}</h1>",
        _counts(manifest),
        _comparison(samples.problems, choice, scores),
        _contact_sheet(samples.problems, choice, scores, shown, pictures),
        *(_coverage_bars(samples.problems, choice.picks, level) for level in ("topic", "skill")),
    ]
    if embedding is not None:
        parts += [_map(embedding), _histogram(embedding.nearest)]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{choice_title(manifest)}</title>'
    body = "\n".join(part for part in parts if part)
    (folder / "report.html").write_text(f"{head}<style>{_STYLE}</style><body>\n{body}\n", encoding="utf-8")
    if any(pictures.values()):
        _contact_picture(samples.problems, shown, pictures).save(folder / "report.png")


def choice_title(manifest: dict[str, Any]) -> str:
    """Return the one line that says what was done."""
    of = manifest["input"]
    return html.escape(f"{manifest['size']:,} of {of['rows']:,} samples of {of['name']}, by {manifest['method']}")


def _shown(samples: "Samples", choice: Choice) -> tuple[list[int], list[int]]:
    """Return indices for both sides of the sheet: evenly through the picks, and through each reason's samples."""
    by_reason: dict[str, list[int]] = {}
    for i, reason in sorted(choice.dropped.items()):
        by_reason.setdefault(reason, []).append(i)
    told = [reason for reason in by_reason if any(samples.problems[i].has_image for i in by_reason[reason])]
    pruned = [
        i for reason in told or by_reason for i in _spread(by_reason[reason], -(-SHOWN // len(told or by_reason)))
    ]
    return _spread(choice.picks, SHOWN), pruned[:SHOWN]


def _spread(items: Sequence[int], count: int) -> list[int]:
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def _thumbnail(samples: "Samples", i: int) -> "Image | None":
    cells = undecoded(samples.rows([i]))[0]["images"]
    if not cells:
        return None
    picture = open_picture(cells[0], file=samples.source, record=samples.problems[i].pid)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def _counts(manifest: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(reason)}<td class="n">{count:,}' for reason, count in manifest["counts"].items()
    )
    notes = [*manifest["notes"]]
    if manifest["kept_for_coverage"]:
        extra = "were kept only because nothing else carries their topic, category or skill"
        notes.append(f"{len(manifest['kept_for_coverage'])} samples whose image is not needed {extra}.")
    facts = "".join(
        f"<tr><td>{html.escape(str(k))}<td>{html.escape(_say(v))}" for k, v in manifest["selection"].items()
    )
    said = "".join(f"<p>{html.escape(note)}" for note in notes)
    return f"<h2>Kept and dropped</h2><table>{rows}</table>{said}<table>{facts}</table>"


def _comparison(problems: Sequence[Problem], choice: Choice, scores: Sequence[Scores]) -> str:
    """A table of the kept samples beside all samples and those with a picture."""
    pools = {"kept": choice.picks, "with an image": [i for i, p in enumerate(problems) if p.has_image]}
    pools["all"] = list(range(len(problems)))
    measures = {name: measures_of(problems, scores, pool) for name, pool in pools.items() if pool}
    head = "".join(f'<th class="n">{name}' for name in measures)
    rows = ""
    for measure in measures["kept"]:
        cells = "".join(f'<td class="n">{_say(of[measure])}' for of in measures.values())
        rows += f"<tr><td>{html.escape(measure)}{cells}"
    return f"<h2>Before and after</h2><table><tr><th>{head}{rows}</table>"


def measures_of(problems: Sequence[Problem], scores: Sequence[Scores], pool: Sequence[int]) -> dict[str, float]:
    """Return coverage, difficulty, necessity, length and redundancy of the samples in `pool`."""
    labels = {f"{level} labels": len({getattr(problems[i], level) for i in pool} - {None}) for level in LEVELS}
    words = len({(problems[i].question, problems[i].hint) for i in pool})
    return {
        "samples": len(pool),
        **labels,
        "mean difficulty (0-1)": mean(scores[i].difficulty for i in pool),
        "mean necessity of the image (0-1)": mean(scores[i].necessity for i in pool),
        "mean prompt length (characters)": mean(len(question_text(problems[i])) for i in pool),
        "redundancy (samples whose words are there already)": 1 - words / len(pool),
    }


def _contact_sheet(problems, choice: Choice, scores, shown, pictures) -> str:
    kept, pruned = shown
    for_coverage = set(choice.for_coverage)
    why_kept = {i: "kept for coverage only" if i in for_coverage else "kept" for i in kept}
    left = "".join(_card(problems[i], pictures.get(i), why_kept[i], scores[i]) for i in kept)
    right = "".join(_card(problems[i], pictures.get(i), choice.dropped[i], scores[i]) for i in pruned)
    return f'<h2>Kept and pruned, side by side</h2><div class="sheet"><div>{left}</div><div>{right}</div></div>'


def _card(problem: Problem, picture: "Image | None", why: str, score: Scores) -> str:
    shown = "no picture at hand" if problem.has_image else "no picture"
    if picture is not None:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        shown = f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    need = f"image needed {score.necessity:.2f} ({score.why})"
    numbers = f"{need}, difficulty {score.difficulty:.2f}; {skill_of(problem) or 'no skill'}"
    text = html.escape(_short(problem.question, 220))
    reason = html.escape(why)
    return (
        f'<div class="card"><div class="picture why">{shown}</div><div><p>{text}</p>'
        f'<p class="why"><b>{reason}</b><br>{html.escape(numbers)} · id {html.escape(problem.pid)}</p></div></div>'
    )


def _coverage_bars(problems: Sequence[Problem], picks: Sequence[int], level: str) -> str:
    """Bars of the share of every label before (all samples) and after (the kept ones), most frequent first."""
    before = Counter(name for problem in problems if (name := getattr(problem, level)))
    after = Counter(name for i in picks if (name := getattr(problems[i], level)))
    if not before:
        return ""
    scale = 320 / max(max(before.values()) / before.total(), max(after.values(), default=0) / max(after.total(), 1))
    rows = ""
    for name, count in sorted(before.items(), key=lambda item: (-item[1], item[0])):
        widths = [scale * count / before.total(), scale * after[name] / max(after.total(), 1)]
        bars = "<br>".join(
            f'<span class="bar {kind}" style="width:{width:.0f}px"></span> {number:,}'
            for kind, width, number in zip(("all", "kept"), widths, (count, after[name]), strict=True)
        )
        rows += f"<tr><td>{html.escape(name)}<td>{bars}"
    legend = (
        '<span class="bar all" style="width:1rem"></span> before <span class="bar kept" style="width:1rem"></span>'
    )
    return f"<h2>Shares by {level}</h2><p>{legend} after<table>{rows}</table>"


def _map(embedding: Embedding) -> str:
    """A scatter of the first two principal directions; the picks in colour."""
    low, high = embedding.points.min(0), embedding.points.max(0)
    places = 10 + 480 * (embedding.points - low) / (high - low).clip(1e-12)
    kept = set(embedding.picks)
    rest = [i for i in range(len(places)) if i not in kept]
    dots = "".join(_dot(places[i], 1.5, "#c9d3df") for i in _spread(rest, 4000))
    dots += "".join(_dot(places[i], 2.5, "#2b6cb0") for i in embedding.picks)
    said = "Along the two directions of most spread; blue: kept."
    return f'<h2>Map of the embedding</h2><p>{said}</p><svg width="500" height="500">{dots}</svg>'


def _dot(place, radius: float, colour: str) -> str:
    return f'<circle cx="{place[0]:.0f}" cy="{place[1]:.0f}" r="{radius}" fill="{colour}"/>'


def _histogram(distances: "np.ndarray") -> str:
    import numpy as np

    counts, edges = np.histogram(distances, bins=40, range=(0, float(distances.max()) or 1))
    bars = "".join(
        f'<rect x="{10 + 12 * i}" y="{210 - 200 * n / counts.max():.0f}" width="11" '
        f'height="{200 * n / counts.max():.0f}" fill="#2b6cb0"/>'
        for i, n in enumerate(counts)
    )
    said = f"0 … {edges[-1]:.4g} (the radius)"
    return (
        f'<h2>Distance of each sample to the nearest kept one</h2><svg width="500" height="220">{bars}</svg><p>{said}'
    )


def _contact_picture(problems, shown, pictures) -> "Image":
    """The sheet as one picture: kept samples in the left half, pruned ones in the right."""
    from PIL import Image, ImageDraw, ImageOps

    width, height, columns = THUMBNAIL + 16, THUMBNAIL // 2 + 56, 3
    sheet = Image.new("RGB", (2 * columns * width + 48, -(-SHOWN // columns) * height + 40), "white")
    pen = ImageDraw.Draw(sheet)
    for half, (title, indices) in enumerate(zip(("kept", "pruned"), shown, strict=True)):
        left = 12 + half * (columns * width + 24)
        pen.text((left, 8), title, fill="black", font_size=16)
        for place, i in enumerate(indices):
            x, y = left + place % columns * width, 36 + place // columns * height
            if pictures.get(i) is not None:
                sheet.paste(ImageOps.contain(pictures[i], (THUMBNAIL, THUMBNAIL // 2)), (x, y))
            words = _short(" ".join(problems[i].question.split()), 54).encode("ascii", "replace").decode()
            pen.multiline_text((x, y + THUMBNAIL // 2 + 4), "\n".join(textwrap.wrap(words, 27)[:2]), fill="#333")
    return sheet


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _say(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
