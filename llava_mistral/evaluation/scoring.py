"""ScienceQA's nine columns from a file of predictions.

The columns are those of `tools/evaluate_acc.py` in lupantech/ScienceQA: NAT SOC LAN by subject, TXT where there is a
hint, IMG where there is a picture, NO where there is neither, and two bands of grades.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import COLUMNS, Problem, question_text
from llava_mistral.evaluation.reading import read_answer
from llava_mistral.evaluation.statistics import wilson_interval
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json

_SUBJECTS = {"NAT": "natural science", "SOC": "social science", "LAN": "language science"}
_BANDS = {"G1-6": range(1, 7), "G7-12": range(7, 13)}
MOST_UNREAD = 0.5  # share from which on a summary warns
UNREAD = -1  # how the published files write "no choice could be read"


@dataclass(frozen=True)
class Predictions:
    """`results` {pid: index, None where unread} and `outputs` {pid: text} of one file; either may be empty."""

    results: dict[str, int | None]
    outputs: dict[str, str]

    @property
    def pids(self) -> set[str]:
        return self.results.keys() | self.outputs.keys()


def read_predictions(path: str | Path) -> Predictions:
    """Return the predictions in a JSON file: {"results": {pid: index}} and/or {"outputs": {pid: text}}.

    An index of -1, as the published files have it, or null is an answer that could not be read.

    Raises:
        BadInput: another shape, or no prediction at all.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not data.keys() & {"results", "outputs"}:
        remedy = 'give {"results": {pid: choice index}} and/or {"outputs": {pid: text}}'
        raise BadInput("holds neither results nor outputs", remedy=remedy, file=path)
    results = _checked(data, "results", path, lambda v: isinstance(v, int) and not isinstance(v, bool), "an index")
    outputs = _checked(data, "outputs", path, lambda v: isinstance(v, str), "a text")
    if not results and not outputs:
        raise BadInput("holds no prediction", remedy="predict again", file=path)
    results = {pid: None if index == UNREAD else index for pid, index in results.items()}
    return Predictions(results, {pid: text or "" for pid, text in outputs.items()})


def _checked(data: dict, field: str, path: str | Path, right: Any, what: str) -> dict[str, Any]:
    values = data.get(field) or {}
    if not isinstance(values, dict):
        raise BadInput("is not an object", remedy=f"give {what} by problem id", file=path, field=field)
    for pid, value in values.items():
        if value is not None and not right(value):
            problem = f"{value!r:.40} is not {what}"
            raise BadInput(problem, remedy=f"give {what} or null", file=path, record=pid, field=field)
    return values


@dataclass(frozen=True)
class Answers:
    """The choice taken for each problem.

    `choices` is {pid: index, None where unread}. `recorded` counts texts that could not be read, whose choice was
    taken from the same file's `results`; `missing` problems without a prediction; `unknown` the reverse.
    """

    choices: dict[str, int | None]
    recorded: int = 0
    missing: int = 0
    unknown: int = 0

    @property
    def unread(self) -> int:
        return sum(choice is None for choice in self.choices.values()) - self.missing


def choose(
    problems: Sequence[Problem],
    predictions: Predictions,
    *,
    file: str | Path,
    read: str | None = None,
    allow_missing: bool = False,
) -> Answers:
    """Return the choice for each problem from `results`, or by reading `outputs`.

    Args:
        read: "results" or "outputs"; by default results where the file has them. With "outputs", a text that cannot be
            read takes the index that `results` of the same file records for it (the published GPT-3 file has 243 empty
            texts, whose recorded choices were drawn by its authors).
        allow_missing: count problems without a prediction as wrong, and pass over predictions for other problems.

    Raises:
        BadInput: predictions are for other problems, problems lack one, or an index is out of range.
    """
    read = read or ("results" if predictions.results else "outputs")
    if not getattr(predictions, read):
        raise BadInput("holds no such predictions", remedy="read the other kind", file=file, field=read)
    known = {problem.pid for problem in problems}
    # Only what is read counts: a problem that the file knows by the other kind alone has no prediction either.
    missing, unknown = known - getattr(predictions, read).keys(), predictions.pids - known
    if not allow_missing:
        _refuse_ids(missing, "problems have no prediction", file)
        _refuse_ids(unknown, "predictions are for problems that are not in this set", file)
    choices, recorded = {}, 0
    for problem in problems:
        choice = None if problem.pid in missing else _recorded(problem, predictions, file)
        if read == "outputs":
            own = read_answer(predictions.outputs.get(problem.pid, ""), problem.choices)
            recorded += own is None and choice is not None
            choice = choice if own is None else own
        choices[problem.pid] = choice
    return Answers(choices, recorded, len(missing), len(unknown))


def _refuse_ids(pids: set[str], problem: str, file: str | Path) -> None:
    if pids:
        first = ", ".join(sorted(pids, key=lambda pid: (len(pid), pid))[:5])
        remedy = "name the split they were made for (--pid_splits, --split), or pass --allow_missing"
        raise BadInput(f"{len(pids)} {problem} (first: {first})", remedy=remedy, file=file)


def _recorded(problem: Problem, predictions: Predictions, file: str | Path) -> int | None:
    index = predictions.results.get(problem.pid)
    if index is not None and not 0 <= index < len(problem.choices):
        wrong = f"index {index} is out of range for {len(problem.choices)} choices"
        remedy = f"give 0 to {len(problem.choices) - 1}, or -1 for an answer that could not be read"
        raise BadInput(wrong, remedy=remedy, file=file, record=problem.pid, field="results")
    return index


def score(
    problems: Iterable[Problem], choices: Mapping[str, int | None], *, file: str | Path | None = None
) -> dict[str, dict[str, Any] | None]:
    """Return {column: {"accuracy", "n", "correct", "ci95": [low, high], "chance", "unread"}} for the nine, in percent.

    `unread` counts the questions for which no choice was read, which count as wrong. A column that no problem belongs
    to, or whose metadata the source lacks, is None.

    Args:
        file: where the problems are from, for the error.

    Raises:
        BadInput: a problem has no answer to score against.
    """
    problems = list(problems)
    for problem in problems:
        if problem.answer is None:
            place = {"file": file, "record": problem.pid, "field": "answer"}
            raise BadInput("has no answer", remedy="score a split with answers", **place)
    return {column: score_column([p for p in problems if belongs(p, column)], choices) for column in COLUMNS}


def score_skills(problems: Iterable[Problem], choices: Mapping[str, int | None]) -> dict[str, dict[str, Any] | None]:
    """Return {skill: cell} like `score`'s, for the skills that the problems name, in alphabetical order."""
    by_skill: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.skill:
            by_skill.setdefault(problem.skill, []).append(problem)
    return {skill: score_column(by_skill[skill], choices) for skill in sorted(by_skill)}


def score_column(problems: Sequence[Problem], choices: Mapping[str, int | None]) -> dict[str, Any] | None:
    """Return one cell of `score`: of these problems, None where there are none."""
    if not problems:
        return None
    n, correct = len(problems), sum(choices[problem.pid] == problem.answer for problem in problems)
    low, high = wilson_interval(correct, n)
    chance = sum(100 / len(problem.choices) for problem in problems) / n
    return {
        "accuracy": 100 * correct / n,
        "n": n,
        "correct": correct,
        "ci95": [100 * low, 100 * high],
        "chance": chance,
        "unread": sum(choices[problem.pid] is None for problem in problems),
    }


def grouped(
    groups: Mapping[str, str] | None, by: str | None, asked: Mapping[str, Any], cell: Callable[[list], Any]
) -> dict[str, Any] | None:
    """Return {"by", "cells": {group: cell}} in the order of the groups' names, None where none are asked for."""
    if groups is None:
        return None
    members: dict[str, list] = {}
    for pid, group in groups.items():
        members.setdefault(group, []).append(asked[pid])
    return {"by": by, "cells": {group: cell(members[group]) for group in sorted(members)}}


def warnings(cell: Mapping[str, Any], given: Counter) -> list[str]:
    """Return a warning for each sign of an unreliable figure: one answer to everything, unread answers, below chance.

    Args:
        cell: of all questions.
        given: how often each answer was given.
    """
    messages, n = [], cell["n"]
    answer, times = given.most_common(1)[0] if given else ("", 0)
    if n > 1 and times == n and answer:
        messages.append(f"every question was given the same answer, {str(answer)[:40]!r}")
    if cell["unread"] > MOST_UNREAD * n:
        messages.append(f"{cell['unread']:,} of {n:,} answers could not be read and count as wrong: look at the texts")
    if cell["chance"] is not None and cell["accuracy"] < cell["chance"]:
        messages.append(f"the accuracy, {cell['accuracy']:.1f} %, is below chance, {cell['chance']:.1f} %")
    return messages


def belongs(problem: Problem, column: str) -> bool:
    """Return whether the problem is known to belong to one of the nine columns."""
    if column in _SUBJECTS:
        return problem.subject == _SUBJECTS[column]
    if column in _BANDS:
        grade = re.fullmatch(r"grade\s*(\d{1,2})", problem.grade or "")
        return grade is not None and int(grade[1]) in _BANDS[column]
    return {
        "ALL": True,
        "TXT": bool(problem.hint),
        "IMG": problem.has_image,
        "NO": problem.hint == "" and not problem.has_image,
    }[column]


def question_hash(problems: Iterable[Problem]) -> str:
    """Return the SHA-256 of the questions: ids, wording, right answers, and which have a picture."""
    records = sorted((p.pid, question_text(p), -1 if p.answer is None else p.answer, p.has_image) for p in problems)
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


def table(columns: Mapping[str, dict[str, Any] | None], shown: Sequence[str] = COLUMNS) -> str:
    """Return the columns as a text table: accuracy, interval, right answers, questions, chance, unread."""
    rows = [
        ("", *shown),
        *((name,) for name in ("accuracy %", "95 % from", "95 % to", "correct", "questions", "chance %", "unread")),
    ]
    for column in shown:
        texts = ["-"] * 7
        if cell := columns.get(column):
            low, high = cell["ci95"]
            texts = [f"{cell['accuracy']:.2f}", f"{low:.2f}", f"{high:.2f}"]
            texts += [str(cell["correct"]), str(cell["n"]), f"{cell['chance']:.2f}", str(cell["unread"])]
        rows[1:] = [(*row, text) for row, text in zip(rows[1:], texts, strict=True)]
    return "\n".join(f"{row[0]:<11}" + "".join(f"{text:>8}" for text in row[1:]) for row in rows)
