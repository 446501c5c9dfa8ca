"""The ways to choose: each returns what it picked and a reason for every sample it left out."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llava_mistral.data.scienceqa import Problem
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.pruning.coverage import LEVELS, Cover, fair_shares, skill_of
from llava_mistral.pruning.principles import NO_IMAGE, THRESHOLD, TOO_WEAK, UNDECIDED, Scores
from llava_mistral.pruning.words import answer_of, plain, spread_over_words, ties_of, wording_of
from llava_mistral.pruning.workers import Processes

if TYPE_CHECKING:
    import numpy as np

    from llava_mistral.pruning.rows import Rows

ALONE = Processes()
TELLS_PICTURES_APART = "To tell such samples apart by their pictures, use --method farthest --embedder MODEL"
NOT_DRAWN = "not drawn"
NEAR = "no farther from the kept samples than the last one picked"
FULL_GROUP = "its {} has its share: samples farther apart were kept"
ALIKE = "its words and answer are those of kept samples: a seeded hash chose among them"
HARDER = "its words and answer are those of kept samples, which are harder"
SHARE = "its {} has its share: samples with other words or another answer were kept"
SHARE_OF_ANSWER = "its answer has its share: samples with other words were kept"
NO_ROOM = "the size leaves its {} no sample"
FULL = "its {} has its share"


@dataclass(frozen=True)
class Choice:
    """Indices of the samples picked, in pick order, reasons for the others, and facts and messages of the method."""

    picks: list[int]
    dropped: dict[int, str]
    for_coverage: list[int] = field(default_factory=list)  # picks that do not fit but whose labels no other sample has
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what a reader must know of the choice, in words
    cost: str = ""  # what it took: not part of what was chosen, for it depends on the machine

    def counts(self) -> dict[str, int]:
        """Return how many samples were kept and how many dropped for each reason; they sum to the input."""
        return {"kept": len(self.picks), **dict(sorted(Counter(self.dropped.values()).items()))}


def by_principles(
    problems: Sequence[Problem],
    scores: Sequence[Scores],
    size: int,
    *,
    threshold: float = THRESHOLD,
    whole_coverage: bool = True,
    ties: Sequence[bytes] | None = None,
) -> Choice:
    """Choose by necessity, coverage and difficulty.

    Samples with a picture that is needed (`threshold`) fit. They are picked until every label among them is covered;
    then, with `whole_coverage`, so is every label that only other pictured samples carry, once, by the sample whose
    need of its picture is the least unlikely; then the rest is spread evenly over the skills of fitting samples.
    Where no sample carries a label, they are spread over answers and words (`words.spread_over_words`).

    Args:
        ties: decide between samples that would serve alike, lower first; by default their words and ids do.

    Raises:
        BadInput: fewer than `size` samples can be picked.
    """
    ties = ties_of(problems, 0) if ties is None else ties
    pictured = [i for i, problem in enumerate(problems) if problem.has_image]
    fitting = [i for i in pictured if scores[i].necessity >= threshold]
    hard, for_coverage = [score.difficulty for score in scores], []
    if any(skill_of(problems[i]) for i in pictured):
        cover = Cover(problems, hard, ties)
        cover.cover(fitting, size)
        rest = Cover(problems, [score.necessity for score in scores], ties).resume(cover)
        for_coverage = rest.cover(pictured, size) if whole_coverage else []
        cover.resume(rest).fill(fitting, size)
        picks = cover.picks
    else:
        picks = spread_over_words(problems, fitting, size, hard, ties)
    if len(picks) < size:
        remedy = f"use --size {len(picks)} or less, or a lower --necessity"
        problem = f"{size} samples cannot be picked: {len(fitting)} of {len(problems)} need their image"
        raise BadInput(problem, remedy=remedy, field="size")
    dropped = reasons_of(problems, scores, picks, fitting)
    facts = {"images": len(pictured), "fitting": len(fitting)}
    return Choice(picks, dropped, for_coverage, facts, _untold(dropped, len(fitting)))


def _untold(dropped: dict[int, str], fitting: int) -> list[str]:
    """Return a message about dropped samples that differ from kept ones only in their pictures."""
    alike = sum(reason == ALIKE for reason in dropped.values())
    if not alike:
        return []
    message = f"{alike:,} of {fitting:,} samples that fit have the words and the answer of kept ones, and are as hard"
    return [f"{message}: a seeded hash chose among them. {TELLS_PICTURES_APART}"]


def by_distance(
    problems: Sequence[Problem],
    pool: Sequence[int],
    rows: "Rows",
    size: int,
    *,
    start: int = 0,
    within: str | None = None,
    progress: Callable[[int], None] = lambda picks: None,
    processes: Processes = ALONE,
) -> "tuple[Choice, np.ndarray]":
    """Choose far apart: exact farthest-first traversal of the embeddings of `pool`, one row each, in its order.

    Returns the choice and the (len(pool),) distances of the pool to their nearest picks.

    Args:
        start: place in `pool` of the first pick.
        within: "subject", "topic", "category" or "skill": every such label gets its fair share of `size`, and within
            the shares the farthest samples are picked.
        processes: those that choose together, when `rows` is this one's share of the pool.
    """
    import numpy as np

    from llava_mistral.pruning.farthest_first import farthest_first

    places = {} if within is None else _places([problems[i] for i in pool], within, size)
    shared = {"first_row": processes.share(len(pool)).start, "gather": processes.gather}
    order = farthest_first(rows, size, start=start, progress=progress, **places, **shared)
    picks = [pool[i] for i in order.picks]
    kept, members, reason = set(picks), set(pool), NEAR if within is None else FULL_GROUP.format(within)
    dropped = {i: reason if i in members else NO_IMAGE for i in range(len(problems)) if i not in kept}
    facts = {
        "start": problems[picks[0]].pid,
        "radius": order.radius,
        "minimum_distance": order.minimum_distance if size > 1 else None,
    }
    facts |= {"radius_bound": "at most twice the smallest possible"} if within is None else {}
    cost = f"read the embeddings {order.passes} times, computed {order.computed:.2f} of N x size distances"
    return Choice(picks, dropped, facts=facts, cost=cost), np.concatenate(processes.gather(order.nearest))


def _places(problems: Sequence[Problem], within: str, size: int) -> dict[str, Any]:
    import numpy as np

    names = [getattr(problem, within) or "" for problem in problems]
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    groups = np.array([number[name] for name in names])
    capacities = np.bincount(groups).tolist()
    if size > sum(capacities):
        remedy = f"use at most {sum(capacities)}"
        raise BadInput(f"{size} of {sum(capacities)} samples cannot be picked", remedy=remedy, field="size")
    return {"groups": groups, "quotas": np.array(fair_shares(capacities, size))}


def by_chance(
    problems: Sequence[Problem], pool: Sequence[int], size: int, *, seed: int, stratified: bool = False
) -> Choice:
    """Choose at random, evenly over the skills when `stratified`: the baseline for every other method."""
    check_size(size, pool)
    order = random.Random(seed).sample(list(pool), len(pool))
    picks = order[:size]
    if stratified:
        rank = {i: place for place, i in enumerate(order)}
        cover = Cover(problems, [-rank.get(i, len(pool)) for i in range(len(problems))], wordings=False)
        cover.cover(pool, size)
        cover.fill(pool, size)
        picks = cover.picks
    kept, members = set(picks), set(pool)
    dropped = {i: NOT_DRAWN if i in members else NO_IMAGE for i in range(len(problems)) if i not in kept}
    return Choice(picks, dropped, facts={"stratified": stratified})


def everything(problems: Sequence[Problem], pool: Sequence[int], size: int | None) -> Choice:
    """Keep the whole pool, in its order: what every choice is compared with."""
    if size not in (None, len(pool)):
        remedy = f"leave --size out, or say {len(pool)}"
        raise BadInput(f"the full pool has {len(pool)} samples, not {size}", remedy=remedy, field="size")
    members = set(pool)
    return Choice(list(pool), {i: NO_IMAGE for i in range(len(problems)) if i not in members})


def check_size(size: int, pool: Sequence[int]) -> None:
    """Refuse to pick more than there are.

    Raises:
        BadInput: `size` is above the size of the pool.
    """
    if size > len(pool):
        remedy = f"use 1 to {len(pool)}"
        raise BadInput(f"{size} of {len(pool)} samples cannot be picked", remedy=remedy, field="size")


def coverage_counts(problems: Sequence[Problem], picks: Sequence[int]) -> dict[str, list[int]]:
    """Return {level: [labels among the picks, labels among the pictured samples, labels among all samples]}."""
    pictured = [i for i, problem in enumerate(problems) if problem.has_image]
    pools = (picks, pictured, range(len(problems)))
    return {level: [len({getattr(problems[i], level) for i in pool} - {None}) for pool in pools] for level in LEVELS}


def reasons_of(
    problems: Sequence[Problem], scores: Sequence[Scores], picks: Sequence[int], fitting: Sequence[int]
) -> dict[int, str]:
    """Return {sample: why it was dropped} for all that are not among `picks`.

    Args:
        fitting: the samples whose image is needed.
    """
    kept, fits = set(picks), set(fitting)
    labelled = any(skill_of(problems[i]) for i in fitting)
    kind = "skill" if labelled else "answer"
    group = skill_of if labelled else (lambda problem: plain(answer_of(problem)))
    in_group: Mapping[str, list[int]] = defaultdict(list)
    in_wording: Mapping[tuple, list[int]] = defaultdict(list)
    for i in picks:
        in_group[group(problems[i])].append(i)
        in_wording[group(problems[i]), wording_of(problems[i])].append(i)

    def why(i: int) -> str:
        if not problems[i].has_image:
            return NO_IMAGE
        if i not in fits:
            return scores[i].against if scores[i].necessity < UNDECIDED else TOO_WEAK
        name, wording = group(problems[i]), wording_of(problems[i])
        if not in_group[name]:
            return NO_ROOM.format(kind)
        twins = in_wording[name, wording]
        if any(scores[k].difficulty == scores[i].difficulty for k in twins):
            return ALIKE
        if twins and all(scores[k].difficulty > scores[i].difficulty for k in twins):
            return HARDER
        if len(twins) == len(in_group[name]):
            return FULL.format(kind)
        return SHARE.format(kind) if labelled else SHARE_OF_ANSWER

    return {i: why(i) for i in range(len(problems)) if i not in kept}
