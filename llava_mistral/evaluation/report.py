"""A comparison as one self-contained HTML page."""

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import COLUMNS
from llava_mistral.evaluation.comparison import sentences
from llava_mistral.ground.escaping import POLICY_TAG

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .6rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #ddd } small { color: #666 }
h1, li, p { overflow-wrap: anywhere }
img { max-width: 100%; height: auto } .scroll { overflow-x: auto }
"""
# What is wider than a phone scrolls by itself, also by the keyboard.
_SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="table">'


def comparison_page(comparison: Mapping[str, Any], chart: Path | None, *, title: str) -> str:
    """Return the page: chart, differences in words, the nine columns of every model, where the figures are from."""
    picture = ""
    if chart is not None:
        data = base64.b64encode(chart.read_bytes()).decode()
        picture = f'<img alt="Bar chart of accuracies" src="data:image/png;base64,{data}">'
    column, hashes = (
        escape(comparison["column"]),
        [(comparison[kind] or "unknown")[:16] for kind in ("question_hash", "prompt_hash")],
    )
    chance = "" if comparison["chance"] is None else f", where chance is {comparison['chance']:.1f}"
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(comparison))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{POLICY_TAG}<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>
<h1>{escape(title)}</h1>
<p>Accuracy in percent on {comparison["questions"]:,} questions ({column}){chance}.
95 % intervals: Wilson's for one run; over seeds and questions both where there are several seeds.</p>
{picture}
<h2>Differences</h2><ul>{items}</ul>
<h2>All columns</h2>{_SCROLL}{_columns_table(comparison)}</div>
{_published_table(comparison)}
{_efficiency_table(comparison.get("efficiency"))}
<h2>Source</h2>{_sources_table(comparison)}
<p><small>SHA-256, first 16 digits: questions {escape(hashes[0])}, prompts {escape(hashes[1])}</small></p>
</main></body></html>
"""


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "<td>–</td>"
    low, high = cell["ci95"]
    return f"<td>{cell['accuracy']:.2f}<br><small>{low:.1f}–{high:.1f}</small></td>"


def _columns_table(comparison: Mapping[str, Any]) -> str:
    rows = [f"<tr><th>model</th>{''.join(f'<th>{column}</th>' for column in COLUMNS)}</tr>"]
    for name, model in comparison["models"].items():
        cells = "".join(_cell(model["columns"][column]) for column in COLUMNS)
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _published_table(comparison: Mapping[str, Any]) -> str:
    if not comparison["published"]:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td>{_cell(cell)}</tr>" for name, cell in comparison["published"].items())
    return (
        "<h2>Published</h2><p>The study's own bars, on ScienceQA's 2,017 test questions with a picture; the intervals "
        "are added here. They are not part of the tests above: its answers to the single questions are not published."
        f"</p>{_SCROLL}<table>{rows}</table></div>"
    )


def _efficiency_table(efficiency: Mapping[str, Any] | None) -> str:
    if not efficiency:
        return ""
    models = efficiency["models"].values()
    rows = [f"<tr><th></th>{''.join(f'<th>{escape(name)}</th>' for name in efficiency['models'])}</tr>"]

    def row(label: str, cells: list[str]) -> None:
        rows.append(f"<tr><td>{escape(label)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")

    for part in ("all", "text_model", "projector", "vision_tower"):
        row(f"parameters, {part.replace('_', ' ')}", [f"{model['parameters'][part]:,}" for model in models])
    row("FLOP of a picture, tower and projector", [f"{model['flops']['picture']:.4g}" for model in models])
    row("FLOP of a token, attention apart", [f"{model['flops']['token']:.4g}" for model in models])
    row("window, tokens", ["none" if model["window"] is None else f"{model['window']:,}" for model in models])
    row("key-value cache of a token, bytes", [f"{model['kv_cache']['token']:,}" for model in models])
    for context in next(iter(models))["kv_cache"]["at"]:
        cells = [f"{model['kv_cache']['at'][context] / 2**20:,.1f}" for model in models]
        row(f"key-value cache at {int(context):,} tokens, MiB", cells)
    for kind, label in (("prefill", "prompt tokens read"), ("decode", "tokens written")):
        for size in efficiency["batch_sizes"]:
            row(f"{label} per second, batch of {size}", [_rate(model["measured"][kind][size]) for model in models])
    row("peak memory, MiB", [f"{model['measured']['peak_memory']['bytes'] / 2**20:,.0f}" for model in models])
    device = escape(str(efficiency["hardware"]["device"]))
    trained = [model["training"] for model in models]
    row(
        "training samples per second",
        ["unknown" if run is None else f"{run['samples_per_second']:g}" for run in trained],
    )
    return (
        "<h2>Efficiency</h2><p>Parameters, FLOP and cache (bfloat16) follow from the configurations. Speed and memory "
        f"were measured on {device}, {efficiency['rounds']} rounds, the models in turn: "
        f"medians with quartiles.</p>{_SCROLL}<table>{''.join(rows)}</table></div>"
    )


def _rate(quartiles: list[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:,.0f}<br><small>{low:,.0f}–{high:,.0f}</small>"


def _sources_table(comparison: Mapping[str, Any]) -> str:
    fields = ("seeds", "model", "predictions", "dataset", "split", "scoring", "images", "unread")
    rows = [f"<tr><th>name</th>{''.join(f'<th>{field}</th>' for field in fields)}</tr>"]
    for name, model in comparison["models"].items():
        cells = "".join(f"<td>{escape(str('–' if model[field] is None else model[field]))}</td>" for field in fields)
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return f"{_SCROLL}<table>{''.join(rows)}</table></div>"
