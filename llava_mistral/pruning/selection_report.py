"""report.html: what was kept against what was pruned, in one file that needs no network and no script."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.contact_sheet import sheet, sheet_picture, shown_of, thumbnails
from llava_mistral.pruning.measures import Embedding, Selection, measures_of
from llava_mistral.pruning.methods import Choice
from llava_mistral.pruning.picture_signs import problems_of, signs_of
from llava_mistral.pruning.principles import Scores
from llava_mistral.pruning.sample_pages import picture_problems, sample_pages, shown_by_reason
from llava_mistral.pruning.selection_charts import coverage_bars, formatted, histograms, maps, table

if TYPE_CHECKING:
    from llava_mistral.pruning.samples import Samples

# Nothing may be loaded or run, whatever the questions hold: https://developer.mozilla.org/docs/Web/HTTP/CSP
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root{color-scheme:light dark;--ink:#222;--soft:#5b5b5b;--line:#ddd;--paper:#fff;--well:#fafafa;--link:#2b6cb0}
@media (prefers-color-scheme:dark){:root{--ink:#e6e6e6;--soft:#b0b0b0;--line:#444;--paper:#161616;--well:#1f1f1f;
 --link:#8ab8ec}}
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;max-width:74rem;margin:1.5rem auto;padding:0 1rem;color:var(--ink);
 background:var(--paper);overflow-wrap:anywhere}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem;display:inline}
table{border-collapse:collapse;max-width:100%}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;
 unicode-bidi:isolate;max-width:28rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}
.bars{width:100%}.bars td{line-height:1.1}
.bars td:first-child{width:40%}.wide{overflow-x:auto}
.sheet{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:1.5rem}
.card{display:flex;gap:.8rem;border-top:1px solid var(--line);padding:.6rem 0}
.card .picture{flex:0 0 160px;text-align:center}.card img{max-width:100%;max-height:120px}
.card p{margin:0 0 .3rem;white-space:pre-line;unicode-bidi:isolate}.why,small{color:var(--soft);font-size:.85rem}
.bar{display:inline-block;height:.7rem;vertical-align:middle;max-width:75%}
.maps{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;max-width:100%}figcaption{max-width:340px}
svg{background:var(--well);border:1px solid var(--line);max-width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
summary{cursor:pointer;color:var(--link);padding:.2rem 0}summary h3{color:inherit}details details{margin-left:1rem}
ul{list-style:none;padding:0}li{display:flex;gap:.8rem;border-top:1px solid var(--line);padding:.3rem 0}
li p{margin:0;unicode-bidi:isolate;min-width:0}li img{flex:none;align-self:start}
@media (max-width:40rem){body{font-size:14px;padding:0 .6rem}.sheet{grid-template-columns:minmax(0,1fr)}
 .card .picture{flex-basis:96px}td,th{padding-right:.4rem}}
@media print{details>summary{list-style:none}.card,li{break-inside:avoid}}
"""

_FACTS = {"images": "samples with an image", "fitting": "samples whose image is needed", "radius": "covering radius"}
_FACTS |= {"start": "the first pick", "outliers": "outliers left out", "embeddings_sha256": "hash of the vectors"}
_FACTS |= {"smallest_cluster": "samples in the smallest cluster", "largest_cluster": "samples in the largest cluster"}
_FACTS |= {"minimum_distance": "smallest distance between two kept", "radius_bound": "the radius is"}


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole HTML page; `parts` are HTML, `title` is text."""
    heading = html.escape(title)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head = f'<!doctype html><html lang="en"><meta charset="utf-8">{policy}<meta name="viewport" '
    head += f'content="width=device-width,initial-scale=1"><title>{heading}</title><style>{_STYLE}</style>'
    body = "\n".join(part for part in parts if part)
    return f"{head}<body><main>\n<h1>{heading}</h1>\n{body}\n</main>\n"


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
    problems = samples.problems
    selection = Selection(manifest["method"], choice.picks, choice.dropped, choice.for_coverage)
    shown, listed = shown_of(problems, selection), shown_by_reason(selection, problems)
    signs = signs_of(samples, sum(listed.values(), []))
    counts = manifest["counts"] | {"kept": len(choice.picks) - len(choice.for_coverage)}
    pictures = thumbnails(samples, sum(shown, []))
    parts = [
        _counts(manifest),
        _before_and_after(problems, choice, scores),
        "<h2>Kept and pruned, side by side</h2>" + sheet(problems, selection, scores, shown, pictures),
        *(coverage_bars(problems, [selection], level) for level in ("topic", "category", "skill")),
    ]
    if embedding is not None:
        parts += [maps(embedding, [selection]), histograms(embedding.nearest)]
    parts.append(picture_problems(problems, problems_of(samples, signs), len(signs)))
    parts.append(sample_pages(problems, scores, listed, counts, signs))
    pool = manifest["input"]
    title = f"{manifest['size']:,} of {pool['rows']:,} samples of {pool['name']}, by {manifest['method']}"
    (folder / "report.html").write_text(page(title, parts), encoding="utf-8")
    if pictures:
        sheet_picture(problems, selection, shown, pictures).save(folder / "report.png")


def _counts(manifest: dict[str, Any]) -> str:
    notes = [*manifest["notes"]]
    if manifest["kept_for_coverage"]:
        extra = "were kept only because nothing else carries their topic, category or skill"
        notes.append(f"{len(manifest['kept_for_coverage'])} samples whose image is not needed {extra}.")
    facts = "".join(
        f"<tr><td>{html.escape(_FACTS.get(k, k))}<td>{html.escape(formatted(v))}"
        for k, v in manifest["selection"].items()
    )
    paragraphs = "".join(f"<p>{html.escape(note)}" for note in notes)
    counts = table([], list(manifest["counts"].items()))
    return f"<h2>Kept and dropped</h2>{counts}{paragraphs}<table>{facts}</table>"


def _before_and_after(problems: Sequence[Problem], choice: Choice, scores: Sequence[Scores]) -> str:
    """A table of the kept samples beside those with a picture and all."""
    pools = {"kept": choice.picks, "with an image": [i for i, p in enumerate(problems) if p.has_image]}
    pools["all"] = list(range(len(problems)))
    measures = {name: measures_of(problems, scores, pool) for name, pool in pools.items() if pool}
    rows = [[measure, *(values[measure] for values in measures.values())] for measure in measures["kept"]]
    return f"<h2>Before and after</h2>{table(['', *measures], rows)}"
