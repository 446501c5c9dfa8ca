"""Compare models on the same questions: differences with confidence intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import COLUMNS
from llava_mistral.evaluation.charts import Bar
from llava_mistral.evaluation.statistics import (
    FEWEST_SEEDS,
    LEVEL,
    crossed_gap,
    crossed_mean,
    holm,
    judged,
    paired_difference,
    paired_scores,
    smallest_visible,
    wilson_interval,
)
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json

# The bars of the study that this project repeats: "Optimizing LLaVA: Measuring Mistral Against LLaMA for Visual
# Instruction Tuning" (Ari-03/LLaVA on GitHub, assets/acc.png of its website), on ScienceQA's test questions with a
# picture; the right answers follow from the percentages and 2,017 questions.
PUBLISHED_QUESTIONS = 2017
PUBLISHED = {
    "LLaVA 1.5: Vicuna-7B base, zero-shot": 67.97,
    "LLaVA 1.5: Vicuna-13B base, zero-shot": 71.64,
    "LLaVA 1.6: Vicuna-7B base, zero-shot": 70.01,
    "Mistral 7B, pretrain": 72.93,
    "Mistral 7B, finetuned": 72.88,
    "Mistral 7B, L2-finetuned": 73.08,
}


@dataclass(frozen=True)
class Run:
    """One results folder: its summary, and for each column which questions were answered rightly."""

    folder: Path
    summary: dict[str, Any]
    right: dict[str, dict[str, bool]]

    def cell(self, column: str) -> dict[str, Any] | None:
        """Return the summary's cell of a column, None where there is none."""
        return self.summary.get(column)


def read_run(folder: str | Path) -> Run:
    """Return a results folder that `llava-mistral evaluate --output` wrote.

    Raises:
        BadInput: it lacks its summary or its predictions, or they lack what a comparison needs.
    """
    folder = Path(folder)
    for name in ("summary.json", "predictions.json"):
        if not (folder / name).is_file():
            remedy = "name a folder that llava-mistral evaluate --output wrote"
            raise BadInput(f"holds no {name}", remedy=remedy, file=folder)
    summary, predictions = read_json(folder / "summary.json"), read_json(folder / "predictions.json")
    for data, name, fields in (
        (summary, "summary.json", ("question_hash", "scoring", "ALL")),
        (predictions, "predictions.json", ("results", "answers", "columns")),
    ):
        absent = [field for field in fields if not isinstance(data, dict) or field not in data]
        if absent:
            remedy = "write the folder again with llava-mistral evaluate"
            raise BadInput("is missing", remedy=remedy, file=folder / name, field=absent[0])
    chosen, answers = predictions["results"], predictions["answers"]
    hits = predictions.get("right") or {pid: chosen.get(pid) == answer for pid, answer in answers.items()}
    right = {column: {pid: hits[pid] for pid in pids} for column, pids in predictions["columns"].items()}
    return Run(folder, summary, right)


def check_comparable(groups: Mapping[str, Sequence[Run]], column: str) -> None:
    """Refuse runs on different questions or prompts, groups of different sizes, and a column without questions.

    A file of predictions does not say how it was prompted; its prompt hash is unknown and is not compared.
    """
    runs = [run for group in groups.values() for run in group]
    for field, what in (("question_hash", "questions"), ("prompt_hash", "prompts")):
        known = [run for run in runs if run.summary.get(field) is not None]
        other = [run for run in known if run.summary[field] != known[0].summary[field]]
        if other:
            problem = f"{other[0].folder} and {known[0].folder} are about different {what}"
            remedy = "evaluate both on the same data, split and settings"
            raise BadInput(problem, remedy=remedy, file=other[0].folder / "summary.json", field=field)
    if len({len(group) for group in groups.values()}) > 1:
        sizes = ", ".join(f"{name}: {len(group)}" for name, group in groups.items())
        raise BadInput(f"models have different numbers of seeds ({sizes})", remedy="give the same seeds of each")
    if 1 < len(next(iter(groups.values()))) < FEWEST_SEEDS:
        problem = f"{len(next(iter(groups.values())))} seeds are too few for an interval"
        raise BadInput(problem, remedy=f"give {FEWEST_SEEDS} or more, or one", field="results")
    if not runs[0].right.get(column):
        filled = ", ".join(name for name in COLUMNS if runs[0].right.get(name))
        raise BadInput("no question belongs to it", remedy=f"use one of {filled}", field=f"column {column}")


def compare(groups: Mapping[str, Sequence[Run]], column: str = "ALL", *, reference: bool = False) -> dict[str, Any]:
    """Return the contents of `comparison.json`, percentages throughout.

    Args:
        groups: {model name: its runs}, one run per seed; the same number of seeds for every model, in the same order.
        column: the column whose differences are tested; all are given for every model.
        reference: add the study's published bars, which are about ScienceQA's questions with a picture.

    Raises:
        BadInput: the runs cannot be compared (`check_comparable`).
    """
    check_comparable(groups, column)
    runs = [run for group in groups.values() for run in group]
    cell, hashes = runs[0].summary[column], [run.summary.get("prompt_hash") for run in runs]
    return {
        "column": column,
        "questions": cell["n"],
        "chance": cell["chance"],
        "question_hash": runs[0].summary["question_hash"],
        "prompt_hash": next(filter(None, hashes), None),
        "models": model_summaries(groups),
        "pairs": tested(groups, list(combinations(groups, 2)), column),
        "published": published() if reference else None,
    }


def model_summaries(groups: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Return {model: facts, and each column's accuracy}: Wilson's interval for one run, `judged` for several seeds."""
    facts = ("model", "predictions", "scoring", "images", "unread", "dataset", "split")
    summaries = {
        name: {
            "seeds": len(runs),
            "folders": [str(run.folder) for run in runs],
            **{fact: runs[0].summary.get(fact) for fact in facts},
            "columns": {},
        }
        for name, runs in groups.items()
    }
    for column in COLUMNS:
        for name, cell in column_cells(groups, column).items():
            summaries[name]["columns"][column] = cell
    return summaries


def column_cells(groups: Mapping[str, Sequence[Run]], column: str) -> dict[str, dict[str, Any] | None]:
    """Return {model: {"accuracy", "ci95", "n", "unread", "seeds"}} of one column, None where some run has none."""
    cells: dict[str, dict[str, Any] | None] = dict.fromkeys(groups)
    known = {name: [run.cell(column) for run in runs] for name, runs in groups.items()}
    known = {name: own for name, own in known.items() if all(own)}
    if not known:
        return cells
    several = len(next(iter(known.values()))) > 1
    means = judged([crossed_mean(_answers(groups[name], column)) for name in known]) if several else []
    for place, (name, own) in enumerate(known.items()):
        cell = {"accuracy": own[0]["accuracy"], "ci95": own[0]["ci95"], "n": own[0]["n"]}
        if several:
            cell = {"accuracy": 100 * means[place].mean, "ci95": _percent(means[place]), "n": own[0]["n"]}
            cell["seeds"] = [one["accuracy"] for one in own]
        cells[name] = cell | {"unread": sum(one.get("unread") or 0 for one in own) / len(own)}
    return cells


def _percent(interval: Any) -> list[float]:
    return [100 * max(0.0, interval.low), 100 * min(1.0, interval.high)]


def _answers(runs: Sequence[Run], column: str) -> list[list[bool]]:
    """Return which questions of the column each seed answered rightly, (seeds, questions), in one order."""
    return [[run.right[column][pid] for pid in runs[0].right[column]] for run in runs]


def tested(groups: Mapping[str, Sequence[Run]], pairs: Sequence[tuple[str, str]], column: str) -> list[dict[str, Any]]:
    """Return second minus first in points for each pair of models, with interval and test.

    One run each: the exact McNemar test, and Bonett and Price's interval. Several seeds: both seeds and questions are
    samples (`statistics.judged`). The intervals hold for all pairs at once (Bonferroni), the p-values are corrected by
    Holm's method. `visible` is the smallest difference that would have been found with a probability of 80 %.
    """
    level = 1 - (1 - LEVEL) / max(1, len(pairs))
    several = len(next(iter(groups.values()))) > 1
    sides = [[_answers(groups[name], column) for name in pair] for pair in pairs]
    rows = []
    if several and pairs:
        estimates = judged([crossed_gap(*side) for side in sides], comparisons=len(pairs), differences=True)
        for one in estimates:
            seen = 100 * smallest_visible(one, comparisons=len(pairs))
            cell = {"difference": 100 * one.mean, "ci95": [100 * one.low, 100 * one.high], "p_value": one.p_value}
            rows.append(cell | {"visible": seen, "test": f"t over {len(sides[0][0])} seeds and the questions"})
    for first, second in [] if several else sides:
        graded = any(isinstance(value, float) for value in first[0] + second[0])
        one = (paired_scores if graded else paired_difference)(first[0], second[0], level)
        cell = {"difference": 100 * one.difference, "ci95": [100 * one.low, 100 * one.high], "p_value": one.p_value}
        counts = {"only_first": one.only_first, "only_second": one.only_second}
        test = "paired t" if graded else "exact McNemar; interval by Bonett and Price"
        rows.append(cell | {"test": test} | counts)
    corrected = holm([one["p_value"] for one in rows])
    return [
        {"first": first, "second": second, "column": column, **one, "p_holm": p, "significant": p < 1 - LEVEL}
        for (first, second), one, p in zip(pairs, rows, corrected, strict=True)
    ]


def published() -> dict[str, dict[str, Any]]:
    """Return the study's published bars with Wilson intervals, which the study did not give."""
    bars = {}
    for name, percent in PUBLISHED.items():
        correct = round(percent * PUBLISHED_QUESTIONS / 100)
        low, high = wilson_interval(correct, PUBLISHED_QUESTIONS)
        bars[name] = {"accuracy": percent, "n": PUBLISHED_QUESTIONS, "ci95": [100 * low, 100 * high], "column": "IMG"}
    return bars


def bars(comparison: Mapping[str, Any]) -> list[Bar]:
    """Return the bars of the comparison's chart: the models, then the published ones."""
    column = comparison["column"]
    cells = {name: model["columns"][column] for name, model in comparison["models"].items()}
    own = [
        Bar(name, cell["accuracy"], *cell["ci95"], cell["n"], unread=cell["unread"]) for name, cell in cells.items()
    ]
    kind = "" if column == "IMG" else ", IMG"  # the published bars are about questions with a picture
    others = (comparison["published"] or {}).items()
    return own + [
        Bar(name + kind, cell["accuracy"], *cell["ci95"], cell["n"], published=True) for name, cell in others
    ]


def sentences(comparison: Mapping[str, Any]) -> list[str]:
    """Return one sentence per pair: the difference, its interval, the test, and whether it is significant."""
    lines = []
    several = len(comparison["pairs"]) > 1
    for pair in comparison["pairs"]:
        low, high = pair["ci95"]
        test = f"{pair['test'].split(';')[0]} p = {pair['p_value']:.2g}"
        test += f", {pair['p_holm']:.2g} corrected for {len(comparison['pairs'])} comparisons" if several else ""
        gap = f"{pair['second']} minus {pair['first']}: {pair['difference']:+.2f} points"
        verdict = "significant" if pair["significant"] else "not significant: no difference is shown"
        kind = f"95 % for all {len(comparison['pairs'])} at once," if several else "95 %"
        lines.append(f"{gap} ({kind} {low:+.2f} to {high:+.2f}; {test}), {verdict}")
    return lines
