"""Selection by words: samples without labels are spread over answers and words; a seeded hash breaks ties.

Where two samples would serve alike, the hash of what they say and show decides, never their place in the file: a file
that is sorted, or shuffled, gives the same choice.
"""

import hashlib
import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_mistral.data.scienceqa import Problem

LOOKS = 32  # samples whose words are counted again before the best of them is taken
_WORD = re.compile(r"\w+")
Digests = Callable[[Sequence[int]], Mapping[int, bytes]]


@dataclass(frozen=True)
class Conversation(Problem):
    """A problem of several questions: `question` has all of them, `asked` each."""

    asked: tuple[str, ...] = ()


def answer_of(problem: Problem) -> str:
    """Return the right answer in words: the choice, or what a conversation answers."""
    if problem.choices:
        return "" if problem.answer is None else problem.choices[problem.answer]
    return problem.solution or ""


def wording_of(problem: Problem) -> tuple:
    """Return all that a sample asks and answers in words; samples of one wording differ in their pictures alone."""
    return plain(problem.question), plain(problem.hint or ""), problem.choices, plain(answer_of(problem))


def plain(text: str) -> str:
    """Return the text in small letters, with single spaces."""
    return " ".join(text.lower().split())


def ties_of(problems: Sequence[Problem], seed: int, digests: Digests | None = None) -> list[bytes]:
    """Return per sample a hash of `seed`, its text and its picture, which orders equal samples.

    Args:
        digests: hashes of the pictures of samples; asked for those only that words do not tell apart. Without it, and
            where the pictures are the same too, the ids decide.
    """
    hashes = [_hash(seed, [_fields(problem)]) for problem in problems]
    twins = Counter(hashes)
    alike = [i for i, own in enumerate(hashes) if twins[own] > 1]
    shown = digests([i for i in alike if problems[i].has_image]) if digests else {}
    for i in alike:
        picture = shown[i].hex() if i in shown else problems[i].pid
        hashes[i] = _hash(seed, [hashes[i].hex(), picture])
    return hashes


def _fields(problem: Problem) -> list[Any]:
    labels = [problem.subject, problem.topic, problem.category, problem.skill, problem.grade]
    return [problem.question, problem.hint, problem.choices, problem.answer, problem.solution, *labels]


def _hash(seed: int, parts: list[Any]) -> bytes:
    return hashlib.blake2b(json.dumps([seed, *parts]).encode(), digest_size=16).digest()


def spread_over_words(
    problems: Sequence[Problem], pool: Sequence[int], size: int, priority: Sequence[float], ties: Sequence[bytes]
) -> list[int]:
    """Return at most `size` of the samples in `pool`, evenly over their answers, those with new words first.

    No answer is kept more than once more often than another that has a sample left. Within that, the sample goes first
    whose words the picks so far have least (the mean of 1 / (1 + picks that have the word)), then the higher
    `priority`, then the lower of `ties`. As words are counted again for the first `LOOKS` candidates only, the order
    is greedy to a near degree; that of answers is exact.
    """
    counts: Counter[str] = Counter()

    def key(i: int) -> tuple:
        words = set(_WORD.findall(plain(f"{problems[i].question} {answer_of(problems[i])}")))
        novelty = sum(1 / (1 + counts[word]) for word in sorted(words)) / max(len(words), 1)
        return -novelty, -priority[i], ties[i]

    queues: dict[str, list] = defaultdict(list)
    for i in pool:
        queues[plain(answer_of(problems[i]))].append(((-1.0, -priority[i], ties[i]), i))
    for queue in queues.values():
        heapq.heapify(queue)
    kept: Counter[str] = Counter()
    answers = [((0, *queue[0][0]), answer) for answer, queue in queues.items()]
    heapq.heapify(answers)
    picks: list[int] = []
    while answers and len(picks) < size:
        answer = _first(answers, lambda answer: (kept[answer], *key(queues[answer][0][1])))
        picks.append(_first(queues[answer], key))
        kept[answer] += 1
        words = f"{problems[picks[-1]].question} {answer_of(problems[picks[-1]])}"
        counts.update(set(_WORD.findall(plain(words))))
        if queue := queues[answer]:
            heapq.heappush(answers, ((kept[answer], *queue[0][0]), answer))
    return picks


def _first(heap: list[tuple[tuple, Any]], key: Callable[[Any], tuple]) -> Any:
    """Take the first item off a heap of (key, item) whose keys only grow: old keys are made anew for `LOOKS` items."""
    looked: list[tuple[tuple, Any]] = []
    while heap and len(looked) < LOOKS:
        item = heapq.heappop(heap)[1]
        looked.append((key(item), item))
        if not heap or looked[-1][0] <= heap[0][0]:
            break
    best = min(looked)
    for other in looked:
        if other is not best:
            heapq.heappush(heap, other)
    return best[1]
