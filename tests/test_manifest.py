"""The manifest accounts for every sample, says what made it, and tells a changed set from an unchanged one."""

import json
import shutil

import pytest

from llava_mistral.commands.prune import main
from llava_mistral.data.scienceqa import Problem
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.whole_file import sha256_of
from llava_mistral.pruning.manifest import (
    describe,
    differences,
    read_manifest,
    write_manifest,
)
from llava_mistral.pruning.measures import overlap
from llava_mistral.pruning.methods import Choice
from tests.support.running import run_here
from tests.support.small_problems import save_problems

RECIPE = {"dataset": "data/of/ScienceQA", "method": "random", "size": 2, "seed": 0, "split": "train"}
PROBLEMS = [Problem(pid=name, question="?", choices=("a", "b"), topic="t", has_image=name != "d") for name in "abcd"]
CHOICE = Choice([2, 0], {1: "not drawn", 3: "has no image"}, facts={"stratified": False})


def described(**changes):
    return describe(CHOICE, PROBLEMS, recipe=RECIPE, input_sha256="0" * 64) | changes


def test_every_sample_is_kept_or_dropped_with_a_reason():
    told = described()
    assert told["kept"] == ["c", "a"]
    assert told["dropped"] == {"b": "not drawn", "d": "has no image"}
    assert told["counts"] == {"kept": 2, "has no image": 1, "not drawn": 1}
    assert sum(told["counts"].values()) == told["input"]["rows"] == 4
    assert told["coverage"]["topic"] == [1, 1, 1] and told["coverage"]["skill"] == [0, 0, 0]
    assert told["versions"].keys() >= {"python", "numpy", "pillow"}


def test_the_licence_is_that_of_the_source_when_it_is_known(tmp_path):
    assert described()["license"] == "cc-by-nc-sa-4.0"
    assert described()["source"] == "ScienceQA"
    other = {"recipe": RECIPE | {"dataset": "mine/set"}, "input_sha256": ""}
    assert describe(CHOICE, PROBLEMS, **other)["license"] is None
    assert describe(CHOICE, PROBLEMS, **other)["source"] == "mine/set"
    assert describe(CHOICE, PROBLEMS, **other, source="Mine", license="cc-by-4.0")["license"] == "cc-by-4.0"
    write_manifest(described(), tmp_path)
    again = describe(CHOICE, PROBLEMS, recipe=RECIPE | {"dataset": str(tmp_path)}, input_sha256="")
    assert (again["source"], again["license"]) == ("ScienceQA", "cc-by-nc-sa-4.0")


def test_what_differs_is_named(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        (folder / "data").mkdir(parents=True)
        (folder / "data/rows").write_text("rows")
        write_manifest(described(), folder)
    assert differences(old, new) == []
    write_manifest(described(seed=1, recipe=RECIPE | {"dataset": "elsewhere"}), new)
    assert differences(old, new) == ["manifest.json: seed differs"]
    (old / "data/rows").write_text("other rows")
    assert "data/rows: is not the file that was written" in differences(old, new)
    (old / "data/rows").unlink()
    write_manifest(described(versions={"python": "2.7"}), new)
    assert differences(old, new)[0] == "data/rows: is missing"
    assert "python" in differences(old, new)[-1]


def test_files_are_hashed_and_a_manifest_without_its_parts_is_refused(tmp_path):
    (tmp_path / "report.html").write_text("report")
    write_manifest(described(), tmp_path)
    assert read_manifest(tmp_path)["files"] == {"report.html": sha256_of(tmp_path / "report.html")}
    (tmp_path / "manifest.json").write_text(json.dumps({"kept": []}))
    with pytest.raises(BadInput, match="field recipe: is missing or malformed"):
        read_manifest(tmp_path)
    with pytest.raises(BadInput, match="no such file"):
        read_manifest(tmp_path / "nowhere")


def test_two_choices_overlap_by_what_both_keep():
    left = {"kept": ["a", "b", "c"], "dropped": {"d": "", "e": "", "f": ""}}
    right = {"kept": ["b", "c", "d"], "dropped": {"a": "", "e": "", "f": ""}}
    assert overlap(left, right) == {"both": 2, "jaccard": 0.5, "by_chance": 1.5}
    nothing = {"kept": [], "dropped": {}}
    assert overlap(nothing, nothing) == {"both": 0, "jaccard": 0, "by_chance": 0}


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
