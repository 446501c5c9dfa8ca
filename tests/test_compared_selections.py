"""Several pruned sets in one report, whose numbers are those of the sets, and which no text of the data can break."""

import json

import numpy as np
import pytest

from llava_mistral.commands.prune import main
from tests.support.report_pages import HOSTILE, PICTURE, Page
from tests.support.running import run_here
from tests.support.small_problems import save_problems

METHODS = ("principles", "farthest", "random", "full")


def save_sets(folder, data):
    for method in METHODS:
        given = ["--dataset", data, "--method", method, "--output", folder / method]
        given += [] if method == "full" else ["--size", 9]
        given += ["--embeddings", data / "vectors.npy"] if method == "farthest" else []
        run_here(main, *given)
    return [folder / method for method in METHODS]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of the four methods on the same data, and what was printed."""
    folder = tmp_path_factory.mktemp("compared")
    sets = save_sets(folder, save_problems(folder / "data"))
    return folder, run_here(main, "--compare", *sets, "--output", folder / "report").stdout


def test_the_measures_are_those_of_the_sets(compared):
    folder, printed = compared
    result = json.loads((folder / "report/comparison.json").read_text())
    told = {name: json.loads((folder / name / "manifest.json").read_text()) for name in METHODS}
    vectors = np.load(folder / "data/vectors.npy")
    for name, measures in result["sets"].items():
        assert measures["samples"] == len(told[name]["kept"])
        assert measures["skill labels"] == told[name]["coverage"]["skill"][0]
        kept = vectors[[int(pid) for pid in told[name]["kept"]]]
        nearest = np.linalg.norm(vectors[:, None] - kept, axis=2).min(1)
        assert measures["covering radius"] == pytest.approx(nearest.max(), abs=1e-3)
        assert measures["mean distance to the nearest kept"] == pytest.approx(nearest.mean(), abs=1e-3)
    assert result["sets"]["farthest"]["covering radius"] == pytest.approx(
        told["farthest"]["selection"]["radius"], 1e-4
    )
    assert result["sets"]["full"] == result["all"] | {"covering radius": 0, "mean distance to the nearest kept": 0}
    assert result["sets"]["principles"]["mean necessity of the image (0-1)"] > 0.5
    assert len(result["overlaps"]) == 6
    for of in result["overlaps"]:
        a, b = (set(told[name]["kept"]) for name in of["sets"])
        assert (of["both"], of["jaccard"], of["by_chance"]) == (
            len(a & b),
            len(a & b) / len(a | b),
            len(a) * len(b) / 24,
        )
        assert f"{of['sets'][0]} and {of['sets'][1]}: {of['both']} in both" in printed


def test_the_report_shows_every_set_and_loads_nothing(compared):
    folder, _ = compared
    page = Page((folder / "report/report.html").read_text())
    for part in (
        "What each is worth",
        "Overlap",
        "Shares by skill",
        "Map of the embedding",
        "Distance of each sample",
    ):
        assert part in page.text
    assert all(f"{name}: kept and pruned, side by side" in page.text for name in METHODS)
    assert page.tags & {"svg", "img"} and not page.tags & {"script", "link", "iframe"}
    assert all(PICTURE.match(value) for name, value in page.attributes if name in ("src", "href"))


def test_the_same_sets_give_the_same_report(compared):
    folder, _ = compared
    run_here(main, "--compare", *(folder / name for name in METHODS), "--output", folder / "again")
    for name in ("comparison.json", "report.html"):
        assert (folder / "report" / name).read_bytes() == (folder / "again" / name).read_bytes()


def test_text_of_the_data_is_only_ever_text(tmp_path):
    def spoil(problems):
        for problem in problems.values():
            problem |= {
                "question": HOSTILE + problem["question"],
                "skill": HOSTILE + problem["skill"],
                "topic": HOSTILE,
            }

    data = save_problems(tmp_path / "data", change=spoil)
    sets = save_sets(tmp_path, data)
    run_here(main, "--compare", *sets, "--output", tmp_path / "report", "--dataset", data)
    for path in (tmp_path / "principles/report.html", tmp_path / "report/report.html"):
        page = Page(path.read_text())
        assert "<script>alert(1)</script>" in page.text
        assert "script" not in page.tags and not any(name == "onerror" for name, _ in page.attributes)
        assert all(PICTURE.match(value) for name, value in page.attributes if name == "src")


def test_many_labels_are_folded_away(tmp_path):
    def label(problems):
        for pid, problem in problems.items():
            problem["skill"] = f"skill {pid}"

    data = save_problems(tmp_path / "data", count=40, change=label)
    run_here(main, "--dataset", data, "--method", "random", "--size", 9, "--output", tmp_path / "few")
    page = Page((tmp_path / "few/report.html").read_text())
    assert "40 skill labels before, 9 after." in page.text and "show all 40" in page.text


def test_sets_of_other_data_are_not_compared(tmp_path):
    first, second = save_problems(tmp_path / "a"), save_problems(tmp_path / "b", count=12)
    for name, data in (("one", first), ("two", second)):
        run_here(main, "--dataset", data, "--method", "random", "--size", 4, "--output", tmp_path / name)
    done = run_here(main, "--compare", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "x", code=2)
    assert "was chosen from other data" in done.error and not (tmp_path / "x").exists()
    assert "named twice" in run_here(main, "--compare", tmp_path / "one", tmp_path / "one", code=2).error
    run_here(main, "--dataset", first, "--method", "random", "--size", 5, "--output", tmp_path / "two")
    given = ("--compare", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "x", "--dataset", second)
    assert "is not the data that the sets were chosen from" in run_here(main, *given, code=2).error
    assert not (tmp_path / "x").exists()
