"""Verbs that are killed: a reader finds the old output or the new one, and the same command ends in the same bytes."""

import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.small_problems import save_problems
from tests.warm_process import Ended, WarmProcess

pytestmark = pytest.mark.case("K6", "survived")
OUTPUT = object()
READING = re.compile(r"^open .* rb?$")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Verb:
    """A command that writes `place/out`, where `before` left another output of it already."""

    warm: WarmProcess
    command: list
    place: Path
    before: Path | None

    @property
    def output(self) -> Path:
        return self.place / "out"

    def run(self, code: int = 0, **kill) -> Ended:
        ended = self.warm.run([self.output if word is OUTPUT else word for word in self.command], self.place, **kill)
        assert ended.code == code or (kill and ended.code == 0), ended
        return ended

    def starts_over(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        if self.before:
            shutil.copytree(self.before, self.output)


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> Path:
    """24 problems, and the answers that somebody gave to them, twice."""
    folder = save_problems(tmp_path_factory.mktemp("problems") / "data")
    for name, answer in (("first", 0), ("second", 1)):
        (folder / f"{name}.json").write_text(json.dumps({"results": {str(pid): answer for pid in range(24)}}))
    return folder


@pytest.fixture(scope="module")
def commands(problems, stage0, vision_folder, mistral_folder) -> dict[str, tuple[list, list | None]]:
    """Name -> the command, and one whose output it takes the place of."""
    to = ["--output", OUTPUT]
    build = ["build_checkpoint.py", *to, "--vision", vision_folder, "--llm", mistral_folder, "--seed"]
    prune = ["prune_dataset.py", *to, "--dataset", problems, "--method", "principles", "--llava_json", "--size"]
    convert = ["convert_checkpoint.py", stage0, OUTPUT, "--max_shard_size", "40KB", "--to"]
    evaluate = ["evaluate_scienceqa.py", *to, "--dataset", problems, "--split", "train"]
    score = [*evaluate, "--predictions"]
    ask = [
        *evaluate,
        "--model",
        stage0,
        "--device",
        "cpu",
        "--images",
        "real",
        "blank",
        "--batch_size",
        "8",
        "--max_new_tokens",
        "2",
    ]
    return {
        "prune": ([*prune, "7"], [*prune, "5"]),
        "convert": ([*convert, "llava-hf"], [*convert, "original"]),
        "build": ([*build, "0"], [*build, "1"]),
        "score": ([*score, problems / "first.json"], [*score, problems / "second.json"]),
        "ask": (ask, None),
    }


@pytest.fixture(params=["prune", "convert", "build", "score", "ask"])
def verb(request, warm, commands, tmp_path) -> Verb:
    command, other = commands[request.param]
    if other is None:
        return Verb(warm, command, tmp_path / "place", None)
    before = Verb(warm, other, tmp_path / "before", None)
    before.starts_over()
    before.run()
    return Verb(warm, command, tmp_path / "place", before.output)


def check(verb: Verb, whole: dict[str, bytes], moment: object) -> None:
    """Nothing is mixed after a kill, and the same command ends where the uninterrupted one did, with nothing left."""
    found = contents(verb.output) if verb.output.exists() else {}
    found = {name: content for name, content in found.items() if ".partial" not in name or verb.before}
    if verb.before:
        assert found in (contents(verb.before), whole), moment
    else:
        assert "summary.json" not in found or {**whole, **found} == whole, moment
        assert all(whole[name].startswith(whole_lines(found[name])) for name in found if name.endswith("jsonl")), (
            moment
        )
    verb.run()
    assert contents(verb.output) == whole, moment
    assert [path.name for path in verb.place.iterdir()] == ["out"], moment


def whole_lines(journal: bytes) -> bytes:
    return journal[: journal.rfind(b"\n") + 1]


def test_a_kill_at_each_third_change_of_a_file_leaves_the_old_output_or_the_new(verb, record_property):
    verb.starts_over()
    events = verb.run().events
    whole = contents(verb.output)
    assert not verb.before or whole.keys() and whole != contents(verb.before)
    moments = [index for index, event in enumerate(events) if not READING.match(event)][::3]
    for index in moments:
        verb.starts_over()
        assert verb.run(-9, at=".", nth=index + 1).code == -9, events[index]
        check(verb, whole, events[index])
    assert len(moments) > 3
    record_property("tried", len(moments))


def test_two_kills_in_a_row_at_any_moment_leave_the_old_output_or_the_new(verb, record_property):
    verb.starts_over()
    seconds, kills, moments = verb.run().seconds, 0, random.Random(6)
    whole = contents(verb.output)
    for number in range(4):
        verb.starts_over()
        for _ in range(2):
            kills += verb.run(-9, after=moments.uniform(0, seconds)).code == -9
        check(verb, whole, number)
    assert kills > 4, "most of the moments came"
    record_property("tried", kills)
