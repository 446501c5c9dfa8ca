"""Parse the same texts by the rules of two other evaluators, for comparison with our own parser."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llava_mistral.evaluation.reading import index_of, read_answer


def llava_rule(text: str, choices: Sequence[str]) -> int | None:
    """Return what LLaVA's `eval_science_qa.py` reads: a lone letter A to E, "B. …", a first "The answer is B"."""
    text = text.replace("\n", ". ")
    match = re.fullmatch(r"\s*([A-E])\s*", text) or re.match(r"([A-E])\. ", text)
    match = match or re.search(r"The answer is ([A-E])\.", text) or re.search(r"The answer is ([A-E])", text)
    return index_of(match[1], choices) if match else None


def lmms_eval_rule(text: str, choices: Sequence[str]) -> int | None:
    """Return what lmms-eval's `scienceqa` task reads: the letter alone, or a capital and a full stop at the start."""
    match = re.fullmatch(r"([A-Z])", text) or re.match(r"([A-Z])\.", text)
    return index_of(match[1], choices) if match else None


READERS: Mapping[str, Callable[[str, Sequence[str]], int | None]] = {
    "ours": read_answer,
    "LLaVA": llava_rule,
    "lmms-eval": lmms_eval_rule,
}


def read_by_each(questions: Iterable[tuple[str, Sequence[str], int]]) -> dict[str, dict[str, Any]]:
    """Return {reader: {"accuracy", "correct", "n", "unread", "unread_share"}}, percent, of (text, choices, answer)."""
    questions = list(questions)
    readings = {}
    for name, read in READERS.items():
        indices = [read(text, choices) for text, choices, _ in questions]
        correct = sum(index == answer for index, (_, _, answer) in zip(indices, questions, strict=True))
        unread, n = indices.count(None), len(questions)
        shares = {"accuracy": 100 * correct / n, "unread_share": 100 * unread / n}
        readings[name] = shares | {"correct": correct, "n": n, "unread": unread}
    return readings
