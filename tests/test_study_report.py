"""The report of a whole study asks what was planned, pairs by seed, and says what is not shown."""

import json

import pytest

from llava_mistral.evaluation.study_report import planned, study_page, study_results
from llava_mistral.ground.bad_input import BadInput
from tests.support.result_folders import results
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
    assert {(pair["first"], pair["second"]) for pair in found["pairs"]} == {
        *((f"{b}/random", f"{b}/principles") for b in ("llama", "mistral")),
        *((f"{b}/principles", f"{b}/question-dropped") for b in ("llama", "mistral")),
        *((f"llama/{data}", f"mistral/{data}") for data in RIGHT),
    }
    by_name = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    gain = by_name["llama/random", "llama/principles"]
    assert gain["difference"] == pytest.approx((30 + 31 + 31) / 3 * 100 / 60) and gain["significant"]
    assert gain["p_holm"] >= gain["p_value"] and gain["ci95"][0] < gain["difference"] < gain["ci95"][1]
    assert found["seeds"] == 3 and found["questions"] == 60


def test_the_page_holds_every_model_and_says_what_is_not_shown(study):
    found = study_results(study, "Digits")
    found["pairs"][0] |= {"significant": False}
    page = study_page(found)
    assert page.startswith("# Digits\n") and page.count("\n| llama | ") == page.count("\n| mistral | ") == 3
    assert "not significant" in page and "which is not to say that there is none" in page
    assert "three principles, question dropped" in page


def test_nothing_is_compared_with_itself_or_unasked():
    assert planned([("mistral", "principles"), ("mistral", "all")]) == []
    assert planned([("a", "all"), ("b", "all"), ("c", "all")]) == [
        (("a", "all"), ("b", "all")),
        (("b", "all"), ("c", "all")),
    ]


def test_a_missing_seed_is_refused(study):
    (study / "llama" / "random" / "2" / "summary.json").unlink()
    with pytest.raises(BadInput, match="not every model has the same seeds"):
        study_results(study, "t")
    with pytest.raises(BadInput, match="holds no results"):
        study_results(study / "llama", "t")


def test_the_command_writes_page_chart_and_figures(study, tmp_path):
    words = ["--results", study, "--output", tmp_path / "report", "--title", "Digits"]
    run_apart("-m", "llava_mistral.evaluation.study_report", *words)
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"study.json", "study.md", "study.png"}
    found = json.loads((tmp_path / "report" / "study.json").read_text())
    assert (tmp_path / "report" / "study.md").read_text() == study_page(found)


def test_the_page_of_the_study_is_poured_out_of_its_figures():
    docs = HOME / "docs"
    found = json.loads((docs / "study.json").read_text(encoding="utf-8"))
    assert (docs / "study.md").read_text(encoding="utf-8") == study_page(found)
    assert (docs / "study.png").is_file() and found["seeds"] == 3
    assert {name.split("/")[0] for name in found["models"]} == {"mistral", "llama"}
