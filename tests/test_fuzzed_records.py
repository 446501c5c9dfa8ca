"""Thousands of seeded mutations of the JSON that people bring: it is read as what it says, or refused in one line.

A campaign runs in a process of its own, whose peak memory is then its own. To see one mutation again:

    python -m tests.test_fuzzed_records llava 1 --first 1234
"""

import argparse
import json
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TRIES = 2000
SLOWEST, LARGEST = 2, 1_000  # seconds of one mutation; MB of the process

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

# What is put in the place of a value: wrong types, wrong numbers, texts that mean something somewhere.
VALUES = [None, True, False, 0, -1, 1.0, 1.5, 10**30, 10**4000, -(10**18), 1e308, [], {}, [None], {"a": 1}, [[[[]]]]]
VALUES += [
    "",
    " ",
    "\n",
    "1",
    "-1",
    "x",
    "../..",
    "/etc/hostname",
    "red.png\x00",
    "\u00e9" * 300,
    "\u202e",
    "\ufeff",
    "\x00",
]
VALUES += [
    "\u2028",
    "\x1b[2J",
    "a\u0301",
    "\U0001f600",
    "\u0661",
    "<image>",
    "<image><image>",
    "</s>",
    "x" * 1_100_000,
    "NaN",
]
TEXTS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"\\ud800",
    b"\\u0000",
    b"\xff",
    b"\xed\xa0\x80",
]
TEXTS += [b"\xef\xbb\xbf", b"\x00", b"//", b"true", b" \n" * 3000, b"[" * 3000, b'{"a":' * 3000, b"9" * 5000]


def places(value) -> list[tuple[dict | list, str | int]]:
    """Every (container, key) below a JSON value."""
    found = []
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def change_structure(value, rng: random.Random):
    """Return a copy with one part replaced, dropped, renamed, retyped, swapped, repeated or wrapped."""
    value = json.loads(json.dumps(value))
    node, key = rng.choice(found := places(value))
    how = rng.randrange(8)
    if how <= 1:
        node[key] = rng.choice(VALUES)
    elif how == 2:
        del node[key]
    elif how == 3 and isinstance(node, dict):
        node[rng.choice([key.upper(), f"{key} ", key[:-1], f"{key}s", "\u0430" + key[1:], "", "answer"])] = node.pop(
            key
        )
    elif how == 4:
        node[key] = rng.choice([str, lambda part: [part], lambda part: {"value": part}, json.dumps])(node[key])
    elif how == 5:
        other, place = rng.choice(found)
        node[key], other[place] = json.loads(json.dumps([other[place], node[key]]))
    elif how == 6 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), json.loads(json.dumps(node[key])))
    else:
        for _ in range(rng.choice([1, 3, 400])):
            node[key] = [node[key]]
    return value


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return a copy with a bit flipped, a span dropped, repeated or copied, a text put in, or in another coding."""
    data = bytearray(data)
    at, length = rng.randrange(len(data)), rng.choice([1, 2, 8, 60])
    how = rng.randrange(7)
    if how == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        del data[at : at + length]
    elif how == 2:
        data[at:at] = data[at : at + length]
    elif how == 3:
        there = rng.randrange(len(data))
        data[there : there + length] = data[at : at + length]
    elif how == 4:
        data[at : at + rng.randrange(3)] = rng.choice(TEXTS)
    elif how == 5:
        data[at] = rng.randrange(256)
    elif rng.random() < 0.2:
        data = bytearray(
            data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-8-sig", "latin-1"]), "replace")
        )
    return bytes(data)


def mutated(whole, rng: random.Random) -> bytes:
    value = whole
    changes = rng.choice([(1, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1)])
    for _ in range(changes[0]):
        value = change_structure(value, rng) if value else value
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1])).encode()
    for _ in range(changes[1]):
        text = change_bytes(text, rng) if text else text
    return text


def read_llava(folder: Path, rng: random.Random) -> None:
    """Rows of one answer each, with as many pictures as the record has tokens; what was left out is listed."""
    from processing.bad_samples import BadSamples
    from processing.conversations import read_rows

    path = folder / "data.json"
    path.write_bytes(mutated(RECORDS, rng))
    bad = BadSamples(rng.choice(["error", "skip"]), 1.0)
    rows = read_rows(path, bad=bad)
    records = json.loads(path.read_bytes().decode("utf-8-sig"))
    left_out = {one["record"] for one in bad.listed}
    turns = [record["conversations"] for index, record in enumerate(records) if index not in left_out]
    assert len(rows) == sum(len(own) // 2 for own in turns) and len(set(rows["id"])) == len(rows)
    tokens = [own[0]["value"].count("<image>") for own in turns for _ in range(len(own) // 2)]
    table = rows.with_format("arrow")[:]
    assert [len(images) for images in table["images"].to_pylist()] == tokens
    for prompt, completion in zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True):
        said = [turn["content"] for turn in (*prompt, *completion)]
        roles = [turn["role"] for turn in (*prompt, *completion)]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and not any("<image>" in text for text in said)
        assert completion[0]["content"].strip()


def read_problems(folder: Path, rng: random.Random) -> None:
    """Problems whose answer is one of their 2 to 26 choices, as many as the file has, with pictures that are there."""
    from processing import scienceqa

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
    from processing import scienceqa

    path = folder / "llava_val_CQM-A.json"
    path.write_bytes(mutated(CQM, rng))
    for problem in scienceqa.read_problems(path):
        check_problem(problem)


def check_problem(problem) -> None:
    from processing.scienceqa import answer_text, question_text

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
    """Try mutations `first` … and tell what became of them."""
    import datasets
    from PIL import Image

    from bad_input import BadInput

    told = {"read": 0, "refused": 0, "slowest": 0.0, "wrong": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        for place in ("red.png", "a/b.png", "train/1/image.png", "train/2/image.png", "val/red.png"):
            (folder / "images" / place).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), "red").save(folder / "images" / place)
        for number in range(first, first + tries):
            started = time.monotonic()
            try:
                READERS[kind](folder, random.Random(f"{kind} {number}"))
                told["read"] += 1
            except BadInput as error:
                told["refused"] += 1
                line = str(error)
                if not (line.isprintable() and name in line and "; " in line and len(line) < 2000):
                    told["wrong"].append(f"{number}: the line is {line[:300]!r}")
            except BaseException as error:
                told["wrong"].append(f"{number}: {type(error).__name__}: {error}"[:300])
            told["slowest"] = max(told["slowest"], time.monotonic() - started)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return told | {"megabytes": int(peak) // 1000}


@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        pytest.param("llava", TRIES, marks=[pytest.mark.case("Z1", "survived"), pytest.mark.slow]),
        pytest.param("problems", TRIES, marks=[pytest.mark.case("Z2", "survived"), pytest.mark.slow]),
        *((kind, TRIES // 10) for kind in ("llava", "problems", "cqm")),
    ],
)
def test_mutated_files_are_read_for_what_they_say_or_refused(kind, tries, record_property):
    from tests.running import run_apart

    told = json.loads(run_apart("-m", "tests.test_fuzzed_records", kind, tries, timeout=600).stdout)
    record_property("tried", tries)
    assert not told["wrong"]
    assert told["slowest"] < SLOWEST and told["megabytes"] < LARGEST
    assert told["read"] + told["refused"] == tries and min(told["read"], told["refused"]) > tries / 10


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=READERS)
    parser.add_argument("tries", type=int)
    parser.add_argument("--first", type=int, default=0)
    print(json.dumps(campaign(**vars(parser.parse_args()))))
