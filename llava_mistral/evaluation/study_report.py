"""The whole comparison of a study: backbones, choices of data and seeds, as `study.json` and `study.md`.

    python -m llava_mistral.evaluation.study_report --results STUDY/results --output STUDY/report

The page is poured out of the JSON; a number in it was computed by a run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mistral.evaluation.comparison import check_comparable, difference, model_summary, read_run
from llava_mistral.evaluation.statistics import LEVEL, holm
from llava_mistral.ground.bad_input import BadInput

MAIN, SHOWN = "IMG", ("ALL", "IMG", "NO")
CONTROL, DROPPED, DROPPED_FROM = "random", "question-dropped", "principles"
NAMES = {
    "stage1-only": "stage 1 only",
    "random": "random choice",
    "principles": "three principles",
    "farthest": "farthest in L2",
    "all": "all data",
    "question-dropped": "three principles, question dropped",
}


def read_results(root: Path) -> dict[tuple[str, str], list]:
    """Return {(backbone, data): runs in the order of their seeds} of `root/backbone/data/seed`.

    Raises:
        BadInput: there are no results below it, or the seeds of two differ.
    """
    folders: dict[tuple[str, str], list[Path]] = {}
    for file in sorted(root.glob("*/*/*/summary.json")):
        folders.setdefault(file.parts[-4:-2], []).append(file.parent)
    if not folders:
        raise BadInput("holds no results", remedy="give a folder of backbone/data/seed folders", file=root)
    seeds = {tuple(folder.name for folder in group) for group in folders.values()}
    if len(seeds) > 1:
        raise BadInput("not every model has the same seeds", remedy="evaluate the missing ones", file=root)
    return {key: [read_run(folder) for folder in group] for key, group in sorted(folders.items())}


def planned(keys: Sequence[tuple[str, str]]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return the pairs that are asked about, decided before any result: (from, to).

    Each choice of data against the random one; the dropped question against the same data with it; and the backbones,
    in the order of their names, on equal data.
    """
    pairs = []
    for backbone in dict.fromkeys(key[0] for key in keys):
        own = [data for name, data in keys if name == backbone]
        others = [data for data in own if data not in (CONTROL, DROPPED)]
        pairs += [((backbone, CONTROL), (backbone, data)) for data in others if CONTROL in own]
        if DROPPED in own and DROPPED_FROM in own:
            pairs.append(((backbone, DROPPED_FROM), (backbone, DROPPED)))
    for data in dict.fromkeys(key[1] for key in keys):
        backbones = [name for name, other in keys if other == data]
        pairs += [((first, data), (second, data)) for first, second in zip(backbones, backbones[1:], strict=False)]
    return pairs


def study_results(root: str | Path, title: str) -> dict[str, Any]:
    """Return the contents of `study.json`: percentages, differences in points, 95 % intervals over seeds.

    Raises:
        BadInput: results are missing or are about different questions.
    """
    runs = read_results(Path(root))
    groups = {f"{backbone}/{data}": group for (backbone, data), group in runs.items()}
    check_comparable(groups, MAIN)
    pairs = []
    for first, second in planned(list(runs)):
        names = ["/".join(first), "/".join(second)]
        pairs.append({"first": names[0], "second": names[1], **difference(runs[first], runs[second], MAIN)})
    for pair, p_value in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        pair |= {"p_holm": p_value, "significant": p_value < 1 - LEVEL}
    cell = next(iter(runs.values()))[0].summary[MAIN]
    return {
        "title": title,
        "seeds": len(next(iter(runs.values()))),
        "questions": cell["n"],
        "chance": cell["chance"],
        "question_hash": next(iter(runs.values()))[0].summary["question_hash"],
        "models": {name: {c: model_summary(group)["columns"][c] for c in SHOWN} for name, group in groups.items()},
        "pairs": pairs,
    }


def study_page(found: Mapping[str, Any]) -> str:
    """Return `study.md` of a `study.json`."""
    head = ["backbone", "fine-tuning data", *SHOWN]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, columns in found["models"].items():
        backbone, data = name.split("/")
        rows.append(f"| {backbone} | {NAMES.get(data, data)} | {' | '.join(_cell(columns[c]) for c in SHOWN)} |")
    shown = sum(pair["significant"] for pair in found["pairs"])
    widest = max((pair["ci95"][1] - pair["ci95"][0]) / 2 for pair in found["pairs"])
    return "\n".join(
        [
            f"# {found['title']}",
            "",
            f"Accuracy in percent, mean of {found['seeds']} seeds with its 95 % interval (Student's t). {MAIN} has "
            f"{found['questions']:,} questions, where chance is {found['chance']:.1f}.",
            "",
            *rows,
            "",
            "![Accuracy by backbone and data](study.png)",
            "",
            "## Differences",
            "",
            f"In points of {MAIN}, paired by seed; p-values are corrected for the {len(found['pairs'])} planned ones "
            "(Holm 1979).",
            "",
            "| from | to | difference | 95 % interval | p | |",
            "|---|---|---|---|---|---|",
            *[_pair_row(pair) for pair in found["pairs"]],
            "",
            f"{shown} of {len(found['pairs'])} differences are significant. Where one is not, none is shown, which is "
            f"not to say that there is none: {found['seeds']} seeds leave intervals of up to {widest:.1f} points on "
            "either side.",
            "",
        ]
    )


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    low, high = cell["ci95"]
    return f"{cell['accuracy']:.1f} ({low:.1f} to {high:.1f})"


def _pair_row(pair: Mapping[str, Any]) -> str:
    low, high = pair["ci95"]
    names = [_named(pair[side]) for side in ("first", "second")]
    verdict = "significant" if pair["significant"] else "not significant"
    gap = f"{pair['difference']:+.1f} | {low:+.1f} to {high:+.1f}"
    return f"| {names[0]} | {names[1]} | {gap} | {pair['p_holm']:.2g} | {verdict} |"


def _named(name: str) -> str:
    backbone, data = name.split("/")
    return f"{backbone}, {NAMES.get(data, data)}"


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser, whole_folder

    parser = VerbParser(prog="llava_mistral.evaluation.study_report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", required=True, help="folder of backbone/data/seed results folders")
    parser.add_argument("--output", required=True, help="folder to write: study.json, study.md, study.png")
    parser.add_argument("--title", default="Backbones and choices of data", help="headline of page and chart")
    options = parser.parse_args()
    found = study_results(options.results, options.title)
    with whole_folder(options.output, "study.json") as folder:
        from llava_mistral.evaluation.charts import grouped_chart

        grouped_chart(_grouped(found), folder / "study.png", title=found["title"], chance=found["chance"])
        (folder / "study.md").write_text(study_page(found), encoding="utf-8")
        (folder / "study.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(Path(options.output) / "study.md")


def _grouped(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{backbone: {data: cell}} of the main column, the data in the order of `NAMES`."""
    grouped: dict[str, dict[str, Any]] = {}
    for name, columns in found["models"].items():
        backbone, data = name.split("/")
        grouped.setdefault(backbone, {})[NAMES.get(data, data)] = columns[MAIN]
    order = list(NAMES.values())
    key = lambda data: order.index(data) if data in order else len(order)  # noqa: E731
    return {backbone: dict(sorted(cells.items(), key=lambda it: key(it[0]))) for backbone, cells in grouped.items()}


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
