"""Verbs that are killed: a reader finds the old output or the new one, and the same command ends in the same bytes."""

import random
import re

import pytest

from tests.support.verb_outputs import Verb, contents, make_commands, make_verb

pytestmark = pytest.mark.case("K6", "survived")
READING = re.compile(r"^open .* rb?$")


@pytest.fixture(scope="module")
def commands(tmp_path_factory, stage0, vision_folder, mistral_folder):
    return make_commands(tmp_path_factory.mktemp("problems"), stage0, vision_folder, mistral_folder)


@pytest.fixture(params=["prune", "convert", "build", "score", "ask"])
def verb(request, warm, commands, tmp_path) -> Verb:
    return make_verb(warm, commands[request.param], tmp_path / "place", tmp_path / "older")


def check(verb: Verb, whole: dict[str, bytes], moment: object) -> None:
    """Nothing is mixed after a kill, and the same command ends where the uninterrupted one did, with nothing left."""
    found = contents(verb.output)
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


@pytest.mark.parametrize("most", [2, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_kill_at_any_change_of_a_file_leaves_the_old_output_or_the_new(verb, most, record_property):
    """At each third change, or at `most` of them that are spread over the run."""
    verb.starts_over()
    events = verb.run().events
    whole = contents(verb.output)
    assert not verb.before or whole != contents(verb.before)
    moments = [index for index, event in enumerate(events) if not READING.match(event)][::3]
    assert len(moments) > 3
    for index in moments[:: -(-len(moments) // most)]:
        verb.starts_over()
        assert verb.start(at=".", nth=index + 1).code == -9, events[index]
        check(verb, whole, events[index])
    record_property("tried", min(len(moments), most))


@pytest.mark.parametrize("times", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_two_kills_in_a_row_at_any_moment_leave_the_old_output_or_the_new(verb, times, record_property):
    verb.starts_over()
    seconds, kills, moments = verb.run().seconds, 0, random.Random(6)
    whole = contents(verb.output)
    for number in range(times):
        verb.starts_over()
        for _ in range(2):
            kills += verb.start(after=moments.uniform(0, seconds)).code == -9
        check(verb, whole, number)
    assert kills >= times or times == 1, "most of the moments came"
    record_property("tried", kills)
