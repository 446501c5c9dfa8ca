"""Models are compared on the same questions only, every difference has its interval, and chance is called chance."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.evaluation.comparison import (
    PUBLISHED,
    bars,
    check_comparable,
    compare,
    published,
    read_run,
    sentences,
)
from llava_mistral.evaluation.report import comparison_page
from llava_mistral.evaluation.statistics import wilson_interval
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.output_folders import MARKER
from tests.support.result_folders import PROBLEMS, results
from tests.support.running import run_light

ROOT = Path(__file__).parents[1]


def groups(tmp_path, **rights):
    """{name: runs}; a list of counts is one run per seed."""
    return {
        name: [read_run(results(tmp_path / f"{name}{seed}", count)) for seed, count in enumerate(counts)]
        for name, counts in rights.items()
    }


def test_one_run_each_is_compared_question_by_question(tmp_path):
    found = compare(groups(tmp_path, mistral=[90], llama=[70]))
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"], pair["difference"]) == ("mistral", "llama", pytest.approx(-20))
    assert (pair["only_first"], pair["only_second"], pair["p_value"]) == (20, 0, pytest.approx(2**-19))
    assert pair["ci95"][0] < -20 < pair["ci95"][1] < 0 and pair["significant"]
    low, high = wilson_interval(90, 100)
    cell = found["models"]["mistral"]["columns"]["ALL"]
    assert (cell["accuracy"], cell["n"]) == (90, 100) and cell["ci95"] == pytest.approx([100 * low, 100 * high])
    assert found["models"]["llama"]["columns"]["LAN"] is None
    assert (found["chance"], found["questions"]) == (50, 100)


def test_a_small_difference_is_called_no_difference(tmp_path):
    (said,) = sentences(compare(groups(tmp_path, mistral=[90], llama=[88])))
    assert said.startswith("llama minus mistral: -2.00 points (95 % ")
    assert said.endswith("p = 0.5), not significant: no difference is shown")


def test_seeds_give_a_mean_and_an_interval(tmp_path):
    found = compare(groups(tmp_path, mistral=[90, 92, 94], llama=[70, 75, 71]))
    cell = found["models"]["mistral"]["columns"]["ALL"]
    assert (cell["accuracy"], cell["seeds"]) == (pytest.approx(92), [90, 92, 94])
    assert cell["ci95"][1] - cell["ci95"][0] > 2 * 4.96, "wider than by seeds alone: the questions are a sample, too"
    (pair,) = found["pairs"]
    assert pair["difference"] == pytest.approx(-20) and pair["test"] == "t over 3 seeds and the questions"
    assert pair["ci95"][0] < -20 < pair["ci95"][1] < 0 < pair["visible"]
    with pytest.raises(BadInput, match="2 seeds are too few for an interval; give 3 or more, or one"):
        check_comparable(groups(tmp_path, mistral=[1, 2], llama=[3, 4]), "ALL")
    with pytest.raises(BadInput, match=r"different numbers of seeds \(mistral: 2, llama: 1\)"):
        check_comparable(groups(tmp_path, mistral=[1, 2], llama=[3]), "ALL")


def test_several_comparisons_are_corrected(tmp_path):
    found = compare(groups(tmp_path, a=[50], b=[56], c=[50]))
    assert [round(pair["p_value"], 4) for pair in found["pairs"]] == [0.0312, 1.0, 0.0312]
    assert not any(pair["significant"] for pair in found["pairs"])
    assert "0.094 corrected for 3 comparisons), not significant" in sentences(found)[0]


def test_a_column_is_compared_on_its_own_questions(tmp_path):
    found = compare(groups(tmp_path, a=[60], b=[80]), "IMG")
    assert (found["questions"], found["pairs"][0]["difference"]) == (60, 0)
    with pytest.raises(BadInput, match="column LAN: no question belongs to it; use one of ALL, SOC, IMG, NO"):
        compare(groups(tmp_path, a=[60], b=[80]), "LAN")


def test_other_questions_or_prompts_are_refused(tmp_path):
    first = read_run(results(tmp_path / "a", 90))
    fewer = read_run(results(tmp_path / "b", 50, PROBLEMS[:99]))
    with pytest.raises(BadInput, match="b/summary.json: field question_hash: .* are about different questions"):
        check_comparable({"a": [first], "b": [fewer]}, "ALL")
    real, blank = (read_run(results(tmp_path / kind, 90, prompt_hash=kind)) for kind in ("real", "blank"))
    with pytest.raises(BadInput, match="field prompt_hash: .* are about different prompts"):
        check_comparable({"a": [real], "b": [blank]}, "ALL")
    check_comparable({"a": [first], "b": [blank]}, "ALL")  # a file of predictions does not tell how it was prompted


def test_the_published_bars_have_the_intervals_of_2017_questions():
    found = published()
    assert [cell["accuracy"] for cell in found.values()] == [67.97, 71.64, 70.01, 72.93, 72.88, 73.08]
    for cell in found.values():
        correct = round(cell["accuracy"] * 20.17)
        assert 100 * correct / 2017 == pytest.approx(cell["accuracy"], abs=0.006), "a whole number of right answers"
        assert cell["ci95"] == pytest.approx([100 * end for end in wilson_interval(correct, 2017)])


def test_the_page_stands_alone_and_escapes_names(tmp_path):
    comparison = compare(groups(tmp_path, mistral=[90], llama=[70]), reference=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "chart.png")
    page = comparison_page(comparison, tmp_path / "chart.png", title="<b>Backbones</b>")
    assert "data:image/png;base64," in page and "://" not in page and "<b>" not in page
    assert "&lt;b&gt;Backbones" in page and "llama minus mistral: -20.00 points" in page
    assert all(name in page for name in PUBLISHED)
    assert [bar.published for bar in bars(comparison)] == [False] * 2 + [True] * 6


def verb(*arguments, cwd) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "llava_mistral", "compare", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_the_verb_writes_comparison_chart_and_report(tmp_path):
    for name, right in (("mistral", 90), ("llama", 70)):
        results(tmp_path / name, right)
    for _ in range(2):
        done = verb("Mistral=mistral", "llama", "--output", "out", "--reference", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "Mistral: 100.00 % (95 % 93.98 to 100.00; n = 60)" in done.stdout
    assert "Mistral 7B, pretrain: 72.93 % (95 % 70.95" in done.stdout
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files - {MARKER} == {"chart.png", "comparison.json", "report.html"}
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (comparison["column"], list(comparison["models"])) == ("IMG", ["Mistral", "llama"])
    assert Image.open(tmp_path / "out" / "chart.png").width > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a"], "one model cannot be compared"),
        (["x=a", "x=b"], "one model cannot be compared"),
        (["a", "absent"], "absent: holds no summary.json"),
        (["a", "fewer"], "about different questions"),
        (["a", "b", "--output", "a"], "holds something else"),
        (["a", "torn"], "torn/predictions.json: field answers: is missing"),
        (["a", "b", "--column", "G1-6"], "no question belongs to it"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, arguments, says):
    results(tmp_path / "a", 90)
    results(tmp_path / "b", 80)
    results(tmp_path / "fewer", 50, PROBLEMS[:99])
    results(tmp_path / "torn", 50)
    (tmp_path / "torn" / "predictions.json").write_text('{"results": {}}')
    given = arguments if "--output" in arguments else [*arguments, "--output", "out"]
    assert says in run_light("llava_mistral", "compare", *given, code=2, cwd=tmp_path).error
    assert not (tmp_path / "out").exists()
