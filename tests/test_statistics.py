"""Intervals and tests agree with published values and with brute force."""

import random
from itertools import product

import pytest

from llava_mistral.evaluation.statistics import (
    holm,
    mcnemar_exact,
    mean_difference,
    mean_interval,
    paired_difference,
    student_t_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("correct", "n", "interval"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_intervals_are_the_published_ones(correct, n, interval):
    assert wilson_interval(correct, n) == pytest.approx(interval, abs=5e-5)


def test_wilson_intervals_stay_within_bounds_and_mirror():
    for n in (1, 7, 2017):
        assert wilson_interval(0, n)[0] == 0.0 and wilson_interval(n, n)[1] == 1.0
        for correct in (0, n // 3, n):
            low, high = wilson_interval(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
            assert wilson_interval(n - correct, n) == pytest.approx((1 - high, 1 - low))
    for correct, n in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no proportion"):
            wilson_interval(correct, n)


def test_mcnemar_counts_the_coin_tosses_at_least_as_uneven():
    for n, only_first in ((5, 1), (8, 8), (7, 3)):
        uneven = [sum(tosses) for tosses in product((0, 1), repeat=n)]
        extreme = sum(abs(heads - n / 2) >= abs(only_first - n / 2) for heads in uneven) / 2**n
        assert mcnemar_exact(only_first, n - only_first) == pytest.approx(extreme)
    assert mcnemar_exact(0, 0) == 1.0


def test_mcnemar_does_not_overflow():
    assert mcnemar_exact(1000, 1000) == 1.0
    assert mcnemar_exact(1000, 1100) == pytest.approx(0.0307, abs=2e-4)
    assert mcnemar_exact(499, 500) == pytest.approx(1.0)
    assert mcnemar_exact(0, 5000) == 0.0


def test_the_bootstrap_of_counts_is_the_bootstrap_of_questions():
    import numpy as np

    rng = random.Random(0)
    first = [rng.random() < 0.6 for _ in range(400)]
    second = [rng.random() < 0.7 for _ in range(400)]
    found = paired_difference(first, second)
    drawn = np.random.default_rng(1).integers(0, 400, size=(10_000, 400))
    gaps = (np.array(second, float) - np.array(first, float))[drawn].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.006)
    assert found.difference == pytest.approx((sum(second) - sum(first)) / 400)
    assert found == paired_difference(first, second), "the same seed draws the same interval"


def test_a_model_does_not_differ_from_itself():
    answers = [True, False, True]
    found = paired_difference(answers, answers)
    assert (found.difference, found.low, found.high, found.p_value, found.significant) == (0, 0, 0, 1, False)
    with pytest.raises(ValueError, match="not about the same questions"):
        paired_difference(answers, answers[:2])
    with pytest.raises(ValueError, match="not about the same questions"):
        paired_difference([], [])


def test_a_plain_difference_is_significant_and_a_small_one_is_not():
    base = [index % 2 == 0 for index in range(200)]
    assert paired_difference(base, [True] * 200).significant
    assert not paired_difference(base, [True, True, *base[2:]]).significant


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_students_t_is_that_of_the_tables(degrees, quantile):
    assert student_t_quantile(0.975, degrees) == pytest.approx(quantile, abs=5e-5)


def test_the_mean_over_seeds_has_an_interval_from_two_seeds_on():
    assert mean_interval([70.0]) == (70.0, None, None)
    assert mean_interval([69.0, 70.0, 71.0]) == pytest.approx((70.0, 70 - 2.48414, 70 + 2.48414), abs=1e-4)


def test_seeds_are_compared_in_pairs():
    """Student's own sleep data (1908): eleven hours of difference over ten patients, p = 0.00283."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert mean_difference(first, second) == pytest.approx((1.58, 0.7001142, 2.4598858, 0.002833), abs=1e-6)
    assert mean_difference([70.0, 71.0], [70.0, 71.0]) == (0, 0, 0, 1)
    for other in ([70.0], [70.0, 71.0, 72.0]):
        with pytest.raises(ValueError, match="cannot be paired"):
            mean_difference(other, [70.0] if len(other) == 1 else [70.0, 71.0])


def test_several_comparisons_are_corrected_by_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
