"""Seeded mutations of each kind of file, a thousand when slow: our error or success, in little time and a gigabyte."""

import json
from pathlib import Path

import pytest

from tests.support.running import run_apart


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
