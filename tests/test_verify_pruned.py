"""A pruned set can be checked where it lies, with its data or without, and however far both have moved."""

import shutil

import pytest

from llava_mistral.commands.prune import main
from tests.support.running import run_here
from tests.support.small_problems import save_problems

SAME = "comes out the same, byte for byte"


@pytest.fixture
def moved(tmp_path):
    """A set chosen by its vectors, its data and itself moved elsewhere."""
    data = save_problems(tmp_path / "data")
    given = ("--method", "farthest", "--embeddings", data / "vectors.npy", "--size", 7, "--output", tmp_path / "out")
    run_here(main, "--dataset", data, *given)
    assert SAME in run_here(main, "--verify", tmp_path / "out").stdout
    (tmp_path / "elsewhere").mkdir()
    for name in ("data", "out"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / f"{name}-moved")
    return tmp_path / "elsewhere"


def test_a_set_that_moved_with_its_data_comes_out_the_same(moved):
    data = moved / "data-moved"
    given = ("--verify", moved / "out-moved", "--dataset", data, "--embeddings", data / "vectors.npy")
    assert SAME in run_here(main, *given).stdout


def test_without_the_data_the_files_are_checked_and_the_data_asked_for(moved):
    done = run_here(main, "--verify", moved / "out-moved", code=2)
    assert "its files are as they were written" in done.error and done.error.endswith("with --dataset")
    done = run_here(main, "--verify", moved / "out-moved", "--dataset", moved / "data-moved", code=2)
    assert done.error.endswith("with --embeddings")
    (moved / "out-moved/report.html").write_text("changed")
    done = run_here(main, "--verify", moved / "out-moved", code=1)
    assert "report.html: is not the file that was written" in done.stdout


def test_other_data_under_the_same_name_is_found_out(moved):
    def other(problems):
        problems["3"]["question"] = "Another question?"

    again = save_problems(moved / "other" / "data", change=other)
    given = ("--verify", moved / "out-moved", "--dataset", again, "--embeddings", again / "vectors.npy")
    assert "manifest.json: input differs" in run_here(main, *given, code=1).stdout


def test_verifying_writes_nothing(moved):
    data, before = moved / "data-moved", sorted(moved.rglob("*"))
    run_here(main, "--verify", moved / "out-moved", "--dataset", data, "--embeddings", data / "vectors.npy")
    assert sorted(moved.rglob("*")) == before


def test_what_is_no_pruned_set_is_refused(tmp_path):
    assert "no such file" in run_here(main, "--verify", tmp_path / "nowhere", code=2).error
