"""Malformed ScienceQA, 18 cases through the verbs that read it: refused in one line with record and field, or taken.

The legal neighbour, the nearest problem that is right, is pruned and scored.
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.commands.evaluate import main as evaluate_scienceqa
from llava_mistral.commands.prune import main as prune_dataset
from llava_mistral.commands.train import main as train_sft
from tests.support.malformed import cases, hollow, read_by_libraries
from tests.support.running import Done, run_here
from tests.support.small_problems import PROBLEM


class World:
    """A ScienceQA folder, predictions to score, a base checkpoint that is only looked at, and the three verbs."""

    def __init__(self, folder: Path):
        self.folder, self.data, self.out = folder, folder / "data", folder / "out"
        self.data.mkdir()
        hollow(folder / "base")
        self.problems, self.splits = self.data / "problems.json", self.data / "pid_splits.json"

    def write(self, problems, splits=None) -> None:
        self.problems.write_text(json.dumps(problems))
        self.splits.unlink(missing_ok=True)
        if splits is not None:
            self.splits.write_text(json.dumps(splits))

    def prune(self, code: int = 0) -> Done:
        return run_here(prune_dataset, *("--dataset", self.data, "--method", "full", "--output", self.out), code=code)

    def train(self, code: int = 0) -> Done:
        stage = ("--stage", "finetune", "--use_cpu", "True", "--model_name_or_path", self.folder / "base")
        return run_here(train_sft, *stage, "--dataset", self.data, "--output_dir", self.out, code=code)

    def score(self, code: int = 0) -> Done:
        answers = self.folder / "answers.json"
        answers.write_text(json.dumps({"results": {"7": 0, "8": 0}}))
        given = ("--dataset", self.data, "--split", "train", "--predictions", answers, "--allow_missing")
        return run_here(evaluate_scienceqa, *given, "--output", self.folder / "scores", code=code)

    def refusals(self) -> list[str]:
        """The line of each verb; that nothing was written is looked at."""
        before = {*self.folder.rglob("*"), self.folder / "answers.json"}
        lines = [verb(code=2).error for verb in (self.prune, self.train, self.score)]
        assert set(self.folder.rglob("*")) == before
        return lines

    def taken(self) -> tuple[int, int]:
        """How many problems were pruned and scored; their rows hold right answers only."""
        import datasets

        self.prune()
        rows = datasets.Dataset.from_parquet(str(next((self.out / "data").glob("*.parquet"))))
        assert all(turns[0]["content"] in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for turns in rows["completion"])
        self.score()
        return len(rows), json.loads((self.folder / "scores" / "summary.json").read_text())["ALL"]["n"]


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "world").mkdir()
    return World(tmp_path / "world")


FIELDS = {  # what is changed, its legal neighbour, the field, what is said
    "B3 missing": ({"choices": ...}, {}, "choices", "is not a list of texts; give two to 26 choices"),
    "B3 null": ({"choices": None}, {}, "choices", "is not a list of texts"),
    "B3 a number in it": ({"choices": ["one", 2]}, {"choices": ["one", "2"]}, "choices", "is not a list of texts"),
    "B4 one": ({"choices": ["one"]}, {"choices": ["one", "two"]}, "choices", "has 1 choices; give two to 26"),
    "B5 none": ({"choices": []}, {"choices": ["one", "two"]}, "choices", "has 0 choices"),
    "B6 one too far": (
        {"answer": 3},
        {"answer": 2},
        "answer",
        "out of range for 3 choices; give an index from 0 to 2",
    ),
    "B6 far": ({"answer": 10**4000}, {"answer": 2}, "answer", "is out of range for 3 choices"),
    "B7 below": ({"answer": -1}, {"answer": 0}, "answer", "answer -1 is out of range for 3 choices"),
    "B8 digit": ({"answer": "1"}, {"answer": 1}, "answer", "'1' is not an integer; give an index from 0 to 2"),
    "B8 book": ({"answer": "1" * 10**6}, {"answer": 1}, "answer", "'111"),
    "B9 true": ({"answer": True}, {"answer": 1}, "answer", "True is not an integer"),
    "B10 float": ({"answer": 1.0}, {"answer": 1}, "answer", "1.0 is not an integer"),
    "B11 empty": ({"question": ""}, {"question": "?"}, "question", "is missing or empty"),
    "B11 blank": ({"question": " \n"}, {"question": " ?\n"}, "question", "is missing or empty"),
    "B12 dev": ({"split": "dev"}, {"split": "train"}, "split", "'dev' is unknown; use train, val or test"),
    "B12 escapes": ({"split": "\x1b[2J" * 9999}, {"split": "train"}, "split", r"\x1b[2J"),
    "B17 27": (
        {"choices": [str(number) for number in range(27)]},
        {"choices": [str(number) for number in range(26)], "answer": 25},
        "choices",
        "has 27 choices; give two to 26",
    ),
    "B18 hint": ({"hint": 5}, {"hint": None}, "hint", "is int, not text; give a text or null"),
    "B18 lecture": ({"lecture": ["a"]}, {"lecture": None}, "lecture", "is list, not text; give a text or null"),
}


def problem(**change) -> dict:
    return {key: value for key, value in (PROBLEM | change).items() if value is not ...}


@pytest.mark.parametrize(("change", "neighbour", "field", "said"), cases(FIELDS))
def test_a_malformed_field_is_named_by_every_verb(world, by_itself, change, neighbour, field, said):
    world.write({"8": PROBLEM, "7": problem(**change)})
    read_by_libraries(by_itself, world.problems, world.folder / "theirs")
    for line in world.refusals():
        assert f"{world.problems}: record 7: field {field}: " in line and said in line
        assert len(line) < 400 and line.isprintable()
    world.write({"8": PROBLEM, "7": problem(**neighbour)})
    assert world.taken() == (2, 2)


SHAPES = {  # the two files, their legal neighbours, which of them is named, what is said
    "B1 list": (([PROBLEM], None), ({"7": PROBLEM}, None), "problems", "is a list; give an object of problems by"),
    "B1 empty list": (([], None), ({"7": PROBLEM}, None), "problems", "is a list; give an object of problems by"),
    "B1 empty object": (({}, None), ({"7": PROBLEM}, None), "problems", "field split: holds no problem of split"),
    "B1 null inside": (({"7": None}, None), ({"7": PROBLEM}, None), "problems", "record 7: is not an object"),
    "B2 letters": (({"x7": PROBLEM}, None), ({"7": PROBLEM}, None), "problems", "key 'x7' is not a number; key the"),
    "B2 path": (({"../7": PROBLEM}, None), ({"7": PROBLEM}, None), "problems", "key '../7' is not a number"),
    "B2 minus": (({"-7": PROBLEM}, None), ({"7": PROBLEM}, None), "problems", "key '-7' is not a number"),
    "B2 other digits": (({"٧": PROBLEM}, None), ({"7": PROBLEM}, None), "problems", "is not a number"),
    "B13 one": (
        ({"7": PROBLEM, "8": PROBLEM}, {"train": ["7", "8", "9"]}),
        ({"7": PROBLEM, "8": PROBLEM}, {"train": ["7", "8"]}),
        "splits",
        "field train: names 1 ids that are absent from",
    ),
    "B14 train and test": (
        ({"7": PROBLEM}, {"train": ["7"], "test": ["7"]}),
        ({"7": PROBLEM}, {"train": ["7"], "minitrain": ["7"]}),
        "splits",
        "record 7: is in both train and test; keep it in one of them",
    ),
    "B14 against its own": (
        ({"7": PROBLEM, "8": problem(split="test")}, {"train": ["7", "8"]}),
        ({"7": PROBLEM, "8": PROBLEM}, {"train": ["7", "8"]}),
        "problems",
        "record 8: field split: 'test' contradicts pid_splits (train); make the two agree",
    ),
}


@pytest.mark.parametrize(("bad", "good", "named", "said"), cases(SHAPES))
def test_files_of_another_shape_are_refused_by_every_verb(world, by_itself, bad, good, named, said):
    world.write(*bad)
    read_by_libraries(by_itself, world.problems, world.folder / "theirs")
    assert all(f"{getattr(world, named)}: " in line and said in line for line in world.refusals())
    world.write(*good)
    count = len(good[0])
    assert world.taken() == (count, count)


@pytest.mark.case("B15", "refused")
@pytest.mark.case("B15", "accepted")
def test_a_picture_that_is_named_but_absent_is_refused(world):
    world.write({"7": problem(image="image.png")})
    picture = world.data / "images" / "train" / "7" / "image.png"
    picture.parent.mkdir(parents=True)
    for line in world.refusals():
        assert f"{world.problems}: record 7: field image: {picture} does not exist; fetch the picture or drop" in line
    Image.new("RGB", (4, 4)).save(picture)
    assert world.taken() == (1, 1)


@pytest.mark.case("B16", "accepted")
def test_equal_choices_are_warned_of_and_taken(world):
    world.write({"7": problem(choices=["same", "same"]), "8": PROBLEM})
    assert world.prune().error == f"{world.problems}: 1 problems have two equal choices (first: 7)"
    assert world.taken() == (2, 2)


def test_a_problem_without_an_answer_is_named_with_its_file(world):
    world.write({"8": PROBLEM, "7": problem(answer=None)})
    assert all(
        f"{world.data}" in line and "record 7: field answer: has no answer" in line for line in world.refusals()
    )


def test_an_extract_is_said_and_read(world):
    """Most ids of the split are absent: somebody cut the file on purpose."""
    world.write({"7": PROBLEM}, {"train": ["7", "8", "9"]})
    assert "is an extract: 2 of the 3 ids" in world.prune().error
    assert world.taken() == (1, 1)
