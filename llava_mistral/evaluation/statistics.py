"""Intervals and tests for accuracies: how much of a difference is there, and could it be chance.

Accuracies are fractions in [0, 1] here; `scoring` and `comparison` turn them into percent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

LEVEL = 0.95


def wilson_interval(correct: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927), which stays within [0, 1] at any `correct`.

    Raises:
        ValueError: `n` is not positive, or `correct` is not within 0 … n.
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} is no proportion")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p, z2n = correct / n, z * z / n
    centre = (p + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * math.sqrt(p * (1 - p) / n + z2n / (4 * n))
    # At 0 and n the interval touches the end exactly; floating point would miss it by 1e-17.
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Of the questions that exactly one of two models answered rightly, `only_first` are the first one's and
    `only_second` the second one's; were the models equally good, either would be a fair coin's (McNemar 1947).
    """
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**n)) if n < 1000 else min(1.0, 2 * _big_ratio(tail, n))


def _big_ratio(numerator: int, log2_denominator: int) -> float:
    """Return numerator / 2**log2_denominator without overflow of either."""
    shift = max(0, numerator.bit_length() - 64)
    return math.ldexp(numerator >> shift, shift - log2_denominator)


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
        """True where the exact McNemar test rejects equality at 5 %."""
        return self.p_value < 1 - LEVEL


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], *, seed: int = 0, draws: int = 10_000
) -> PairedDifference:
    """Compare two models question by question: difference, percentile bootstrap interval, exact McNemar p-value.

    Resampling whole questions with replacement is drawing the three kinds of question (only first right, only second
    right, no difference) from a multinomial, so that 10,000 draws over any number of questions take milliseconds.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    import numpy as np

    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} answers are not about the same questions")
    n = len(first)
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=draws)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    p_value = mcnemar_exact(only_first, only_second)
    return PairedDifference(
        n, only_first, only_second, (only_second - only_first) / n, float(low), float(high), p_value
    )


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float | None, float | None]:
    """Return (mean, low, high) over seeds by Student's t; one value has a mean and no interval.

    Raises:
        ValueError: there are no values.
    """
    mean = fmean(values)
    if len(values) == 1:
        return mean, None, None
    half = student_t_quantile((1 + level) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def mean_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float, float]:
    """Return (mean, low, high, p-value) of second minus first over seeds: the paired t-test.

    Raises:
        ValueError: the two differ in length, or are less than two seeds.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} seeds cannot be paired")
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    mean, low, high = mean_interval(gaps)
    error = stdev(gaps) / math.sqrt(len(gaps))
    if error == 0:
        return mean, mean, mean, 1.0 if mean == 0 else 0.0
    return mean, low, high, 1 - _student_t_within(abs(mean) / error, len(gaps) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for being several (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = floor
    return corrected


def student_t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t for a whole number of degrees of freedom and a probability in (0.5, 1)."""
    low, high = 0.0, 1.0
    while _student_t_within(high, degrees) < 2 * probability - 1:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        inside = _student_t_within(middle, degrees) < 2 * probability - 1
        low, high = (middle, high) if inside else (low, middle)
    return high


def _student_t_within(t: float, degrees: int) -> float:
    """Return P(|T| < t): the finite series of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine2 = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 if odd else 1, degrees - 1, 2):
        term *= cosine2 * k / (k + 1)
        total += term
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series
