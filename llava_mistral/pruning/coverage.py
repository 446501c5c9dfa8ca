"""Coverage: every subject, topic, category and skill at least once, and the rest spread evenly over the skills.

`Cover` picks in an order in which each prefix covers as much as it can:

* *Every label once.* While a label is uncovered, take a sample of the least picked skill that brings the most new
  labels. Every such pick covers at least one, so as many picks as there are labels cover them all. Where the labels
  are a tree (a skill has one category, a category one topic, …), as in ScienceQA, after n picks min(n, labels) labels
  of every level are covered, which no choice betters.
* *An even rest.* Always from the skill picked least so far that has a sample left; so two skills that both have
  samples left differ by at most one, and none exceeds its fair share by more than one.
* Within a skill, a wording with an answer that was not picked before goes first, and among those the higher priority:
  "Which digit is written?" is kept with every digit for an answer before any digit comes twice.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.words import answer_of

LEVELS = ("subject", "topic", "category", "skill")


def labels_of(problem: Problem) -> tuple[tuple[str, str], ...]:
    """Return the (level, name) of each label the problem carries, coarse to fine."""
    return tuple((level, name) for level in LEVELS if (name := getattr(problem, level)))


def skill_of(problem: Problem) -> str:
    """Return the finest label the problem carries, or "" for one that carries none."""
    return problem.skill or problem.category or problem.topic or problem.subject or ""


def fair_shares(capacities: Sequence[int], size: int) -> list[int]:
    """Return how many of `size` each skill gets when all get the same as far as they have it, low indices first.

    Raises:
        ValueError: the capacities do not hold `size`.
    """
    if size > sum(capacities):
        raise ValueError(f"{size} do not fit into {sum(capacities)}")
    shares, heap = [0] * len(capacities), [(0, i) for i, capacity in enumerate(capacities) if capacity]
    for _ in range(size):
        share, i = heapq.heappop(heap)
        shares[i] = share + 1
        if shares[i] < capacities[i]:
            heapq.heappush(heap, (shares[i], i))
    return shares


class Cover:
    """Picks from `problems` by index, in `picks`.

    Args:
        priority: orders samples that would cover the same, higher first.
        ties: orders samples of equal priority, lower first (`words.ties_of`); by default their places do.
        wordings: whether a wording and answer that its skill does not have yet go before a higher priority.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        priority: Sequence[float],
        ties: Sequence[Any] | None = None,
        *,
        wordings: bool = True,
    ):
        self.problems = problems
        self._ties = range(len(problems)) if ties is None else ties
        self.picks: list[int] = []
        self._taken: set[int] = set()
        self._covered: set[Hashable] = set()
        self._of_skill: Counter[str] = Counter()
        self._key = self._order(priority, wordings)

    def resume(self, other: "Cover") -> "Cover":
        """Take over the picks of `other`, which has another priority, and return self."""
        for i in other.picks[len(self.picks) :]:
            self._take(i)
        return self

    def _order(self, priority: Sequence[float], wordings: bool) -> list[tuple]:
        """Return a sort key per sample: first the best of each wording and answer, then the second of each, …"""
        keys: list[tuple] = [()] * len(self.problems)
        seen: Counter[tuple[str, str, str]] = Counter()
        for i in sorted(range(len(self.problems)), key=lambda i: (-priority[i], self._ties[i], i)):
            wording = (skill_of(self.problems[i]), self.problems[i].question, answer_of(self.problems[i]))
            keys[i] = (seen[wording] if wordings else 0, -priority[i], self._ties[i], i)
            seen[wording] += 1
        return keys

    def cover(self, pool: Iterable[int], size: int) -> list[int]:
        """Pick from `pool` until every label in it is covered or `size` picks are made in all; return the new ones."""
        heads = self._queues(pool, labels_of)
        begun = len(self.picks)
        while len(self.picks) < size:
            useful = [labels for labels, queue in heads.items() if queue and set(labels) - self._covered]
            if not useful:
                break
            self._take(heads[min(useful, key=lambda labels: self._merit(labels, heads[labels][-1]))].pop())
        return self.picks[begun:]

    def fill(self, pool: Iterable[int], size: int) -> list[int]:
        """Pick from `pool`, evenly over the skills, until `size` picks are made in all; return the new ones."""
        queues = self._queues(pool, skill_of)
        heap = [(self._of_skill[skill], self._key[queue[-1]], skill) for skill, queue in queues.items()]
        heapq.heapify(heap)
        begun = len(self.picks)
        while heap and len(self.picks) < size:
            _, _, skill = heapq.heappop(heap)
            queue = queues[skill]
            self._take(queue.pop())
            if queue:
                heapq.heappush(heap, (self._of_skill[skill], self._key[queue[-1]], skill))
        return self.picks[begun:]

    def _queues(self, pool: Iterable[int], group: Callable[[Problem], Hashable]) -> dict[Hashable, list[int]]:
        """Return the samples of `pool` that are not taken, by group, the next one last."""
        queues: dict[Hashable, list[int]] = defaultdict(list)
        for i in sorted((i for i in pool if i not in self._taken), key=self._key.__getitem__, reverse=True):
            queues[group(self.problems[i])].append(i)
        return queues

    def _merit(self, labels: tuple, head: int) -> tuple:
        """Smaller is better: few of its skill so far, many new labels, then the order of samples."""
        return self._of_skill[skill_of(self.problems[head])], -len(set(labels) - self._covered), self._key[head]

    def _take(self, i: int) -> None:
        self.picks.append(i)
        self._taken.add(i)
        self._covered.update(labels_of(self.problems[i]))
        self._of_skill[skill_of(self.problems[i])] += 1
