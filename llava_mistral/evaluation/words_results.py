"""Free-form answers scored by a match rule: the summary, the groups, and warnings."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from llava_mistral.evaluation.journal import Answer
from llava_mistral.evaluation.matching import Match, normalised
from llava_mistral.evaluation.questions import Question, words_hash
from llava_mistral.evaluation.results import versions
from llava_mistral.evaluation.scoring import grouped, warnings
from llava_mistral.evaluation.statistics import mean_interval, wilson_interval
from llava_mistral.ground.bad_input import BadInput


def words_summary(
    questions: Sequence[Question],
    texts: Mapping[str, str],
    match: Match,
    groups: Mapping[str, str] | None,
    **facts: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (summary, predictions) of texts that answer questions in words.

    Args:
        texts: {pid: what was written}.
        groups: {pid: group}, where groups are asked for.

    The columns ALL and IMG are as of lettered questions. `chance` is what the most frequent right answer would reach,
    given to every question; of a rule that grades, `accuracy` is the mean score and `correct` counts whole matches.
    """
    scores = {question.pid: match.score(texts[question.pid], question.answer) for question in questions}
    answers = {question.pid: question.answer for question in questions}

    def cell(chosen: Sequence[Question]) -> dict[str, Any] | None:
        own = {question.pid: scores[question.pid] for question in chosen}
        return scored(own, {pid: answers[pid] for pid in own}, match) if own else None

    pictured = [question for question in questions if question.has_image]
    summary = {"ALL": cell(questions), "IMG": cell(pictured)}
    summary["groups"] = grouped(groups, facts.pop("group_by", None), {q.pid: q for q in questions}, cell)
    summary |= {"match": match.name, "scoring": "generated", "unread": summary["ALL"]["unread"], **facts}
    summary |= {"recorded": 0, "missing": 0, "unknown": 0, "question_hash": words_hash(questions)}
    summary["versions"] = versions("torch", "transformers", "pillow", "tokenizers")
    summary["warnings"] = warnings(summary["ALL"], Counter(normalised(texts[pid]) for pid in texts))
    columns = {"ALL": list(answers), "IMG": [question.pid for question in pictured]}
    right = {pid: (score or 0.0) if match.graded else score == 1 for pid, score in scores.items()}
    results = {pid: None if scores[pid] is None else texts[pid] for pid in answers}
    return summary, {
        "results": results,
        "outputs": dict(texts),
        "answers": answers,
        "columns": columns,
        "right": right,
    }


def scored(scores: Mapping[str, float | None], answers: Mapping[str, str], match: Match) -> dict[str, Any]:
    """Return one cell, in percent: Wilson's interval of right or wrong, Student's of a mean score."""
    values, n = [score or 0.0 for score in scores.values()], len(scores)
    correct = sum(value == 1 for value in values)
    low, high = mean_interval(values) if match.graded else wilson_interval(correct, n)
    most, _ = Counter(map(normalised, answers.values())).most_common(1)[0]
    likely = next(answer for answer in answers.values() if normalised(answer) == most)
    chance = fmean(match.score(likely, answer) or 0.0 for answer in answers.values())
    if match.name.startswith("regex:"):  # the pattern is for what a model writes, not for answers
        chance = fmean(normalised(answer) == most for answer in answers.values())
    return {
        "accuracy": 100 * fmean(values),
        "n": n,
        "correct": correct,
        "ci95": [100 * low, 100 * high],
        "chance": 100 * chance,
        "unread": sum(score is None for score in scores.values()),
    }


def texts_of(questions: Sequence[Question], answers: Mapping[str, Answer]) -> dict[str, str]:
    """Return {pid: text} of a checkpoint's answers."""
    return {question.pid: answers[question.pid].output or "" for question in questions}


def texts_from(
    questions: Sequence[Question], outputs: Mapping[str, str], *, file: str, allow_missing: bool
) -> dict[str, str]:
    """Return {pid: text} of a file of predictions; a question without one counts as unread where that is allowed.

    Raises:
        BadInput: questions have no prediction, or predictions are for others.
    """
    known = {question.pid for question in questions}
    for ids, problem in (
        (known - outputs.keys(), "questions have no text"),
        (outputs.keys() - known, "predictions are for questions that are not in this set"),
    ):
        if ids and not allow_missing:
            first = ", ".join(sorted(ids)[:5])
            remedy = 'give {"outputs": {id: text}} for the rows of this data, or pass --allow_missing'
            raise BadInput(f"{len(ids)} {problem} (first: {first})", remedy=remedy, file=file, field="outputs")
    return {pid: outputs.get(pid, "") for pid in sorted(known)}


def words_text(summary: Mapping[str, Any]) -> str:
    """Return the table of a summary of answers in words: one row for all, for pictured questions and each group."""
    cells = {name: summary[name] for name in ("ALL", "IMG") if summary.get(name)}
    return rows_text(cells, head=f"match: {summary['match']}")


def groups_text(summary: Mapping[str, Any]) -> str:
    """Return the table of a summary's groups."""
    return rows_text(summary["groups"]["cells"], head=f"by {summary['groups']['by']}")


def rows_text(cells: Mapping[str, Mapping[str, Any]], *, head: str) -> str:
    """Return a text table with one row per cell."""
    width = max(len(head), *(min(len(name), 40) for name in cells)) + 2
    names = f"{'accuracy %':>11}{'95 % from':>11}{'to':>8}{'correct':>9}{'n':>8}{'chance %':>10}{'unread':>8}"
    lines = [f"{head:<{width}}{names}"]
    for name, cell in cells.items():
        low, high = cell["ci95"]
        figures = f"{cell['accuracy']:>11.2f}{low:>11.2f}{high:>8.2f}{cell['correct']:>9}{cell['n']:>8}"
        lines.append(f"{name[:40]:<{width}}{figures}{cell['chance']:>10.2f}{cell['unread']:>8}")
    return "\n".join(lines)


def prompt_hash(questions: Sequence[Question], facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the prompts and limits."""
    allowed = [facts[name] for name in ("images", "max_new_tokens")]
    return hashlib.sha256(json.dumps([words_hash(questions), allowed]).encode()).hexdigest()
