"""Seeded mutations of the JSON, weights and pictures that people bring: read as what they say, or refused in one line.

A campaign runs in a process of its own, whose peak memory is then its own. To see one mutation again:

    python -m tests.test_fuzzed_records llava 1 --first 1234
"""

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mutations import mutated
from tests.support.running import run_apart

TRIES = 2000
SLOWEST, LARGEST = 200, 1_000  # of one mutation, times what one takes that is read whole; MB of the process

ASK, MORE = "<image>\nWhat is it?", "And what colour?"
RECORDS = [
    {"id": "1", "image": "red.png", "conversations": [("human", ASK), ("gpt", "A square.")]},
    {
        "id": 22,
        "image": "red.png",
        "conversations": [("human", ASK), ("gpt", "A"), ("human", MORE), ("gpt", "Red \\")],
    },
    {"id": "text", "conversations": [("human", "What is 1 + 1?\n\u00e9 \U0001f600"), ("gpt", '2 "]},{')]},
    {"id": "pair", "image": ["red.png", "a/b.png"], "conversations": [("human", f"{ASK}<image>"), ("gpt", "Both.")]},
]
for _record in RECORDS:
    _record["conversations"] = [{"from": who, "value": said} for who, said in _record["conversations"]]
PROBLEM = {
    "question": "Which?",
    "choices": ["one", "two", "three"],
    "answer": 1,
    "hint": "Look  closely.",
    "grade": "grade2",
}
PROBLEM |= {
    "image": "image.png",
    "subject": "s",
    "skill": "Count",
    "lecture": "",
    "solution": "It is.",
    "split": "train",
}
PROBLEMS = {str(pid): PROBLEM | {"image": "image.png" if pid < 3 else None} for pid in range(1, 5)}
SPLITS = {"train": ["1", "2", "3", "4"], "test": [], "minitrain": ["1"]}
QUESTION = "<image>\nContext: A poem.\nWhich?\nA. Jan:\nI go.\nB. no"
CQM = [
    {
        "id": pid,
        "image": "red.png",
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "B"}],
    }
    for pid in ("1", "2")
]


def read_llava(folder: Path, rng: random.Random) -> None:
    """A row a record, with as many pictures as its questions have tokens; what was left out is listed."""
    from llava_mistral.data.bad_samples import BadSamples
    from llava_mistral.data.conversations import read_rows

    path = folder / "data.json"
    path.write_bytes(mutated(RECORDS, rng))
    bad = BadSamples(rng.choice(["error", "skip"]), 1.0)
    rows = read_rows(path, bad=bad)
    records = json.loads(path.read_bytes().decode("utf-8-sig"))
    left_out = {one["record"] for one in bad.listed}
    turns = [record["conversations"] for index, record in enumerate(records) if index not in left_out]
    assert len(rows) == len(turns) and len(set(rows["id"])) == len(rows)
    table = rows.with_format("arrow")[:]
    assert table["images"].null_count == 0
    for own, images, prompt, completion in zip(
        turns, *(table[name].to_pylist() for name in ("images", "prompt", "completion")), strict=True
    ):
        said = [turn["value"] for turn in own if turn["from"] in ("human", "user")]
        assert len(images) == sum(text.count("<image>") for text in said)
        made = [*prompt, *completion]
        named = sum(turn["content"].count("<image>") for turn in made)
        assert named in (0, len(images)) and (named or "<image>" not in "".join(said[1:]))
        system = made[0]["role"] == "system"
        assert [turn["role"] for turn in made[system:]] == ["user", "assistant"] * (len(made) // 2)
        assert all(turn["content"].strip() for turn in made if turn["role"] == "assistant")


def read_problems(folder: Path, rng: random.Random) -> None:
    """Problems whose answer is one of their 2 to 26 choices, as many as the file has, with pictures that are there."""
    from llava_mistral.data import scienceqa

    problems, splits = (PROBLEMS, mutated(SPLITS, rng)) if rng.random() < 0.2 else (None, json.dumps(SPLITS).encode())
    text = json.dumps(problems).encode() if problems else mutated(PROBLEMS, rng)
    (folder / "problems.json").write_bytes(text)
    (folder / "pid_splits.json").write_bytes(splits)
    read = scienceqa.read_problems(folder)
    records = json.loads(text.decode("utf-8-sig"))
    assert [problem.pid for problem in read] == list(records)
    for problem in read:
        assert re.fullmatch("[0-9]+", problem.pid) and problem.question.strip()
        assert problem.split in (None, "train", "val", "test") and problem.question == records[problem.pid]["question"]
        check_problem(problem)


def read_cqm(folder: Path, rng: random.Random) -> None:
    from llava_mistral.data import scienceqa

    path = folder / "llava_val_CQM-A.json"
    path.write_bytes(mutated(CQM, rng))
    for problem in scienceqa.read_problems(path):
        check_problem(problem)


def check_problem(problem) -> None:
    from llava_mistral.data.scienceqa import answer_text, question_text

    assert 2 <= len(problem.choices) <= 26 and all(isinstance(choice, str) for choice in problem.choices)
    assert problem.answer is None or problem.choices[problem.answer]
    assert problem.answer is None or answer_text(problem) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[problem.answer]
    assert problem.has_image == (problem.image is not None) and (not problem.has_image or problem.image.is_file())
    assert question_text(problem).count("\n") >= len(problem.choices)


READERS: dict[str, Callable[[Path, random.Random], None]] = {
    "llava": read_llava,
    "problems": read_problems,
    "cqm": read_cqm,
}


def campaign(kind: str, tries: int, first: int = 0) -> dict:
    """Try mutations `first` … and count what became of them."""
    import datasets
    from PIL import Image

    from llava_mistral.ground.bad_input import BadInput

    counts, seconds = {"read": 0, "refused": 0, "wrong": []}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        for place in ("red.png", "a/b.png", "train/1/image.png", "train/2/image.png", "val/red.png"):
            (folder / "images" / place).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), "red").save(folder / "images" / place)
        for number in range(first, first + tries):
            started = time.process_time()
            try:
                READERS[kind](folder, random.Random(f"{kind} {number}"))
                counts["read"] += 1
            except BadInput as error:
                counts["refused"] += 1
                line = str(error)
                if not (line.isprintable() and name in line and "; " in line and len(line) < 2000):
                    counts["wrong"].append(f"{number}: the line is {line[:300]!r}")
            except BaseException as error:
                counts["wrong"].append(f"{number}: {type(error).__name__}: {error}"[:300])
            seconds.append(time.process_time() - started)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    slowest = max(seconds[1:]) / statistics.quantiles(seconds, n=10)[-1]  # the first one loads libraries
    return counts | {"slowest": slowest, "megabytes": int(peak) // 1000}


@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        pytest.param("llava", TRIES, marks=[pytest.mark.case("Z1", "survived"), pytest.mark.slow]),
        pytest.param("problems", TRIES, marks=[pytest.mark.case("Z2", "survived"), pytest.mark.slow]),
        *((kind, TRIES // 10) for kind in ("llava", "problems", "cqm")),
    ],
)
def test_mutated_files_are_read_for_what_they_say_or_refused(kind, tries, record_property):
    counts = json.loads(run_apart("-m", "tests.test_fuzzed_records", kind, tries, timeout=600).stdout)
    record_property("tried", tries)
    assert not counts["wrong"]
    assert counts["slowest"] < SLOWEST and counts["megabytes"] < LARGEST
    assert counts["read"] + counts["refused"] == tries and min(counts["read"], counts["refused"]) > tries / 10


@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        pytest.param("weights", 1000, marks=[pytest.mark.case("Z3", "survived"), pytest.mark.slow]),
        pytest.param("pictures", 1000, marks=[pytest.mark.case("Z4", "survived"), pytest.mark.slow]),
        ("weights", 100),
        ("pictures", 100),
    ],
)
def test_mutations_are_opened_or_refused_in_little_time_and_memory(kind, tries, stage0, tmp_path, record_property):
    given = [str(make_copy(stage0, tmp_path))] if kind == "weights" else []
    code = f"import sys; from tests.support.fuzzed_files import survey_{kind} as survey\n"
    code += "survey(int(sys.argv[1]), *sys.argv[2:])"
    found = json.loads(run_apart("-c", code, tries, *given).stdout)
    assert found["tried"] == tries and tries / 20 < found["opened"] < tries * 0.95, found
    assert found["slowest"] < 100 and found["peak"] < 1_000_000, "times an intact file; kB"
    record_property("tried", found["tried"])


def make_copy(folder: Path, target: Path) -> Path:
    from tests.support.malformed import copy, nothing

    return copy(folder, target / "checkpoint", nothing)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=READERS)
    parser.add_argument("tries", type=int)
    parser.add_argument("--first", type=int, default=0)
    print(json.dumps(campaign(**vars(parser.parse_args()))))
