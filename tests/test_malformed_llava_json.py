"""Malformed LLaVA JSON, 22 cases through the verbs that read it: refused in one line, or left out, listed and counted.

The legal neighbour, the nearest file that is right, becomes as many samples as it has records.
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.commands.prune import main as prune_dataset
from llava_mistral.commands.train import main as train_sft
from llava_mistral.data.conversations import read_rows
from llava_mistral.ground.bad_input import BadInput
from tests.support.malformed import ASK, GOOD, TELL, cases, hollow, read_by_libraries
from tests.support.running import Done, run_here


def text(*records) -> bytes:
    return json.dumps(list(records)).encode()


def other(**change) -> dict:
    return {key: value for key, value in (GOOD | {"id": "other"} | change).items() if value is not ...}


def talk(*turns) -> dict:
    return other(conversations=list(turns))


class World:
    """A folder with one good picture, a base checkpoint that is only looked at, and the two verbs."""

    def __init__(self, folder: Path):
        self.folder, self.data, self.out = folder, folder / "data.json", folder / "out"
        (folder / "images").mkdir()
        Image.new("RGB", (4, 4), "red").save(folder / "images" / "red.png")
        hollow(folder / "base")

    def write(self, content: bytes) -> None:
        self.data.write_bytes(content)

    def prune(self, *flags, code: int = 0) -> Done:
        return run_here(
            prune_dataset, *("--dataset", self.data, "--method", "full", "--output", self.out), *flags, code=code
        )

    def train(self, *flags, code: int = 0) -> Done:
        stage = ("--stage", "finetune", "--use_cpu", "True", "--model_name_or_path", self.folder / "base")
        return run_here(train_sft, *stage, "--dataset", self.data, "--output_dir", self.out, *flags, code=code)

    def refusals(self, *flags) -> list[str]:
        """The line of each verb; that nothing was written is looked at."""
        before = sorted(self.folder.rglob("*"))
        lines = [verb(*flags, code=2).error for verb in (self.prune, self.train)]
        assert sorted(self.folder.rglob("*")) == before
        return lines

    def kept(self, *flags) -> dict:
        """The manifest of the pruned set."""
        self.prune(*flags)
        return json.loads((self.out / "manifest.json").read_text())


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "world").mkdir()
    return World(tmp_path / "world")


LIST = text(GOOD)
FILES = {  # the file, its legal neighbour, what is said
    "A1 empty": (b"", LIST, "is empty"),
    "A1 spaces": (b" \n" * 3000, b" \n" * 3000 + LIST + b"\n ", "is empty"),
    "A2 cut": (LIST[:-20], LIST, "is not valid JSON at line 1"),
    "A2 cut after a record": (LIST[:-1], LIST, "is not valid JSON at line 1"),
    "A2 more after it": (LIST + b"]", LIST, "there is more after the end of the list"),
    "A2 no comma": (LIST[:-1] + LIST[1:], text(GOOD, GOOD | {"id": "b"}), "expected ','"),
    "A3 object": (LIST[1:-1], LIST, "'id' is not a number; key the problems by their numeric id, or put LLaVA's"),
    "A3 empty object": (b"{}", LIST, "; "),
    "A4 in a text": (LIST.replace(b"red square", b"r\xffd square"), LIST, "is not UTF-8"),
    "A6 UTF-16": (LIST.decode().encode("utf-16"), LIST, "is not UTF-8"),
    "A7 id": (LIST.replace(b'"id"', b'"id": "x", "id"'), LIST, "record 0: the key 'id' is written twice"),
    "A7 value": (LIST.replace(b'"value"', b'"value": "", "value"'), LIST, "the key 'value' is written twice"),
    "A8 NaN": (LIST.replace(b'"good"', b"NaN"), LIST, "record 0: NaN is not a JSON value"),
    "A8 Infinity": (LIST.replace(b'"good"', b"-Infinity"), LIST, "record 0: -Infinity is not a JSON value"),
    "A9 id": (
        b'[{"id": ' + b"[" * 10_000 + b"]" * 10_000 + b"}]",
        LIST.replace(b'"image"', b'"more": ' + b"[" * 90 + b"]" * 90 + b', "image"'),
        "record 0: is nested too deeply",
    ),
    "A10 empty list": (b"[]", LIST, "is not a list of records, or an empty one; use LLaVA's form"),
    "A11 number": (b"[3]", LIST, "record 0: is not an object; use LLaVA's form"),
    "A11 null": (LIST[:-1] + b", null]", LIST, "record 1: is not an object; use LLaVA's form"),
    "A12 missing": (text(GOOD, other(id=...)), text(GOOD, other()), "record 1: field id: is missing"),
    "A12 boolean": (
        text(GOOD, other(id=True)),
        text(GOOD, other(id=1)),
        "record 1: field id: is missing or is not text",
    ),
    "A15 narrator": (
        text(talk({"from": "narrator", "value": "Be brief."}, ASK, TELL)),
        text(talk({"from": "system", "value": "Be brief."}, ASK, TELL)),
        "record 0: field conversations: turn 0 is from 'narrator', not from human or user",
    ),
}


@pytest.mark.parametrize(("bad", "good", "said"), cases(FILES))
@pytest.mark.parametrize("mode", ["error", "skip"])
def test_a_file_of_another_form_is_refused_whatever_the_mode(world, by_itself, mode, bad, good, said):
    world.write(bad)
    if mode == "error":
        read_by_libraries(by_itself, world.data, world.folder / "theirs")
    for line in world.refusals("--on_bad_sample", mode, "--max_bad_samples", "1"):
        assert f"{world.data}: " in line and said in line
    world.write(good)
    manifest = world.kept("--on_bad_sample", mode)
    assert (manifest["size"], manifest["input"]["skipped"]) == (len(json.loads(good)), 0)


@pytest.mark.parametrize("place", ["id", "image", "conversations", "more"])
def test_where_python_gives_up_nobody_comes(world, place):
    """Python's reader and writer fail at some 1,000 levels, each at another; here both are refused long before."""
    for depth in (102, *range(960, 1010)):
        nested = b"[" * depth + b'"\\ud83d\\ude00"' + b"]" * depth
        world.write(text(GOOD | {place: "here"}).replace(b'"here"', nested))
        with pytest.raises(BadInput, match="record 0: is nested too deeply"):
            read_rows(world.data)


def test_half_a_character_is_refused_and_a_whole_one_accepted(world):
    world.write(LIST.replace(b"square", rb"\ud800"))
    assert all("record 0: holds half a character ('\\ud800')" in line for line in world.refusals())
    world.write(LIST.replace(b"square", rb"\ud83d\ude00"))
    assert world.kept()["size"] == 1


@pytest.mark.case("A5", "accepted")
def test_a_byte_order_mark_is_accepted(world, by_itself):
    world.write(b"\xef\xbb\xbf" + LIST)
    read_by_libraries(by_itself, world.data, world.folder / "theirs")
    assert world.kept()["size"] == 1


UNUSABLE = {  # the record, its legal neighbour, the field, what is said
    "A13 twice": (GOOD, other(), "id", "occurs twice"),
    "A14 missing": (other(conversations=...), other(), "conversations", "is missing"),
    "A14 empty": (talk(), other(), "conversations", "is missing"),
    "A16 gpt first": (talk(TELL, ASK), other(), "conversations", "turn 0 is from 'gpt', not from 'human'"),
    "A17 questions": (talk(ASK, ASK), talk(ASK, TELL), "conversations", "turn 1 is from 'human'"),
    "A18 null": (talk(ASK, TELL | {"value": None}), other(), "conversations", "turn 1 is not a text"),
    "A18 number": (talk(ASK | {"value": 5}, TELL), other(), "conversations", "turn 0 is not a text"),
    "A18 blank": (talk(ASK, TELL | {"value": " "}), other(), "conversations", "turn 1 is empty"),
    "A19 token alone": (other(image=...), other(), "conversations", "1 <image> tokens and 0 pictures"),
    "A20 picture alone": (talk(TELL | {"from": "human"}, TELL), other(), "conversations", "0 <image> tokens"),
    "A21 two tokens": (
        talk(ASK | {"value": "<image><image>?"}, TELL),
        other(image=["red.png", "red.png"], conversations=[ASK | {"value": "<image><image>?"}, TELL]),
        "conversations",
        "2 <image> tokens and 1 pictures",
    ),
    "A22 in the answer": (talk(ASK, TELL | {"value": "<image>"}), other(), "conversations", "turn 1 has 1"),
    "A22 10 MB": (
        talk(ASK, TELL | {"value": "x" * 10_000_000}),
        talk(ASK, TELL | {"value": "x" * 1_000_000}),
        "conversations",
        "1,000,000 characters",
    ),
}


@pytest.mark.parametrize(("record", "neighbour", "field", "said"), cases(UNUSABLE))
def test_an_unusable_record_is_refused_or_left_out_and_listed(world, by_itself, record, neighbour, field, said):
    world.write(text(GOOD, record))
    read_by_libraries(by_itself, world.data, world.folder / "theirs")
    for line in world.refusals():
        assert f"{world.data}: record 1: field {field}: " in line and said in line
    for line in world.refusals("--on_bad_sample", "skip", "--max_bad_samples", "0.49"):
        assert "1 of 2 samples are bad (50 %)" in line and line.endswith("raise --max_bad_samples")
    for _ in range(2):  # the second time from the cache, with the same list
        manifest = world.kept("--on_bad_sample", "skip", "--max_bad_samples", "0.5")
        assert (manifest["size"], manifest["input"]["skipped"]) == (1, 1)
        (one,) = json.loads((world.out / "skipped.json").read_text())
        assert (one["record"], one["field"], one["file"]) == (1, field, str(world.data)) and said in one["problem"]
    world.write(text(GOOD, neighbour))
    assert world.kept()["size"] == 2


def test_what_a_line_quotes_is_short_and_does_nothing_to_a_terminal(world):
    world.write(text(other(image="\x1b[2J" + "x" * 9)))
    assert all(r"images/\x1b[2Jxxx" in line and line.isprintable() for line in world.refusals())
    world.write(text(talk({"from": "\x1b]0;" * 9_000, "value": ""}, TELL)))
    assert all(len(line) < 1000 and line.isprintable() for line in world.refusals())
