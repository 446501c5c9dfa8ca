"""What makes a sample worth training on is judged as the study judged it, and coverage holds on any input."""

import random
from pathlib import Path

import pytest

from llava_mistral.data.scienceqa import Problem, read_problems
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.pruning.coverage import LEVELS, Cover, fair_shares, labels_of
from llava_mistral.pruning.methods import by_chance, by_principles, everything
from llava_mistral.pruning.model_evidence import ModelEvidence, pooled_gains
from llava_mistral.pruning.principles import NO_IMAGE, NOT_NEEDED, difficulties, score

REAL = Path(__file__).parents[2] / "shared" / "scienceqa"


def pictured(question: str, *, hint: str = "", choices=("one", "two"), answer: int = 0, **fields) -> Problem:
    return Problem(
        pid=question, question=question, choices=choices, answer=answer, hint=hint, has_image=True, **fields
    )


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir():
        pytest.skip("the real ScienceQA text is not at hand")
    return read_problems(REAL / "problems_head.json", split="train", pid_splits=REAL / "pid_splits.json")


@pytest.fixture(scope="module")
def digitsqa(tmp_path_factory):
    pytest.importorskip("sklearn")
    from llava_mistral.miniature.digitsqa import build

    folder = tmp_path_factory.mktemp("digitsqa")
    build(folder)
    return read_problems(folder, split="train")


NEEDED = [
    pictured("What country is highlighted?"),
    pictured("Which is the main persuasive appeal used in this ad?"),
    pictured("Which of these states is farthest north?"),
    pictured("Which three months had the most rain?", hint="Use the graph to answer the question below."),
    pictured("Look at the picture. Which word best describes it?"),
    pictured("Which digit is written in the picture?"),
    pictured("Is the digit shown even or odd?"),
    pictured("Which of these two digits is larger?"),
    pictured("How many times does 3 appear in this strip?"),
    pictured("Is the digit in the picture upside down?"),
    pictured("Select the fish below.\nAnswer the question using a single word or phrase."),
    pictured("What is the direction of this push?", hint="A man moves a cart."),
    pictured("Which is bigger?", hint="The diagrams show two tanks."),
    pictured("Which has more particles?", choices=("Solution A", "Solution B", "neither; they have the same")),
]
DECORATED = [
    pictured("What does pollen help a plant do?", hint="The male part of a flower makes pollen."),
    pictured("Does this passage describe the weather or the climate?", hint="Figure: Chicago.\nIt is windy there."),
    pictured("The picture shows a page from a notebook. What is 3 + 4?"),
    pictured("What does a thermometer measure?"),
    pictured("What is the capital of Colorado?"),
    pictured("Is a scarf a solid or a liquid?"),
    pictured("What is its other name?", hint="It is also called a goldfish.", choices=("goldfish", "great shark")),
    pictured("What is the direction of this pull?", hint="A toddler pulls a toy. The direction is away from it."),
    pictured("What is its scientific name?", hint="This picture shows an African elephant."),
    pictured("What did they find?", hint="Read the passage.\nThe diagram below it is decoration."),
]


@pytest.mark.parametrize("problem", NEEDED, ids=lambda problem: problem.question)
def test_a_question_that_points_into_the_picture_needs_it(problem):
    assert score([problem])[0].fits


@pytest.mark.parametrize("problem", DECORATED, ids=lambda problem: problem.question)
def test_a_question_that_the_text_decides_does_not(problem):
    assert not score([problem])[0].fits


def test_another_answer_to_the_same_words_proves_that_the_picture_decides():
    same = [pictured("Which one is it?", answer=0), pictured("Which one is it?", answer=1)]
    assert not score(same[:1])[0].fits
    assert all(result.fits and "another picture" in result.why for result in score(same))


def test_an_answer_that_was_not_to_choose_proves_nothing():
    apart = [pictured("Which one is it?"), pictured("Which one is it?", choices=("three", "four"))]
    assert not any(result.fits for result in score(apart))


def test_the_same_answer_every_time_speaks_against_the_picture():
    repeated = [pictured("Which part of this flower makes pollen?") for _ in range(8)]
    assert score(repeated[:1])[0].fits
    assert not any(result.fits for result in score(repeated))


def test_a_sample_without_an_image_scores_zero():
    assert score([Problem(pid="1", question="What is shown?", choices=("a", "b"))])[0].why == NO_IMAGE


def test_more_of_everything_is_harder():
    easy = pictured("Easy?", grade="grade2", lecture="short", solution="")
    hard = pictured("Hard?", grade="grade11", lecture="long " * 50, solution="long", choices=tuple("abcd"))
    unknown = pictured("Unknown?", choices=tuple("abc"))
    ranks = difficulties([easy, hard, unknown])
    assert ranks[1] > ranks[2] > ranks[0] >= 0
    assert ranks[1] == 1
    assert difficulties([easy, easy]) == [0.5, 0.5]
    assert difficulties([easy, easy], losses=[0.1, 2.0])[1] == 1


def test_a_model_that_needs_the_picture_outweighs_words_that_do_not_point_at_it():
    words = pictured("Is a scarf a solid or a liquid?")
    assert not score([words])[0].fits
    sees = score([words], {words.pid: ModelEvidence(seeing=-0.1, blind=-2.3)})[0]
    assert sees.fits and sees.why == "the model needs the picture"
    shown = pictured("Which digit is shown?")
    assert score([shown])[0].fits
    blind = score([shown], {shown.pid: ModelEvidence(seeing=-1.0, blind=-1.0)})[0]
    assert blind.necessity < score([shown])[0].necessity


def test_samples_of_a_skill_are_read_together_and_one_alone_keeps_its_own_gain():
    alike = [pictured(f"{i}?", skill="read") for i in range(4)] + [pictured("5?"), pictured("6?", skill="other")]
    gains = [4.0, 4.0, 4.0, -2.0, 1.0, -1.0]
    asked = {p.pid: ModelEvidence(gain - 3, -3.0) for p, gain in zip(alike, gains, strict=True)}
    pooled = pooled_gains([*alike, pictured("not asked?", skill="read")], asked)
    assert set(pooled) == set(asked)
    assert pooled["0?"] > pooled["3?"] > 1  # one error does not undo what its skill shows
    assert (pooled["5?"], pooled["6?"]) == pytest.approx((1.0, -1.0))


def test_what_a_model_finds_unlikely_is_hard():
    problems = [pictured("One?"), pictured("Two?"), Problem(pid="3", question="Three?", choices=("a", "b"))]
    asked = {"One?": ModelEvidence(-0.1, -0.1), "Two?": ModelEvidence(-3.0, -3.0)}
    easy, hard, unknown = (result.difficulty for result in score(problems, asked))
    assert easy < unknown < hard


def test_the_score_of_digitsqa_tells_needed_from_decorative_images(digitsqa):
    metrics = pytest.importorskip("sklearn.metrics")
    scores = score(digitsqa)
    judged = [i for i, problem in enumerate(digitsqa) if problem.has_image]
    truth = [digitsqa[i].image_needed for i in judged]
    assert 0.1 < sum(truth) / len(truth) < 0.95
    assert metrics.roc_auc_score(truth, [scores[i].necessity for i in judged]) >= 0.95


def test_the_ground_truth_of_digitsqa_has_no_say(digitsqa):
    from dataclasses import replace

    blinded = [replace(problem, image_needed=None) for problem in digitsqa]
    assert score(blinded) == score(digitsqa)


def test_the_real_study_examples_come_out_right(real):
    scores = score(real)
    choice = by_principles(real, scores, 119)
    kept = {real[i].question for i in choice.picks if i not in choice.for_coverage}
    assert "Which country is highlighted?" in kept
    assert "Which is the main persuasive appeal used in this ad?" in kept
    pruned = ("What does pollen help a plant do?", "Does this passage describe the weather or the climate?")
    for question in pruned:
        asked = [i for i, problem in enumerate(real) if problem.question == question and problem.has_image]
        assert asked and not any(scores[i].fits for i in asked)
        assert question not in kept
    fitting_only = by_principles(real, scores, 119, whole_coverage=False)
    assert not {real[i].question for i in fitting_only.picks} & set(pruned)


def test_119_of_the_real_problems_cover_every_label_of_the_image_pool(real):
    choice = by_principles(real, score(real), 119)
    pool = [problem for problem in real if problem.has_image]
    assert (len(real), len(pool)) == (1041, 521)
    covered = {level: {getattr(real[i], level) for i in choice.picks} for level in LEVELS}
    assert covered == {level: {getattr(problem, level) for problem in pool} for level in LEVELS}
    assert [len(covered[level]) for level in LEVELS] == [3, 12, 45, 80]


def test_the_text_score_agrees_with_what_the_study_picked_by_hand(real):
    import json

    picked = set(json.loads((REAL / "seed_selection_pid_le_900.json").read_text())["hand_picked"])
    fits = {problem.pid: result.fits for problem, result in zip(real, score(real), strict=True) if problem.has_image}
    head = {pid for pid in fits if int(pid) <= 900}
    by_hand, others = head & picked, head - picked
    assert sum(fits[pid] for pid in by_hand) / len(by_hand) > 0.8
    assert sum(fits[pid] for pid in others) / len(others) < 0.6


def taxonomy(rng: random.Random, size: int) -> list[Problem]:
    """Problems over a random tree of labels, some of them missing at the bottom."""
    problems = []
    for i in range(size):
        topic = rng.randrange(6)
        category = f"{topic}.{rng.randrange(3)}"
        skill = f"{category}.{rng.randrange(rng.choice([1, 4, 9]))}"
        labels = {"subject": str(topic % 2), "topic": str(topic), "category": category, "skill": skill}
        problems.append(Problem(pid=str(i), question=f"{rng.randrange(9)}?", choices=("a", "b"), **labels))
    return problems


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_covers_as_many_labels_as_it_can_and_spreads_evenly(seed):
    rng = random.Random(seed)
    problems = taxonomy(rng, 300)
    pool = sorted(rng.sample(range(300), 200))
    cover = Cover(problems, [rng.random() for _ in problems])
    cover.cover(pool, 150)
    cover.fill(pool, 150)
    assert len(set(cover.picks)) == 150 and set(cover.picks) <= set(pool)
    for level in LEVELS:
        names = {getattr(problems[i], level) for i in pool}
        for n in (1, 3, 10, 40, 150):
            assert len({getattr(problems[i], level) for i in cover.picks[:n]}) == min(n, len(names))
    skills = sorted({problems[i].skill for i in pool})
    available = [sum(problems[i].skill == skill for i in pool) for skill in skills]
    counts = [sum(problems[i].skill == skill for i in cover.picks) for skill in skills]
    fair = fair_shares(available, 150)
    assert all(abs(count - share) <= 1 for count, share in zip(counts, fair, strict=True))
    unfilled = [count for count, most in zip(counts, available, strict=True) if count < most]
    assert max(counts) <= min(unfilled) + 1


@pytest.mark.parametrize("seed", range(20))
def test_labels_without_any_order_are_covered_by_as_many_picks_as_there_are_labels(seed):
    rng = random.Random(seed)
    fields = [{level: rng.choice([None, *"abcdefg"]) for level in LEVELS} for _ in range(80)]
    problems = [Problem(pid=str(i), question="?", choices=(), **labels) for i, labels in enumerate(fields)]
    every = {label for problem in problems for label in labels_of(problem)}
    cover = Cover(problems, [0.0] * 80)
    assert len(cover.cover(range(80), 80)) <= len(every)
    assert {label for i in cover.picks for label in labels_of(problems[i])} == every


def test_within_a_skill_new_wordings_come_first_and_then_the_hardest():
    words = ["a?", "a?", "b?", "b?"]
    problems = [Problem(pid=str(i), question=word, choices=(), skill="s") for i, word in enumerate(words)]
    cover = Cover(problems, [0.1, 0.9, 0.5, 0.6])
    assert cover.fill(range(4), 4) == [1, 3, 2, 0]


def test_reasons_and_kept_sum_to_the_input(real):
    scores = score(real)
    every = range(len(real))
    for choice in (
        by_principles(real, scores, 200),
        by_chance(real, every, 200, seed=1),
        by_chance(real, [i for i in every if real[i].has_image], 200, seed=1, stratified=True),
        everything(real, every, None),
    ):
        assert sum(choice.counts().values()) == len(real)
        assert not set(choice.picks) & set(choice.dropped)
    assert {NO_IMAGE, NOT_NEEDED} < set(by_principles(real, scores, 200).counts())


def test_more_than_the_pool_is_refused_with_the_most_there_is(real):
    with pytest.raises(BadInput, match=r"1041 samples cannot be picked: \d+ of 1041 need .*; use --size \d+ or less"):
        by_principles(real, score(real), 1041)
    with pytest.raises(BadInput, match="use 1 to 3"):
        by_chance(real, range(3), 4, seed=0)


def test_a_stratified_draw_is_even_over_the_skills_and_follows_the_seed(real):
    pool = [i for i, problem in enumerate(real) if problem.has_image]
    drawn = by_chance(real, pool, 80, seed=0, stratified=True).picks
    assert len({real[i].skill for i in drawn}) == 80
    assert drawn == by_chance(real, pool, 80, seed=0, stratified=True).picks
    assert drawn != by_chance(real, pool, 80, seed=1, stratified=True).picks
