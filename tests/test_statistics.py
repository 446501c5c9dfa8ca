"""Intervals and tests agree with published values and with brute force."""

import random
from itertools import product

import pytest

from llava_mistral.evaluation.statistics import (
    bounded_gap,
    bounded_mean,
    crossed_gap,
    crossed_mean,
    holm,
    judged,
    mcnemar_exact,
    paired_difference,
    smallest_visible,
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
        with pytest.raises(ValueError, match="not a proportion"):
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


def test_the_interval_of_a_paired_difference_is_about_what_resampling_questions_gives():
    import numpy as np

    rng = random.Random(0)
    first = [rng.random() < 0.6 for _ in range(400)]
    second = [rng.random() < 0.7 for _ in range(400)]
    found = paired_difference(first, second)
    drawn = np.random.default_rng(1).integers(0, 400, size=(10_000, 400))
    gaps = (np.array(second, float) - np.array(first, float))[drawn].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.006)
    assert found.difference == pytest.approx((sum(second) - sum(first)) / 400)
    wider = paired_difference(first, second, level=0.99)
    assert wider.low < found.low < found.high < wider.high


def test_a_model_does_not_differ_from_itself():
    answers = [True, False, True]
    found = paired_difference(answers, answers)
    assert (found.difference, found.p_value, found.significant) == (0, 1, False)
    assert found.low < 0 < found.high, "three questions do not show that the next one would not tell them apart"
    with pytest.raises(ValueError, match="not about the same questions"):
        paired_difference(answers, answers[:2])
    with pytest.raises(ValueError, match="not about the same questions"):
        paired_difference([], [])


def test_a_plain_difference_is_significant_and_a_small_one_is_not():
    base = [index % 2 == 0 for index in range(200)]
    assert paired_difference(base, [True] * 200).significant
    assert not paired_difference(base, [True, True, *base[2:]]).significant


def test_no_cell_has_a_zero_width():
    """42 of 105 at every seed: Wilson's interval is 31.1 to 49.6, and so about is ours."""
    same = [[index < 42 for index in range(105)]] * 3
    (found,) = judged([crossed_mean(same)])
    assert (found.low, found.high) == pytest.approx((0.305, 0.495), abs=0.01)
    for right in (True, False):
        (found,) = judged([crossed_mean([[right] * 105] * 3)])
        assert found.high - found.low > 0.03
    (found,) = judged([crossed_gap(same, same)])
    assert found.mean == 0 and found.low < 0 < found.high and found.p_value == 1
    (found,) = judged([bounded_mean([1.0, 1.0, 1.0], 105)])
    assert found.high - found.low > 0.03


def test_the_parts_are_those_of_the_analysis_of_variance():
    """Two seeds, three questions, by hand: question means 1, 1/2, 0; residual mean square 1/12 x 2 / 2."""
    right = [[1, 1, 0], [1, 0, 0]]
    found = crossed_mean(right)
    residual = sum((right[s][q] - (1, 0.5, 0)[q] - (2 / 3, 1 / 3)[s] + 1 / 2) ** 2 for s in range(2) for q in range(3))
    assert found.seeds == pytest.approx((2 / 3, 1 / 3))
    assert found.question_variance == pytest.approx(0.25 / 3 - residual / 2 / 6)


def test_a_mean_over_skills_counts_every_skill_alike():
    right = [[True] * 90 + [False] * 10] * 3
    strata = [range(90), range(90, 100)]
    assert crossed_mean(right).mean == pytest.approx(0.9)
    assert crossed_mean(right, strata).mean == pytest.approx(0.5)


def test_without_single_answers_the_interval_is_wider_and_never_narrower():
    import numpy as np

    rng = np.random.default_rng(0)
    hard = rng.normal(0, 2, 300)
    sides = [rng.random((3, 300)) < 1 / (1 + np.exp(-hard - shift)) for shift in (0, 0.3)]
    (known,) = judged([crossed_gap(*sides)])
    (bound,) = judged([bounded_gap(*[side.mean(axis=1) for side in sides], 300)])
    assert known.mean == pytest.approx(bound.mean) and known.error < bound.error


def test_rows_share_their_seeds_variance_and_a_lucky_one_proves_nothing():
    """Seven, eight and eight questions of 488 (the study's -1.6): a t over seeds alone calls it p = 0.0014."""
    lucky = bounded_gap([0.65, 0.65, 0.65], [0.65 - k / 488 for k in (7, 8, 8)], 488)
    noisy = [bounded_gap([0.6, 0.6, 0.6], [0.6 + x for x in (-0.02, 0.01, 0.03)], 488) for _ in range(5)]
    assert judged([lucky])[0].p_value > 0.4
    assert judged([lucky, *noisy], differences=True)[0].error > judged([lucky])[0].error
    with pytest.raises(ValueError, match="seeds"):
        judged([lucky, bounded_mean([0.5], 10)])


def test_intervals_that_hold_at_once_are_wider_and_agree_with_the_corrected_test():
    rows = [bounded_gap([0.5, 0.52, 0.54], [0.56 + k / 50, 0.6 + k / 50, 0.62 + k / 50], 488) for k in range(4)]
    for one, all_at_once in zip(judged(rows), judged(rows, comparisons=4), strict=True):
        assert all_at_once.high - all_at_once.low > one.high - one.low
        assert (all_at_once.low > 0) == (4 * one.p_value < 0.05)
        assert smallest_visible(one) < smallest_visible(one, comparisons=4)


def test_the_smallest_visible_difference_is_found_four_times_in_five():
    import numpy as np
    from scipy.stats import t

    (one,) = judged([bounded_gap([0.5, 0.5, 0.5], [0.5, 0.51, 0.52], 488)])
    drawn = np.random.default_rng(0).normal(smallest_visible(one), one.error, 20_000)
    assert (abs(drawn) > t.ppf(0.975, one.degrees) * one.error).mean() == pytest.approx(0.8, abs=0.03)


def coverage(*, studies: int, seeds: int, questions: int, spread: float) -> dict[str, float]:
    """Shares of simulated studies, six arms equally good, in which intervals hold: means, gaps, all gaps at once.

    Answers are drawn with random questions, random questions within an arm (which no number of seeds averages out),
    and random runs of spread `spread`, on the logistic scale.
    """
    import numpy as np

    rng = np.random.default_rng(0)

    def answers(arms: int, seeds: int, questions: int):
        hard = rng.normal(0.4, 1.5, questions) + rng.normal(0, 0.7, (arms, 1, questions))
        return rng.random((arms, seeds, questions)) < 1 / (1 + np.exp(-hard - rng.normal(0, spread, (arms, seeds, 1))))

    truth = np.mean([answers(1, 50, 4000).mean() for _ in range(20)])
    held = {"means": [], "gaps": [], "all gaps": []}
    for _ in range(studies):
        drawn = answers(6, seeds, questions)
        gaps = [crossed_gap(drawn[0], arm) for arm in drawn[1:]]
        held["means"] += [one.low <= truth <= one.high for one in judged([crossed_mean(arm) for arm in drawn])]
        held["gaps"] += [one.low <= 0 <= one.high for one in judged(gaps, differences=True)]
        at_once = judged(gaps, differences=True, comparisons=len(gaps))
        held["all gaps"].append(all(one.low <= 0 <= one.high for one in at_once))
    return {name: float(np.mean(values)) for name, values in held.items()}


def test_intervals_hold_as_often_as_they_say():
    found = coverage(studies=150, seeds=3, questions=200, spread=0.1)
    assert all(0.91 <= share <= 0.99 for share in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.02), (3, 0.1), (3, 0.3), (5, 0.1), (10, 0.1)])
def test_intervals_hold_as_often_as_they_say_whatever_the_seeds(seeds, spread):
    found = coverage(studies=1000, seeds=seeds, questions=488, spread=spread)
    assert all(0.93 <= share <= 0.985 for share in found.values()), found


def test_several_comparisons_are_corrected_by_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
