"""The report of a whole study asks what was planned, pairs by seed, and says what is not shown."""

import json
from dataclasses import replace

import pytest

from llava_mistral.data.scienceqa import Problem
from llava_mistral.evaluation.study_figures import majority_by_wording, planned, restated, study_results
from llava_mistral.evaluation.study_report import study_page
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.output_folders import MARKER
from tests.support.result_folders import PROBLEMS, results
from tests.support.running import HOME, run_apart

RIGHT = {"random": (20, 22, 24), "principles": (50, 53, 55), "question-dropped": (19, 23, 21)}


@pytest.fixture
def study(tmp_path):
    """Two backbones, three choices of data, three seeds; questions 0 to 59 have a picture."""
    for backbone, more in (("llama", 0), ("mistral", 1)):
        for data, counts in RIGHT.items():
            for seed, right in enumerate(counts):
                results(tmp_path / "results" / backbone / data / str(seed), right + more)
    return tmp_path / "results"


def test_differences_are_those_planned_and_paired_by_seed(study):
    found = study_results(study, "t")
    assert {(pair["first"], pair["second"], pair["column"]) for pair in found["pairs"]} == {
        *((f"{b}/random", f"{b}/principles", c) for b in ("llama", "mistral") for c in ("IMG", "ALL")),
        *((f"{b}/principles", f"{b}/question-dropped", c) for b in ("llama", "mistral") for c in ("IMG", "ALL")),
    }
    by_name = {(pair["first"], pair["second"], pair["column"]): pair for pair in found["pairs"]}
    gain = by_name["llama/random", "llama/principles", "IMG"]
    assert gain["difference"] == pytest.approx((30 + 31 + 31) / 3 * 100 / 60) and gain["significant"]
    assert gain["p_holm"] >= gain["p_value"] and gain["ci95"][0] < gain["difference"] < gain["ci95"][1]
    assert found["seeds"] == 3 and found["questions"] == {"ALL": 100, "IMG": 60, "NO": 40} and gain["visible"] > 0


def test_the_mean_over_skills_counts_every_skill_alike(tmp_path):
    """Ten questions of one skill and ninety of another; the first ten are right at every seed."""
    skilled = [replace(problem, skill="few" if i < 10 else "many") for i, problem in enumerate(PROBLEMS)]
    for seed in range(3):
        results(tmp_path / "mistral" / "all" / str(seed), 10, skilled)
    found = study_results(tmp_path, "t")
    cell = found["models"]["mistral/all"]["skills"]
    assert cell["accuracy"] == pytest.approx(50) and cell["ci95"][0] < 50 < cell["ci95"][1]
    assert "| mean over skills |" in study_page(found) and found["pairs"] == []


def test_no_cell_has_an_interval_of_zero_width(study):
    """In the column NO every seed gives the same answers."""
    for columns in study_results(study, "t")["models"].values():
        for cell in columns.values():
            assert cell["ci95"][1] - cell["ci95"][0] > 1


def test_the_page_holds_every_model_and_says_what_is_not_shown(study):
    found = study_results(study, "Digits")
    found["pairs"][0] |= {"significant": False}
    page = study_page(found)
    assert page.startswith("# Digits\n") and page.count("\n| llama | ") == page.count("\n| mistral | ") == 3
    assert "not significant" in page and "which is not to say that" in page
    assert "three principles, question dropped" in page
    assert page.count("Smallest true difference that this table finds with a probability of 80 %") == 2
    assert "No difference between backbones is tested" in " ".join(page.split())


def test_a_study_whose_single_answers_are_gone_has_wider_intervals_and_says_so(study):
    found = study_results(study, "t")
    again = restated(found)
    for before, after in zip(found["pairs"], again["pairs"], strict=True):
        assert after["difference"] == pytest.approx(before["difference"])
        assert after["ci95"][1] - after["ci95"][0] >= 0.99 * (before["ci95"][1] - before["ci95"][0])
    assert "were kept and not the single answers" in " ".join(study_page(again).split())


def test_nothing_is_compared_with_itself_unasked_or_between_backbones():
    assert planned([("mistral", "principles"), ("mistral", "all")]) == []
    assert planned([("a", "random"), ("a", "all"), ("b", "all")]) == [(("a", "random"), ("a", "all"))]


def test_the_majority_by_wording_learns_letters_and_no_picture():
    def asked(pid, question, answer, choices=("one", "two")):
        return Problem(pid, question, choices, answer)

    train = [asked("1", "Which?", 1), asked("2", "Which?", 1), asked("3", "Which?", 0), asked("4", "What?", 0)]
    test = [
        asked("5", "Which?", 0),
        asked("6", "What?", 0),
        asked("7", "New?", 0),
        asked("8", "?", 0, ("a", "b", "c")),
    ]
    assert majority_by_wording(train, test) == {"5": 1, "6": 0, "7": 0, "8": 0}


def test_two_seeds_carry_no_interval(study):
    import shutil

    for seed in study.glob("*/*/2"):
        shutil.rmtree(seed)
    with pytest.raises(BadInput, match="2 seeds are too few for an interval; give 3 or more"):
        study_results(study, "t")


def test_a_missing_seed_is_refused(study):
    (study / "llama" / "random" / "2" / "summary.json").unlink()
    with pytest.raises(BadInput, match="not every model has the same seeds"):
        study_results(study, "t")
    with pytest.raises(BadInput, match="holds no results"):
        study_results(study / "llama", "t")


def test_the_command_writes_page_chart_and_figures(study, tmp_path):
    words = ["--results", study, "--output", tmp_path / "report", "--title", "Digits"]
    run_apart("-m", "llava_mistral.evaluation.study_report", *words)
    assert {file.name for file in (tmp_path / "report").iterdir()} - {MARKER} == {
        "study.json",
        "study.md",
        "study.png",
    }
    found = json.loads((tmp_path / "report" / "study.json").read_text())
    assert (tmp_path / "report" / "study.md").read_text() == study_page(found)


def test_the_page_of_the_study_is_poured_out_of_its_figures():
    docs = HOME / "docs"
    found = json.loads((docs / "study.json").read_text(encoding="utf-8"))
    assert (docs / "study.md").read_text(encoding="utf-8") == study_page(found)
    assert (docs / "study.png").is_file() and found["seeds"] == 3
    assert found["pairs"] == restated(found)["pairs"], "poured again by today's methods, the figures are the same"
    assert {pair["first"].split("/")[0] == pair["second"].split("/")[0] for pair in found["pairs"]} == {True}
    assert len(found["floors"]) == 3 and found["floors"][0]["columns"]["IMG"]["accuracy"] > found["chance"]["IMG"]
    assert {name.split("/")[0] for name in found["models"]} == {"mistral", "llama"}
