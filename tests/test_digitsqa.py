"""DigitsQA: as many questions as promised, right answers, fair splits, and the same bytes for the same seed."""

import hashlib
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from llava_mistral.data.scienceqa import answer_text, question_text, read_problems
from llava_mistral.miniature import digitsqa, digitsqa_questions
from tests.support.running import run_here, run_light

LEAST = {"train": 3000, "val": 600, "test": 600}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole set, once: (folder, what `build` said)."""
    folder = tmp_path_factory.mktemp("data") / "digitsqa"
    folder.mkdir()
    return folder, digitsqa.build(folder)


@pytest.fixture(scope="module")
def problems(built):
    return read_problems(built[0])


@pytest.fixture
def small(monkeypatch):
    """Sizes at which a set is built in a fraction of a second."""
    for split, size in (("train", 90), ("val", 26), ("test", 26)):
        monkeypatch.setitem(digitsqa.SPLIT_SIZES, split, size)
    monkeypatch.setattr(digitsqa, "ALIGNMENT_SIZE", 30)


def test_there_are_as_many_questions_as_promised(built, problems):
    counts = Counter(problem.split for problem in problems)
    assert all(counts[split] >= least for split, least in LEAST.items())
    assert built[1] == {**counts, "alignment": len(alignment(built[0])), "instructions": 2 * counts["train"]}
    assert len({problem.pid for problem in problems}) == len(problems)


def test_subjects_topics_skills_and_grades_are_as_many_as_promised(problems):
    """In every split, so that each column of the table has questions."""
    for split in LEAST:
        asked = [problem for problem in problems if problem.split == split]
        kinds = {
            name: {getattr(problem, name) for problem in asked} for name in ("subject", "topic", "skill", "grade")
        }
        assert kinds["subject"] == {"natural science", "social science", "language science"}
        assert len(kinds["topic"]) >= 8 and len(kinds["skill"]) >= 16
        assert kinds["grade"] == {f"grade{number}" for number in range(1, 13)}
        assert all(problem.lecture and problem.solution and problem.category and problem.task for problem in asked)


def test_there_are_questions_that_need_their_picture_that_only_have_one_and_that_have_none(problems):
    for split in LEAST:
        needed = Counter(problem.image_needed for problem in problems if problem.split == split)
        assert set(needed) == {True, False, None} and min(needed.values()) >= 30
    assert all((problem.image_needed is None) == (not problem.has_image) for problem in problems)
    assert all(problem.image is not None for problem in problems if problem.has_image)


def test_whether_the_picture_is_needed_never_reaches_the_model(built, problems):
    from llava_mistral.data.conversations import rows_of_problems

    for problem in problems[::7]:
        twins = [replace(problem, image_needed=needed) for needed in (True, False, None)]
        assert len({question_text(twin) for twin in twins}) == 1
        assert "image_needed" not in question_text(problem) + answer_text(problem, "explained")
    assert "image_needed" not in rows_of_problems(problems[:50], source=built[0]).column_names


def test_a_digit_cannot_be_read_without_looking(problems):
    """Few wordings, ten answers, none of them much more frequent than the others, and no letter either."""
    for split in LEAST:
        read = [p for p in problems if p.skill == "Read a written digit" and p.split == split]
        answers = Counter(problem.choices[problem.answer] for problem in read)
        assert len(answers) >= (8 if split == "val" else 10) and max(answers.values()) < 0.35 * len(read)
        assert len({problem.question for problem in read}) == 2
        assert {problem.image_needed for problem in read} == {True}


def test_a_letter_says_nothing_of_its_answer(problems):
    """Choices are shuffled: among questions with as many choices, every letter is right about as often."""
    train = [problem for problem in problems if problem.split == "train"]
    for number in (2, 3):
        letters = Counter(problem.answer for problem in train if len(problem.choices) == number)
        assert len(letters) == number
        share = sum(letters.values()) / number
        assert all(abs(count - share) < 5 * share**0.5 for count in letters.values()), letters
    yes = Counter(p.choices[p.answer] for p in train if set(p.choices) == {"yes", "no"})
    assert abs(yes["yes"] - yes["no"]) < 5 * sum(yes.values()) ** 0.5


def test_val_and_test_ask_every_skill_as_often(problems):
    for split in ("val", "test"):
        counts = Counter(problem.skill for problem in problems if problem.split == split)
        assert set(counts.values()) == {LEAST_SIZES[split] // len(counts)}


def test_no_wording_that_the_text_decides_is_in_two_splits(problems):
    """By hash of context and question, whatever the choices and their order, beside a decoration or not."""
    wordings: dict[str, set[str]] = {}
    for problem in problems:
        if problem.image_needed is not True:
            said = hashlib.sha256(f"{problem.hint}\n{problem.question}".encode()).hexdigest()
            wordings.setdefault(said, set()).add(problem.split)
    assert len(wordings) > 400
    assert all(len(splits) == 1 for splits in wordings.values())


def test_no_picture_is_in_two_splits(built, problems):
    """By hash of the pixels; the pictures of the alignment set count as train."""
    from PIL import Image

    pictures: dict[str, set[str]] = {}
    files = [(problem.image, problem.split) for problem in problems if problem.image]
    files += [(path, "train") for path in (built[0] / "alignment" / "images").iterdir()]
    for path, split in files:
        with Image.open(path) as picture:
            pictures.setdefault(hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest(), set()).add(split)
    assert len(pictures) > 5000
    assert all(len(splits) == 1 for splits in pictures.values())


def test_a_fact_of_the_test_is_in_train_in_other_words(problems):
    """What a thermometer measures has to be known from somewhere."""
    for skill in ("Know what an instrument measures", "Know words about money", "Know the meaning of a word"):
        facts = {
            split: {p.choices[p.answer] for p in problems if p.skill == skill and p.split == split} for split in LEAST
        }
        assert facts["test"] <= facts["train"] and len(facts["train"]) == 6


NAMES = digitsqa_questions.NAMES
LEAST_SIZES = digitsqa.SPLIT_SIZES
TRUTH = {  # what is right, worked out from the digits in the picture alone
    "read_digit": lambda draft: str(draft.digits[0]),
    "parity": lambda draft: ("even", "odd")[draft.digits[0] % 2],
    "side_digit": lambda draft: str(draft.digits["right?" in draft.question]),
    "middle_digit": lambda draft: str(draft.digits[1]),
    "spell": lambda draft: NAMES[draft.digits[0]],
    "rhyme": lambda draft: digitsqa_questions.RHYMES[draft.digits[0]],
    "calendar_leaf": lambda draft: str(draft.digits[0] + 1),
    "side_parity": lambda draft: ("even", "odd")[draft.digits[" right " in draft.question] % 2],
    "end_digit": lambda draft: str(draft.digits[2 if " third?" in draft.question else 0]),
    "votes": lambda draft: str(draft.digits["blue" in draft.question]),
    "house_number": lambda draft: "south" if draft.digits[0] % 2 else "north",
    "named_digit": lambda draft: "yes" if f"digit {NAMES[draft.digits[0]]}?" in draft.question else "no",
    "letters_in_word": lambda draft: str(len(NAMES[draft.digits[0]])),
}


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_the_answer_follows_from_the_digits_drawn(name):
    make = getattr(digitsqa_questions, name)
    for seed in range(60):
        draft = make(random.Random(seed))
        assert draft.answer == TRUTH[name](draft), draft
        assert draft.choices.count(draft.answer) == 1


def test_choices_are_distinct_and_the_answer_is_one_of_them(problems):
    for problem in problems:
        assert len(set(problem.choices)) == len(problem.choices) >= 2
        assert 0 <= problem.answer < len(problem.choices)


def test_the_example_that_the_study_asks_about_is_a_digit_of_test(built, problems):
    from llava_mistral.ground.recipe_files import read_yaml, recipe_file

    first = next(
        problem for problem in problems if problem.split == "test" and problem.skill == "Read a written digit"
    )
    assert (built[0] / "example.png").read_bytes() == Path(first.image).read_bytes()
    asked = [step["run"] for step in read_yaml(recipe_file("miniature/study"))["steps"] if "--ask" in step["run"]]
    assert len(asked) == 1 and '--ask {output}/digitsqa/example.png "Which digit is written?"' in asked[0]


def test_no_scan_serves_two_splits():
    """1,797 scans, all different, each in one split, every digit in each."""
    parts = {split: scans.by_label for split, scans in digitsqa.load_scans(seed=0).items()}
    ink = {split: {scan.tobytes() for label in labels for scan in labels[label]} for split, labels in parts.items()}
    assert sum(map(len, ink.values())) == 1797 == len(set.union(*ink.values()))
    assert all(len(labels[digit]) >= 15 for labels in parts.values() for digit in range(10))


def test_a_picture_shows_as_many_tiles_as_digits():
    scans = digitsqa.load_scans(seed=0)["test"]
    for count in (1, 2, 3):
        picture = scans.draw(random.Random(0), list(range(count)))
        assert (picture.mode, picture.size) == ("RGB", (16 + 48 * count, 64))
        assert picture.convert("L").getextrema()[0] < 80, "there is ink"


def alignment(folder: Path) -> list[dict]:
    return json.loads((folder / "alignment" / "alignment.json").read_text(encoding="utf-8"))


def test_the_alignment_set_is_read_as_llava_558k_is(built):
    from llava_mistral.data.conversations import read_rows

    rows = read_rows(built[0] / "alignment" / "alignment.json")
    assert len(rows) == len(alignment(built[0])) >= 3000
    words = Counter()
    for row in rows.select(range(0, len(rows), 97)):
        assert len(row["images"]) == 1 and row["images"][0].size[1] == 64
        words[row["completion"][0]["content"]] += 1
        assert "<image>" not in row["prompt"][0]["content"]
    assert len(words) > 10


def test_the_folder_is_read_as_scienceqa_is(built):
    from llava_mistral.data.conversations import read_rows

    rows = read_rows(built[0], split="test")
    splits = json.loads((built[0] / "pid_splits.json").read_text())
    assert rows["id"] == splits["test"]
    assert {len(images) for images in rows.select(range(60))["images"]} == {0, 1}


@pytest.fixture(scope="module")
def instructions(built):
    from llava_mistral.data.conversations import read_rows

    return {split: read_rows(built[0] / "instructions", split=split) for split in ("train", "test")}


def test_instructions_ask_every_question_by_letter_and_openly(instructions, problems):
    from llava_mistral.data.scienceqa import answer_text, question_text

    by_id = {problem.pid: problem for problem in problems}
    for split, rows in instructions.items():
        ids = rows["id"]
        assert len(ids) == 2 * sum(problem.split == split for problem in problems)
        texts = rows.select_columns(["id", "prompt", "completion", "task", "skill"])
        for row in texts.select(range(0, len(rows), 31)):
            problem, said = by_id[row["id"].removesuffix("-open")], row["completion"][0]["content"]
            if row["id"] == problem.pid:
                assert row["prompt"] == [{"role": "user", "content": question_text(problem)}]
                assert said == answer_text(problem) and row["skill"] == problem.skill
            else:
                assert "\nA. " not in row["prompt"][-1]["content"] and len(said) > 0 and row["task"] == "open answer"
            if split == "test" and row["id"] != problem.pid:
                assert said == problem.choices[problem.answer]


def test_instructions_hold_chats_and_descriptions(instructions):
    """Answers as figure, as word, yes and no, a short phrase; two turns; what is in the picture."""
    rows = instructions["train"].select_columns(["prompt", "completion"])
    said = {row["completion"][0]["content"] for row in rows}
    assert {"7", "seven", "yes", "no", "air pressure", "the digit seven"} <= said
    assert sum(len(row["prompt"]) == 3 for row in rows) > 300
    asked = Counter(row["prompt"][-1]["content"] for row in rows)
    assert asked["What is in this picture?"] > 50 and asked["Which digit is written?"] > 80


def test_a_letter_is_answered_only_where_letters_are_offered(instructions):
    for row in instructions["train"].select_columns(["prompt", "completion"]):
        asked, said = row["prompt"][-1]["content"], row["completion"][0]["content"]
        assert (said in tuple("ABCD")) == ("option's letter" in asked), row


def test_principles_keep_open_and_lettered_questions_whose_picture_is_needed(built):
    from llava_mistral.pruning.methods import by_principles
    from llava_mistral.pruning.principles import score
    from llava_mistral.pruning.samples import read_samples

    problems = read_samples(built[0] / "instructions").problems
    choice = by_principles(problems, score(problems), 1600, threshold=0.5, whole_coverage=True)
    truth = json.loads((built[0] / "problems.json").read_text())
    kept = [problems[i] for i in choice.picks]
    opened = [problem for problem in kept if problem.pid.endswith("-open")]
    assert 0.3 < len(opened) / len(kept) < 0.7
    needed = [truth[problem.pid.removesuffix("-open")]["image_needed"] for problem in kept]
    assert sum(map(bool, needed)) > 0.9 * len(needed)


def digest(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes(small, tmp_path):
    first, again, other = tmp_path / "first", tmp_path / "again", tmp_path / "other"
    for folder, seed in ((first, 5), (again, 5), (other, 6)):
        said = run_here(digitsqa.main, "--output", folder, "--seed", seed).stdout
        assert said == f"{folder}: 90 train, 26 val, 26 test, 30 alignment, 180 instructions\n"
    assert digest(first) == digest(again) != digest(other) and len(digest(first)) > 100


def test_an_occupied_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = run_light("llava_mistral.miniature.digitsqa", "--output", tmp_path, code=2)
    assert "holds something else (no problems.json in it); name an empty or a new folder" in done.error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
