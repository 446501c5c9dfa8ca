"""A thousand seeded mutations of each kind of file: our error or success, in two seconds and a gigabyte, every one."""

import json
from pathlib import Path

import pytest

from tests.support.fuzzed_files import TRIES
from tests.support.running import run_apart


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        pytest.param("weights", 50, marks=pytest.mark.case("Z3", "survived")),
        pytest.param("pictures", 100, marks=pytest.mark.case("Z4", "survived")),
    ],
)
def test_a_thousand_mutations_are_opened_or_refused_in_little_time_and_memory(
    kind, least, stage0, tmp_path, record_property
):
    given = [str(make_copy(stage0, tmp_path))] if kind == "weights" else []
    code = f"import sys; from tests.support.fuzzed_files import survey_{kind} as survey; survey(*sys.argv[1:])"
    found = json.loads(run_apart("-c", code, *given).stdout)
    assert found["tried"] == TRIES and least < found["opened"] < TRIES - least, found
    assert found["slowest"] < 2 and found["peak"] < 1_000_000, found
    record_property("tried", found["tried"])


def make_copy(folder: Path, target: Path) -> Path:
    from tests.support.malformed import copy, nothing

    return copy(folder, target / "checkpoint", nothing)
