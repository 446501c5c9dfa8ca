"""Rows without labels are spread over answers and words, whatever their order; every reason is true of its sample."""

import io
import json
import random

import pytest
from PIL import Image

from llava_mistral.commands.prune import main
from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.coverage import fair_shares
from llava_mistral.pruning.methods import ALIKE, HARDER, NO_ROOM, SHARE, SHARE_OF_ANSWER, by_principles
from llava_mistral.pruning.principles import NO_IMAGE, NOT_NEEDED, NOTHING_POINTS, TOO_WEAK, score, text_evidence
from llava_mistral.pruning.words import spread_over_words, ties_of
from tests.support.running import run_here

SHAPES = {"A circle.": 60, "A square.": 30, "A triangle.": 10}


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def save_shapes(folder, order=None):
    """Rows sorted by answer, without ids: their pictures alone tell those of one answer apart."""
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    answers = [answer for answer, count in SHAPES.items() for _ in range(count)]
    rows = [{"question": "Which shape is shown?", "answer": answer} for answer in answers]
    rows = [row | {"image": {"bytes": picture(number), "path": None}} for number, row in enumerate(rows)]
    rows = [rows[place] for place in order or range(len(rows))]
    features = Features({"question": Value("string"), "answer": Value("string"), "image": Picture()})
    folder.mkdir()
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    return folder


def kept_rows(folder) -> list[tuple[str, bytes]]:
    """(answer, pixels) of the rows of a pruned set."""
    from datasets import load_dataset

    rows = load_dataset(str(folder), split="train")
    return [(row["completion"][-1]["content"], row["images"][0].tobytes()) for row in rows]


def prune(data, output, *given):
    said = run_here(main, "--dataset", data, "--method", "principles", "--size", 30, "--output", output, *given)
    return said.stdout, json.loads((output / "manifest.json").read_text())


def test_a_sorted_file_gives_every_answer_its_share_and_not_its_first_rows(tmp_path):
    said, manifest = prune(save_shapes(tmp_path / "rows"), tmp_path / "out")
    answers = [answer for answer, _ in kept_rows(tmp_path / "out")]
    shares = dict(zip(SHAPES, fair_shares([*SHAPES.values()], 30), strict=True))
    assert {answer: answers.count(answer) for answer in SHAPES} == shares
    assert sorted(map(int, manifest["kept"]))[:10] != list(range(10))
    assert set(manifest["dropped"].values()) == {ALIKE}
    (note,) = [note for note in manifest["notes"] if "--method farthest --embedder" in note]
    assert note.startswith("70 of 100 samples that fit") and note in said
    assert note in (tmp_path / "out/report.html").read_text()


def test_the_order_of_the_file_has_no_say_and_the_seed_has(tmp_path):
    shuffled = random.Random(5).sample(range(100), 100)
    found = []
    for name, order, seed in (("a", None, 0), ("b", shuffled, 0), ("c", None, 1)):
        prune(save_shapes(tmp_path / name, order), tmp_path / f"{name}-out", "--seed", seed)
        found.append(sorted(kept_rows(tmp_path / f"{name}-out")))
    assert found[0] == found[1] != found[2]


def free(question: str, answer: str, number: int) -> Problem:
    return Problem(pid=str(number), question=question, choices=(), solution=answer, has_image=True)


def test_answers_that_are_all_different_are_spread_over_their_words():
    said = [f"A {thing} number {i}." for thing in ("cat", "dog", "boat") for i in range(40)]
    problems = [free("What is shown?", answer, i) for i, answer in enumerate(said)]
    picks = spread_over_words(problems, range(120), 12, [0.5] * 120, ties_of(problems, 0))
    things = [problems[i].solution.split()[1] for i in picks]
    assert {thing: things.count(thing) for thing in set(things)} == {"cat": 4, "dog": 4, "boat": 4}


def test_no_answer_is_kept_twice_before_another_once():
    rng = random.Random(1)
    problems = [free(f"What is {rng.randrange(50)}?", str(rng.randrange(9) ** 2), i) for i in range(400)]
    picks = spread_over_words(problems, range(400), 150, [rng.random() for _ in problems], ties_of(problems, 3))
    counts = {}
    for i in picks:
        counts[problems[i].solution] = counts.get(problems[i].solution, 0) + 1
    there = [sum(problem.solution == answer for problem in problems) for answer in counts]
    shares = fair_shares(there, 150)
    assert all(abs(count - share) <= 1 for count, share in zip(counts.values(), shares, strict=True))


def mixed(rng: random.Random, labelled: bool) -> list[Problem]:
    """Problems of every kind that a reason speaks of."""
    asks = ("Which one is shown?", "What is in this picture?", "What is it?", "What is 3 + 4?", "Which is drawn, {}?")
    problems = []
    for i in range(300):
        ask = rng.choice(asks).format(rng.randrange(40))
        fields = {"question": ask, "has_image": rng.random() < 0.9, "grade": rng.choice(["grade2", "grade7", None])}
        if labelled:
            fields |= {
                "choices": ("red", "blue"),
                "answer": rng.randrange(2),
                "skill": f"s{rng.randrange(40) ** 2 // 9}",
            }
        else:
            fields |= {"choices": (), "solution": rng.choice(["Red.", "Blue.", "It is a goldfish."])}
        problems.append(Problem(pid=str(i), **fields))
    return problems


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "free form"])
@pytest.mark.parametrize("threshold", [0.5, 0.8])
@pytest.mark.parametrize("size", [5, 80])
def test_every_reason_is_true_of_its_sample(labelled, threshold, size):
    problems = mixed(random.Random(size), labelled)
    scores = score(problems)
    choice = by_principles(problems, scores, size, threshold=threshold, whole_coverage=False)
    assert set(choice.picks) | choice.dropped.keys() == set(range(300))
    kind = "skill" if labelled else "answer"
    same_kind = (lambda a, b: a.skill == b.skill) if labelled else (lambda a, b: a.solution == b.solution)

    def words(problem):
        return problem.question, problem.choices, problem.answer, problem.solution

    for i, reason in choice.dropped.items():
        own = problems[i]
        near = [k for k in choice.picks if same_kind(problems[k], own)]
        twins = [k for k in near if words(problems[k]) == words(own)]
        fits = own.has_image and scores[i].necessity >= threshold
        against = [weight for weight, _ in text_evidence(own) if weight < 0]
        others = [
            other for other in problems if other is not own and other.question == own.question and other.has_image
        ]
        repeated = any(words(own) == words(other) for other in others)
        contradicted = any(words(own) != words(other) for other in others)
        true = {
            NO_IMAGE: not own.has_image,
            NOT_NEEDED: not fits and (bool(against) or repeated),
            NOTHING_POINTS: not fits and not text_evidence(own) and not repeated and not contradicted,
            TOO_WEAK: not fits and (contradicted or any(weight > 0 for weight, _ in text_evidence(own))),
            ALIKE: fits and any(scores[k].difficulty == scores[i].difficulty for k in twins),
            HARDER: fits and twins and all(scores[k].difficulty > scores[i].difficulty for k in twins),
            SHARE.format(kind): labelled and fits and near and not twins,
            SHARE_OF_ANSWER: not labelled and fits and near and not twins,
            NO_ROOM.format(kind): fits and not near,
        }
        assert true[reason], (reason, own)
    assert len(set(choice.dropped.values())) >= 4
