"""The whole comparison of a study: backbones, choices of data and seeds, as `study.json` and `study.md`.

    python -m llava_mistral.evaluation.study_report --results STUDY/results --data STUDY/digitsqa --output STUDY/report

The page is poured out of the JSON; a number in it was computed by a run. `--figures study.json` in place of --results
pours an earlier study again from its accuracies by seed, by today's methods.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from llava_mistral.evaluation.statistics import POWER
from llava_mistral.evaluation.study_figures import MAIN, SHOWN, TESTED, floors, restated, study_results
from llava_mistral.ground.escaping import markdown

NAMES = {
    "stage1-only": "stage 1 only",
    "random": "random choice",
    "principles": "three principles",
    "farthest": "farthest in L2",
    "all": "all data",
    "question-dropped": "three principles, question dropped",
}
COLUMNS = {"skills": "mean over skills"}
WIDTH = 119  # characters of a line of the page


def study_page(figures: Mapping[str, Any]) -> str:
    """Return `study.md` of a `study.json`."""
    shown = [column for column in SHOWN if any(own.get(column) for own in figures["models"].values())]
    sections = [
        [f"# {markdown(figures['title'])}"],
        [fill(" ".join([*_about(figures), *_about_backbones(figures)]), WIDTH)],
        _accuracies(figures, shown),
        ["![Accuracy by backbone and data](study.png)"],
        *_floors(figures, shown),
        *_training(figures),
        *_differences(figures),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _about(figures: Mapping[str, Any]) -> list[str]:
    """What was measured, and what the intervals are about."""
    sizes = [
        f"{column} {n:,} questions, chance {figures['chance'][column]:.1f}"
        for column, n in figures["questions"].items()
    ]
    lines = [
        f"Accuracy in percent, mean of {figures['seeds']} seeds. {'; '.join(sizes)}.",
        "95 % intervals count seeds and questions both as samples; the seeds' variance is pooled over the rows.",
    ]
    if figures.get("of"):
        lines.append(f"The figures are those of {markdown(figures['of'])}.")
    if not figures["answers_kept"]:
        lines.append(
            "Of this run the accuracies by seed were kept and not the single answers, so the questions' part is the "
            "most that it can be: the intervals are wider than needed, those of differences above all."
        )
    return lines


def _about_backbones(figures: Mapping[str, Any]) -> list[str]:
    backbones = list(dict.fromkeys(name.split("/")[0] for name in figures["models"]))
    if len(backbones) < 2:
        return []
    twins = figures.get("twins")
    alike = ""
    if twins:
        alike = (
            f" They are twins: {twins['parameters']:,} parameters of the same shapes with equal initial weights, "
            f"trained on the same texts in the same order; {twins['differs']}."
        )
    return [
        f"The text models of {' and '.join(backbones)} were made once, and the seeds train the projector and stage 2 "
        f"on top of them, so that each backbone is one run.{alike} No difference between backbones is tested: their "
        "rows stand side by side, and a gap between them is not evidence about Mistral and LLaMA."
    ]


def _accuracies(figures: Mapping[str, Any], shown: list[str]) -> list[str]:
    head = ["backbone", "fine-tuning data", *(COLUMNS.get(column, column) for column in shown)]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, columns in figures["models"].items():
        backbone, data = name.split("/")
        cells = " | ".join(_cell(columns.get(column)) for column in shown)
        rows.append(f"| {backbone} | {NAMES.get(data, data)} | {cells} |")
    return rows


def _floors(figures: Mapping[str, Any], shown: list[str]) -> list[list[str]]:
    """The table of accuracies without pictures."""
    columns = [column for column in shown if column in figures["questions"]]
    rows = [f"| without looking | {' | '.join(columns)} |", f"|{'---|' * (1 + len(columns))}"]
    chances = [f"{figures['chance'][column]:.1f}" for column in columns]
    rows.append(f"| chance | {' | '.join(chances)} |")
    for floor in figures.get("floors") or []:
        cells = " | ".join(_cell(floor["columns"].get(column)) for column in columns)
        rows.append(f"| {floor['name']} | {cells} |")
    sentence = (
        "An accuracy is to be read beside these, with Wilson's intervals; an answer that was not read counts as wrong."
    )
    return [["## Floors"], [sentence], rows]


def _training(figures: Mapping[str, Any]) -> list[list[str]]:
    """How long each arm was trained."""
    known = {name: record for name, record in (figures.get("training") or {}).items() if record}
    if not known:
        return []
    arms = {name.split("/")[1]: record for name, record in known.items()}
    rows = ["| fine-tuning data | rows | steps | epochs |", "|---|---|---|---|"]
    rows += [
        f"| {NAMES.get(arm, arm)} | {record['rows']:,} | {record['steps']:,} | {record['epochs']:.1f} |"
        for arm, record in arms.items()
    ]
    lines = []
    if len({record["steps"] for record in arms.values()}) == 1:
        lines = [
            fill(
                "The arms were trained for equal steps. With equal steps a small set is seen more often than a large "
                "one, so that a table of equal epochs may read otherwise; this run has none. What is equal here is "
                "the cost, and equal accuracy at this cost is not equal accuracy at the end of training.",
                WIDTH,
            )
        ]
    return [["## Training"], rows, *([lines] if lines else [])]


def _differences(figures: Mapping[str, Any]) -> list[list[str]]:
    count, sections = len(figures["pairs"]), []
    if not count:
        return []
    sections.append(["## Differences"])
    about = (
        f"In points, paired by seed. Every choice of data is tested against the random one, on "
        f"{' and on '.join(TESTED)}. p-values are corrected for all {count} differences (Holm 1979), and intervals "
        "hold for all of them at once with 95 % (Bonferroni)."
    )
    sections.append([fill(about, WIDTH)])
    for column in TESTED:
        own = [pair for pair in figures["pairs"] if pair["column"] == column]
        rows = [
            f"| {column}: from | to | difference | interval | p | |",
            "|---|---|---|---|---|---|",
            *map(_pair_row, own),
        ]
        sections.append(rows)
        seen = [pair["visible"] for pair in own]
        reach = (
            f"{min(seen):.1f}" if f"{min(seen):.1f}" == f"{max(seen):.1f}" else f"{min(seen):.1f} to {max(seen):.1f}"
        )
        seen_by = f"with a probability of {100 * POWER:.0f} %"
        sections.append([f"Smallest true difference that this table finds {seen_by}: {reach} points."])
    shown = sum(pair["significant"] for pair in figures["pairs"])
    closing = (
        f"{shown} of {count} differences are significant. Where one is not, none is shown, which is not to say that "
        "there is none: differences below the sizes above go unseen here."
    )
    return [*sections, [fill(closing, WIDTH)]]


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    low, high = cell["ci95"]
    unread = f", {cell['unread']:.0f} unread" if cell.get("unread") else ""
    return f"{cell['accuracy']:.1f} ({low:.1f} to {high:.1f}{unread})"


def _pair_row(pair: Mapping[str, Any]) -> str:
    low, high = pair["ci95"]
    names = [_named(pair[side]) for side in ("first", "second")]
    verdict = "significant" if pair["significant"] else "not significant"
    gap = f"{pair['difference']:+.1f} | {low:+.1f} to {high:+.1f}"
    return f"| {names[0]} | {names[1]} | {gap} | {pair['p_holm']:.2g} | {verdict} |"


def _named(name: str) -> str:
    backbone, data = name.split("/")
    return markdown(f"{backbone}, {NAMES.get(data, data)}")


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser, whole_folder
    from llava_mistral.ground.strict_json import read_json

    parser = VerbParser(prog="llava_mistral.evaluation.study_report", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--results", help="folder of backbone/data/seed results folders")
    source.add_argument("--figures", metavar="FILE", help="a study.json, to pour it again")
    parser.add_argument(
        "--data", metavar="DIR", help="the study's data with train and test, for the majority by wording"
    )
    parser.add_argument(
        "--blank", metavar="DIR", help="results with --images real blank, for the blank-picture floors"
    )
    parser.add_argument("--output", required=True, help="folder to write: study.json, study.md, study.png")
    parser.add_argument("--title", default="Backbones and choices of data", help="headline of page and chart")
    options = parser.parse_args()
    figures = (
        study_results(options.results, options.title) if options.results else restated(read_json(options.figures))
    )
    if options.data or options.blank:
        figures["floors"] = floors(options.data, options.blank)
    with whole_folder(options.output, "study.json") as folder:
        from llava_mistral.evaluation.charts import grouped_chart

        grouped_chart(_grouped(figures), folder / "study.png", title=figures["title"], chance=_chance_lines(figures))
        (folder / "study.md").write_text(study_page(figures), encoding="utf-8")
        (folder / "study.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(Path(options.output) / "study.md")


def _chance_lines(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the lines of the chart: chance, and what is reached from the wording alone."""
    lines = {"chance": figures["chance"][MAIN]}
    for floor in figures.get("floors") or []:
        if floor["name"].startswith("most frequent letter"):
            lines["wording alone"] = floor["columns"][MAIN]["accuracy"]
    return lines


def _grouped(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{backbone: {data: cell}} of the main column, the data in the order of `NAMES`."""
    grouped: dict[str, dict[str, Any]] = {}
    for name, columns in figures["models"].items():
        backbone, data = name.split("/")
        grouped.setdefault(backbone, {})[NAMES.get(data, data)] = columns[MAIN]
    order = list(NAMES.values())
    key = lambda data: order.index(data) if data in order else len(order)  # noqa: E731
    return {backbone: dict(sorted(cells.items(), key=lambda it: key(it[0]))) for backbone, cells in grouped.items()}


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
