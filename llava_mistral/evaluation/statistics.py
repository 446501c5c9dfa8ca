"""Confidence intervals and significance tests for accuracies.

Several seeds answer the same questions, so both are samples: of the runs one could have made, and of the questions one
could have asked. `crossed_mean` and `crossed_gap` take the two apart (an analysis of variance with crossed random
effects, by the method of moments); `judged` puts them together again, with the seeds' part pooled over all rows of a
table: the spread of three numbers is itself a matter of luck. tests/test_statistics.py checks coverage by simulation.

Accuracies are fractions in [0, 1] here; `scoring` and `comparison` turn them into percent. scipy is imported where it
is needed: it takes half a second, and bad input is refused before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

LEVEL = 0.95
POWER = 0.8  # with which `smallest_visible` would have been found
FEWEST_SEEDS = 3  # for an interval over seeds


def wilson_interval(correct: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927), which stays within [0, 1] at any `correct`.

    Raises:
        ValueError: `n` is not positive, or `correct` is not within 0 … n.
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} is not a proportion")
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Of the questions that exactly one of two models answered rightly, `only_first` are the first one's and
    `only_second` the second one's; were the models equally good, either would be a fair coin's (McNemar 1947).
    """
    from scipy.stats import binomtest

    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0


@dataclass(frozen=True)
class PairedDifference:
    """Second model's accuracy minus the first one's, on the same `n` questions."""

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p_value: float

    @property
    def significant(self) -> bool:
        """True where the test rejects equality at 5 %."""
        return self.p_value < 1 - LEVEL


def paired_difference(first: Sequence[bool], second: Sequence[bool], level: float = LEVEL) -> PairedDifference:
    """Compare two models question by question: difference, interval (Bonett & Price 2012), exact McNemar p-value.

    The interval has a width even where the two never differ.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} answers are not about the same questions")
    from scipy.stats import norm

    n = len(first)
    only_first = sum(bool(a and not b) for a, b in zip(first, second, strict=True))
    only_second = sum(bool(b and not a) for a, b in zip(first, second, strict=True))
    centre, variance_of = _bonett_price(only_first, only_second, n)
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(variance_of)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    gap = (only_second - only_first) / n
    return PairedDifference(n, only_first, only_second, gap, low, high, mcnemar_exact(only_first, only_second))


def _bonett_price(only_first: float, only_second: float, n: int) -> tuple[float, float]:
    """Return the shrunken difference of two paired proportions and its variance: one answer added to either side."""
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    return second - first, (first + second - (second - first) ** 2) / (n + 2)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Return Student's interval of a mean score within [0, 1]; where all scores are one of its ends, Wilson's.

    Raises:
        ValueError: there are no values.
    """
    mean, n = fmean(values), len(values)
    if n == 1 or (len(set(values)) == 1 and mean in (0, 1)):
        low, high = wilson_interval(round(mean), 1, level) if n == 1 else wilson_interval(round(mean * n), n, level)
        return low, high
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, n - 1)) * math.sqrt(variance(values) / n)
    return max(0.0, mean - half), min(1.0, mean + half)


def paired_scores(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> PairedDifference:
    """Compare two models by graded scores of the same questions: the paired t-test.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} scores are not about the same questions")
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    n, worse, better = len(gaps), sum(gap < 0 for gap in gaps), sum(gap > 0 for gap in gaps)
    row = Crossed((fmean(gaps),), max(variance(gaps) / n if n > 1 else 0.0, _bonett_price(0, 0, n)[1]), n)
    (found,) = judged([row], level=level)
    return PairedDifference(n, worse, better, found.mean, max(-1.0, found.low), min(1.0, found.high), found.p_value)


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds and questions: each seed's value, and the part of its variance that the questions bring."""

    seeds: tuple[float, ...]
    question_variance: float
    questions: int

    @property
    def mean(self) -> float:
        return fmean(self.seeds)


@dataclass(frozen=True)
class Estimate:
    """A mean or difference with its standard error, degrees of freedom, interval, and p-value of its being zero."""

    mean: float
    error: float
    degrees: float
    low: float
    high: float
    p_value: float


def crossed_mean(right: Any, strata: Sequence[Sequence[int]] | None = None) -> Crossed:
    """Return the accuracy of several seeds on the same questions.

    Args:
        right: bool (seeds, questions).
        strata: lists of question indices that count alike, whatever their sizes (the mean over skills); by default
            every question counts alike.
    """
    found = _crossed(right, strata)
    floor = 0.0
    if found.question_variance == 0:  # all right or all wrong: Wilson's interval has a width there
        low, high = wilson_interval(round(found.mean * found.questions), found.questions)
        floor = ((high - low) / 2 / _normal(LEVEL)) ** 2
    return Crossed(found.seeds, max(found.question_variance, floor), found.questions)


def crossed_gap(first: Any, second: Any, strata: Sequence[Sequence[int]] | None = None) -> Crossed:
    """Return the second model's accuracy minus the first one's, seed by seed and question by question.

    Args:
        first, second: bool (seeds, questions), in the same order of both.
    """
    import numpy as np

    found = _crossed(np.asarray(second, float) - np.asarray(first, float), strata)
    # Where the two hardly differ on any question, that none differs in the next sample is not known.
    floor = _bonett_price(0, 0, found.questions)[1]
    return Crossed(found.seeds, max(found.question_variance, floor), found.questions)


def _crossed(values: Any, strata: Sequence[Sequence[int]] | None) -> Crossed:
    """Take the variance of a mean over (seeds, questions) apart; the seeds' part holds the residual's share, too."""
    import numpy as np

    values = np.asarray(values, float)
    parts = [values] if strata is None else [values[:, list(stratum)] for stratum in strata]
    seeds = sum(part.mean(axis=1) for part in parts) / len(parts)
    questions = 0.0
    for part in parts:
        count, n = part.shape
        if n < 2:
            questions += 0.25 / len(parts) ** 2  # of one question nothing is known: the most a proportion can vary
            continue
        between = part.mean(axis=0).var(ddof=1) / n
        residual = part - part.mean(axis=0) - part.mean(axis=1, keepdims=True) + part.mean()
        inside = (residual**2).sum() / ((count - 1) * (n - 1)) / (count * n) if count > 1 else 0.0
        questions += max(0.0, between - inside) / len(parts) ** 2
    return Crossed(tuple(map(float, seeds)), float(questions), values.shape[1])


def bounded_mean(seeds: Sequence[float], n: int) -> Crossed:
    """Return the most that `crossed_mean` could be where the single answers were not kept: accuracies by seed."""
    mean = fmean(seeds)
    low, high = wilson_interval(round(mean * n), n)
    floor = ((high - low) / 2 / _normal(LEVEL)) ** 2
    return Crossed(tuple(seeds), max(mean * (1 - mean) / n, floor if mean in (0, 1) else 0.0), n)


def bounded_gap(first: Sequence[float], second: Sequence[float], n: int) -> Crossed:
    """Return the difference where the single answers were not kept: as if each model had questions of its own.

    Models that find the same questions hard differ by less than that, so that the interval is wider than needed.
    """
    parts = [bounded_mean(side, n).question_variance for side in (first, second)]
    return Crossed(tuple(b - a for a, b in zip(first, second, strict=True)), sum(parts), n)


def judged(
    rows: Sequence[Crossed], *, level: float = LEVEL, comparisons: int = 1, differences: bool = False
) -> list[Estimate]:
    """Return each row with its interval and p-value; the seeds' variance is pooled over the rows.

    Args:
        rows: of one table, all of the same number of seeds.
        comparisons: how many intervals shall hold at once with probability `level` (Bonferroni).
        differences: the rows are differences that may share an arm. Two that share one correlate by a half, and their
            variances by a quarter, which leaves the pooled variance fewer degrees of freedom.

    Raises:
        ValueError: the rows have different numbers of seeds.
    """
    from scipy.stats import t

    counts = {len(row.seeds) for row in rows}
    if len(counts) != 1:
        raise ValueError(f"the rows have {sorted(counts)} seeds")
    (count,) = counts
    pooled = fmean(variance(row.seeds) for row in rows) / count if count > 1 else 0.0
    freedom = max(1.0, len(rows) * (count - 1) / (1 + differences * (len(rows) - 1) / 4))
    found = []
    for row in rows:
        whole = pooled + row.question_variance
        # Satterthwaite's degrees of freedom of a sum of two variances.
        degrees = whole**2 / (pooled**2 / freedom + row.question_variance**2 / max(1, row.questions - 1))
        error = math.sqrt(whole)
        half = float(t.ppf(1 - (1 - level) / comparisons / 2, degrees)) * error
        p_value = float(2 * t.sf(abs(row.mean) / error, degrees))
        found.append(Estimate(row.mean, error, degrees, row.mean - half, row.mean + half, p_value))
    return found


def smallest_visible(estimate: Estimate, *, level: float = LEVEL, comparisons: int = 1) -> float:
    """Return the smallest true difference that a test with this error finds with probability `POWER`."""
    from scipy.stats import t

    reach = t.ppf(1 - (1 - level) / comparisons / 2, estimate.degrees) + t.ppf(POWER, estimate.degrees)
    return float(reach) * estimate.error


def _normal(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + level) / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for being several (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = floor
    return corrected
