"""A results folder: `summary.json` (settings and scores) and `predictions.json` (the answers)."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import COLUMNS, LETTERS, Problem, question_text
from llava_mistral.evaluation.journal import Answer, AnswerSettings
from llava_mistral.evaluation.other_readers import read_by_each
from llava_mistral.evaluation.reading import forms, reading
from llava_mistral.evaluation.scoring import (
    UNREAD,
    Answers,
    belongs,
    grouped,
    question_hash,
    score,
    score_column,
    score_skills,
    warnings,
)
from llava_mistral.evaluation.statistics import PairedDifference, paired_difference, paired_scores
from llava_mistral.ground.strict_json import write_json
from llava_mistral.ground.whole_file import saving


def summarise(
    problems: Sequence[Problem],
    answers: Answers,
    *,
    texts: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
    group_by: str | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Return the contents of `summary.json`: the nine columns, the counts of answers that were not read, the facts.

    Args:
        texts: {pid: what the model wrote}, where there are texts. The summary then counts in which form each was read
            ("read") and puts three readers of the same texts side by side ("readers": ours, LLaVA's, lmms-eval's).
        groups: {pid: group} by the column `group_by`, scored each by itself.
    """
    columns = score(problems, answers.choices, file=facts.get("dataset"))
    given = Counter("nothing" if choice is None else LETTERS[choice] for choice in answers.choices.values())
    return {
        **columns,
        "groups": grouped(
            groups, group_by, {p.pid: p for p in problems}, lambda own: score_column(own, answers.choices)
        ),
        "warnings": warnings(columns["ALL"], given),
        "skills": score_skills(problems, answers.choices) or None,
        "unread": answers.unread,
        "recorded": answers.recorded,
        "missing": answers.missing,
        "unknown": answers.unknown,
        "read": forms(reading(texts[p.pid], p.choices) for p in problems if p.pid in texts) if texts else None,
        "readers": readers(problems, texts) if texts else None,
        "question_hash": question_hash(problems),
        **facts,
    }


def readers(problems: Sequence[Problem], texts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return {column: {reader: accuracy and unread share}} from the texts alone, for ALL and IMG."""
    found = {}
    for column in ("ALL", "IMG"):
        questions = [(texts.get(p.pid, ""), p.choices, p.answer) for p in problems if belongs(p, column)]
        if questions:
            found[column] = read_by_each(questions)
    return found


def readers_text(summary: Mapping[str, Any]) -> str:
    """Return one line a column: accuracy and unread share by each of the three readers of the same texts."""
    lines = []
    for column, found in (summary.get("readers") or {}).items():
        each = [
            f"{name} {cell['accuracy']:.2f} % ({cell['unread_share']:.1f} % unread)" for name, cell in found.items()
        ]
        lines.append(f"the same texts by three readers, {column}: {', '.join(each)}")
    return "\n".join(lines)


def answered_summary(
    problems: Sequence[Problem], answers: Mapping[str, Answer], asked: AnswerSettings, **facts: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (summary, predictions) of a checkpoint's answers.

    The nine columns are those of `asked.scoring`. Generated answers come with likelihoods, so their summary holds the
    columns of the other scoring too, apart, under "likelihood".
    """
    chosen = {
        scoring: {problem.pid: answers[problem.pid].choice(problem, scoring) for problem in problems}
        for scoring in {asked.scoring, "likelihood"}
    }
    texts = {p.pid: answers[p.pid].output or "" for p in problems} if asked.scoring == "generated" else None
    summary = summarise(problems, Answers(chosen[asked.scoring]), texts=texts, **asked.header(), **facts)
    summary["prompt_hash"] = prompt_hash(problems, summary)
    summary["likelihood"] = score(problems, chosen["likelihood"])
    summary["versions"] = versions("torch", "transformers", "pillow", "tokenizers")
    predictions = {
        "results": {pid: UNREAD if index is None else index for pid, index in chosen[asked.scoring].items()},
        "likelihood": chosen["likelihood"],
        **ground_truth(problems),
    }
    if texts is not None:
        predictions["outputs"] = texts
    return summary, predictions


def ground_truth(problems: Sequence[Problem]) -> dict[str, Any]:
    """Return the right answers, and the ids of each column and skill: a folder is compared without its data set."""
    columns = {column: [problem.pid for problem in problems if belongs(problem, column)] for column in COLUMNS}
    skills: dict[str, list[str]] = {}
    for problem in problems:
        if problem.skill:
            skills.setdefault(problem.skill, []).append(problem.pid)
    return {
        "answers": {problem.pid: problem.answer for problem in problems},
        "columns": columns,
        **({"skills": skills} if skills else {}),
    }


def prompt_hash(problems: Sequence[Problem], facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the prompts and limits: user turns, kind of pictures, scoring, answer length.

    The chat template around the user's turn is the model's own and not part of it.
    """
    shown = sorted((problem.pid, question_text(problem), problem.has_image) for problem in problems)
    allowed = [facts[name] for name in ("images", "scoring", "max_new_tokens")]
    return hashlib.sha256(json.dumps([shown, allowed]).encode()).hexdigest()


def answers_to_look_at(
    questions: Sequence[Any], predictions: Mapping[str, Any], summary: Mapping[str, Any], images: str, *, title: str
) -> str:
    """Return the page of right and wrong answers of one results folder (`answers_page`)."""
    from llava_mistral.evaluation.answers_page import answers_page
    from llava_mistral.evaluation.asking import pictures_of

    results, outputs = predictions["results"], predictions.get("outputs") or {}
    texts = {p.pid: outputs[p.pid] if p.pid in outputs else _letter(results[p.pid]) for p in questions}
    right = predictions.get("right") or {p.pid: results[p.pid] == p.answer for p in questions}

    def pictures(one: Any) -> list[Any]:
        at_hand = all(image is not None for image in one.images)
        return pictures_of(one, images) if at_hand else []

    facts = f"{cell_text(summary['ALL'])}; {counts_text(summary)}"
    return answers_page(
        questions, texts, {pid: hit == 1 for pid, hit in right.items()}, pictures, title=title, facts=facts
    )


def _letter(index: int | None) -> str:
    return "" if index in (None, UNREAD) else LETTERS[index]


def blank_text(problems: Sequence[Any], real: Mapping[str, Any], blank: Mapping[str, Any]) -> str:
    """Return one line: the effect of blank pictures on the questions that have one, and the answers left unread.

    `real` and `blank` are the predictions of two results folders.
    """
    pictured = [problem for problem in problems if problem.has_image]
    if not pictured:
        return "no question has a picture: blanking changes nothing"
    sides = [
        [side["right"][p.pid] if "right" in side else side["results"][p.pid] == p.answer for p in pictured]
        for side in (real, blank)
    ]
    graded = any(isinstance(value, float) for side in sides for value in side)
    gap = difference_text(
        (paired_scores if graded else paired_difference)(*sides), "paired t" if graded else "exact McNemar"
    )
    unread = [
        sum(results[p.pid] in (None, UNREAD) for p in pictured) for results in (real["results"], blank["results"])
    ]
    counts = f"unread, and counted as wrong: {unread[0]:,} with the real pictures, {unread[1]:,} with blank ones"
    return f"blank pictures, on the {len(pictured):,} questions with one: {gap}; {counts}"


def difference_text(difference: PairedDifference, test: str = "exact McNemar") -> str:
    """Return a difference in accuracy with its interval, its p-value, and whether it is significant."""
    text = (
        f"{100 * difference.difference:+.2f} points (95 % {100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
    )
    return f"{text}, {test} p = {difference.p_value:.2g})" + ("" if difference.significant else ", not significant")


def cell_text(cell: Mapping[str, Any]) -> str:
    """Return one column's accuracy with its interval and number of questions."""
    low, high = cell["ci95"]
    return f"{cell['accuracy']:.2f} % (95 % {low:.2f} to {high:.2f}; n = {cell['n']:,})"


def counts_text(summary: Mapping[str, Any]) -> str:
    """Return one line that says how many answers were unread, taken from `results`, missing and passed over."""
    lines = [f"unread answers (counted as wrong): {summary['unread']}"]
    if summary["recorded"]:
        lines.append(f"texts that could not be read, with the index recorded for them: {summary['recorded']}")
    if summary["missing"]:
        lines.append(f"missing (counted as wrong): {summary['missing']}")
    if summary["unknown"]:
        lines.append(f"passed over, for other problems: {summary['unknown']}")
    return "; ".join(lines)


def versions(*packages: str) -> dict[str, str | None]:
    """Return the installed version of each package, None where it is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def write_results(folder: Path, summary: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
    """Write predictions.json, then summary.json: a folder with a summary is complete."""
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "predictions.json", predictions)
    write_json(folder / "summary.json", summary)
