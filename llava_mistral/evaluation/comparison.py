"""Models on the same questions: how far apart they are, with intervals, and whether that could be chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import COLUMNS
from llava_mistral.evaluation.charts import Bar
from llava_mistral.evaluation.statistics import (
    LEVEL,
    holm,
    mean_difference,
    mean_interval,
    paired_difference,
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
        (summary, "summary.json", ("question_hash", "scoring", *COLUMNS)),
        (predictions, "predictions.json", ("results", "answers", "columns")),
    ):
        absent = [field for field in fields if not isinstance(data, dict) or field not in data]
        if absent:
            remedy = "write the folder again with llava-mistral evaluate"
            raise BadInput("is missing", remedy=remedy, file=folder / name, field=absent[0])
    chosen, answers = predictions["results"], predictions["answers"]
    right = {
        column: {pid: chosen.get(pid) == answers[pid] for pid in pids}
        for column, pids in predictions["columns"].items()
    }
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
    if not runs[0].right.get(column):
        filled = ", ".join(name for name in COLUMNS if runs[0].right.get(name))
        raise BadInput("no question belongs to it", remedy=f"use one of {filled}", field=f"column {column}")


def compare(groups: Mapping[str, Sequence[Run]], column: str = "ALL", *, reference: bool = False) -> dict[str, Any]:
    """Return the contents of `comparison.json`, percentages throughout.

    Args:
        groups: {model name: its runs}, one run per seed; the same number of seeds for every model, in the same order.
        column: the column whose differences are tested; all nine are given for every model.
        reference: add the study's published bars, which are about ScienceQA's questions with a picture.

    Raises:
        BadInput: the runs cannot be compared (`check_comparable`).
    """
    check_comparable(groups, column)
    pairs = [_pair(first, second, groups, column) for first, second in combinations(groups, 2)]
    for pair, p_value in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        pair |= {"p_holm": p_value, "significant": p_value < 1 - LEVEL}
    runs = [run for group in groups.values() for run in group]
    cell, hashes = runs[0].summary[column], [run.summary.get("prompt_hash") for run in runs]
    return {
        "column": column,
        "questions": cell["n"],
        "chance": cell["chance"],
        "question_hash": runs[0].summary["question_hash"],
        "prompt_hash": next(filter(None, hashes), None),
        "models": {name: model_summary(runs) for name, runs in groups.items()},
        "pairs": pairs,
        "published": published() if reference else None,
    }


def model_summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return each column's accuracy: one run's with Wilson's interval, several seeds' mean with Student's."""
    columns = {}
    for column in COLUMNS:
        cells = [run.summary[column] for run in runs if run.summary[column]]
        if len(cells) < len(runs):
            columns[column] = None
        elif len(cells) == 1:
            columns[column] = {key: cells[0][key] for key in ("accuracy", "ci95", "n")}
        else:
            accuracies = [cell["accuracy"] for cell in cells]
            mean, low, high = mean_interval(accuracies)
            seeds = {"n": cells[0]["n"], "seeds": accuracies}
            columns[column] = {"accuracy": mean, "ci95": [max(0.0, low), min(100.0, high)], **seeds}
    facts = ("model", "predictions", "scoring", "images", "unread", "dataset", "split")
    return {
        "seeds": len(runs),
        "folders": [str(run.folder) for run in runs],
        **{name: runs[0].summary.get(name) for name in facts},
        "columns": columns,
    }


def _pair(first: str, second: str, groups: Mapping[str, Sequence[Run]], column: str) -> dict[str, Any]:
    return {"first": first, "second": second, "column": column, **difference(groups[first], groups[second], column)}


def difference(first: Sequence[Run], second: Sequence[Run], column: str) -> dict[str, Any]:
    """Return second minus first in points, with interval and test: over questions for one seed, over several seeds."""
    if len(first) > 1:
        sides = [[100 * _accuracy(run, column) for run in runs] for runs in (first, second)]
        gap, low, high, p_value = mean_difference(*sides)
        test = f"paired t over {len(first)} seeds"
        return {"difference": gap, "ci95": [low, high], "p_value": p_value, "test": test}
    one, other = first[0].right[column], second[0].right[column]
    found = paired_difference([one[pid] for pid in one], [other[pid] for pid in one])
    return {
        "difference": 100 * found.difference,
        "ci95": [100 * found.low, 100 * found.high],
        "p_value": found.p_value,
        "test": "exact McNemar; interval by paired bootstrap",
        "only_first": found.only_first,
        "only_second": found.only_second,
    }


def _accuracy(run: Run, column: str) -> float:
    return sum(run.right[column].values()) / len(run.right[column])


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
    own = [Bar(name, cell["accuracy"], *cell["ci95"], cell["n"]) for name, cell in cells.items()]
    kind = "" if column == "IMG" else ", IMG"  # the published bars are about questions with a picture
    others = (comparison["published"] or {}).items()
    return own + [
        Bar(name + kind, cell["accuracy"], *cell["ci95"], cell["n"], published=True) for name, cell in others
    ]


def sentences(comparison: Mapping[str, Any]) -> list[str]:
    """Return one sentence per pair: the difference, its interval, the test, and whether it is a difference at all."""
    said = []
    several = len(comparison["pairs"]) > 1
    for pair in comparison["pairs"]:
        low, high = pair["ci95"]
        test = f"{pair['test'].split(';')[0]} p = {pair['p_value']:.2g}"
        test += f", {pair['p_holm']:.2g} corrected for {len(comparison['pairs'])} comparisons" if several else ""
        gap = f"{pair['second']} minus {pair['first']}: {pair['difference']:+.2f} points"
        verdict = "significant" if pair["significant"] else "not significant: no difference is shown"
        said.append(f"{gap} (95 % {low:+.2f} to {high:+.2f}; {test}), {verdict}")
    return said
