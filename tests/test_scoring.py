"""Answers are read without guessing, and scored as ScienceQA's own evaluator scores them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mistral.data.scienceqa import Problem, read_problems
from llava_mistral.evaluation.scoring import (
    COLUMNS,
    Predictions,
    belongs,
    choose,
    question_hash,
    read_predictions,
    score,
    score_skills,
    table,
)
from llava_mistral.ground.bad_input import BadInput

REAL = Path(__file__).parents[2] / "shared" / "scienceqa"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real ScienceQA files are not beside this checkout")


def problem(pid="1", answer=0, **fields):
    return Problem(pid, "Which?", ("one", "two"), answer, **fields)


def test_the_columns_are_scienceqas():
    natural = problem(subject="natural science", grade="grade6", hint="Look.", has_image=True)
    assert [c for c in COLUMNS if belongs(natural, c)] == ["ALL", "NAT", "TXT", "IMG", "G1-6"]
    plain = problem(subject="language science", grade="grade12", hint="")
    assert [c for c in COLUMNS if belongs(plain, c)] == ["ALL", "LAN", "NO", "G7-12"]
    assert [c for c in COLUMNS if belongs(problem(), c)] == ["ALL"], "without metadata nothing else is known"


def test_a_column_without_metadata_is_none_and_never_zero():
    scored = score([problem("1"), problem("2", 1)], {"1": 0, "2": None})
    assert scored["ALL"]["accuracy"] == 50.0
    assert (scored["ALL"]["n"], scored["ALL"]["correct"]) == (2, 1)
    assert scored["ALL"]["ci95"] == pytest.approx([9.4531, 90.5469], abs=1e-4)
    assert all(scored[column] is None for column in COLUMNS[1:])
    assert scored["ALL"]["chance"] == 50.0
    assert table(scored).splitlines()[1].split() == ["accuracy", "%", "50.00", *["-"] * 8]


def test_skills_are_scored_each_by_itself():
    problems = [problem("1", skill="Read"), problem("2", skill="Add"), problem("3", skill="Add"), problem("4")]
    found = score_skills(problems, dict.fromkeys("1234", 0) | {"3": 1})
    assert {skill: (cell["correct"], cell["n"]) for skill, cell in found.items()} == {"Add": (1, 2), "Read": (1, 1)}


def test_a_problem_without_an_answer_cannot_be_scored():
    with pytest.raises(BadInput, match="record 1: field answer"):
        score([problem(answer=None)], {"1": 0})


def write(folder: Path, data) -> Path:
    (folder / "predictions.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return folder / "predictions.json"


def test_results_come_before_outputs_unless_asked(tmp_path):
    path = write(tmp_path, {"results": {"1": 1, "2": -1, "3": None}, "outputs": {"1": "A", "2": "B", "3": "?"}})
    problems = [problem(pid) for pid in "123"]
    predictions = read_predictions(path)
    from_results = choose(problems, predictions, file=path)
    assert (from_results.choices, from_results.unread) == ({"1": 1, "2": None, "3": None}, 2)
    from_outputs = choose(problems, predictions, file=path, read="outputs")
    assert (from_outputs.choices, from_outputs.unread, from_outputs.recorded) == ({"1": 0, "2": 1, "3": None}, 1, 0)


def test_a_text_that_cannot_be_read_takes_the_index_recorded_for_it():
    answers = choose([problem()], Predictions({"1": 1}, {"1": ""}), file="f", read="outputs")
    assert (answers.choices, answers.recorded, answers.unread) == ({"1": 1}, 1, 0)


def test_missing_and_unknown_ids_are_refused_or_counted():
    problems = [problem(str(pid)) for pid in range(1, 10)]
    with pytest.raises(BadInput, match=r"8 problems have no prediction \(first: 2, 3, 4, 5, 6\).*--allow_missing"):
        choose(problems, Predictions({"1": 0}, {}), file="f")
    with pytest.raises(BadInput, match=r"1 predictions are for problems that are not in this set \(first: 77\)"):
        choose(problems[:1], Predictions({"1": 0, "77": 0}, {}), file="f")
    answers = choose(problems, Predictions({"1": 0, "77": 0}, {}), file="f", allow_missing=True)
    assert (answers.missing, answers.unknown, answers.unread) == (8, 1, 0)
    assert score(problems, answers.choices)["ALL"]["correct"] == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("not json", "not valid JSON"),
        ([1], "neither results nor outputs"),
        ({"answers": {}}, "neither results nor outputs"),
        ({"results": {}}, "holds no prediction"),
        ({"results": [0]}, "field results: is not an object"),
        ({"results": {"1": "A"}}, "record 1: field results: 'A' is not an index"),
        ({"results": {"1": True}}, "is not an index"),
        ({"results": {"1": 0.0}}, "is not an index"),
        ({"outputs": {"1": 0}}, "record 1: field outputs: 0 is not a text"),
    ],
)
def test_a_malformed_file_of_predictions_is_refused(tmp_path, data, says):
    with pytest.raises(BadInput, match=says):
        read_predictions(write(tmp_path, data))


def test_an_index_out_of_range_is_refused():
    for index in (2, -2):
        with pytest.raises(BadInput, match=f"record 1: field results: index {index} is out of range for 2 choices"):
            choose([problem()], Predictions({"1": index}, {}), file="f")
    with pytest.raises(BadInput, match="field outputs: holds no such predictions"):
        choose([problem()], Predictions({"1": 0}, {}), file="f", read="outputs")


def test_the_question_hash_tells_sets_apart_and_not_their_order():
    first, second = problem("1"), problem("2")
    assert question_hash([first, second]) == question_hash([second, first])
    hashes = {question_hash([p]) for p in (first, problem("2"), problem("1", 1), problem("1", has_image=True))}
    assert len(hashes) == 4


PUBLISHED = {  # LLaVA-1.5's own evaluation and the ScienceQA leaderboard
    "llava-v1.5-13b": {"ALL": 74.39, "IMG": 71.64},
    "gpt3-cot-ale": {"ALL": 75.17, "IMG": 67.43, "TXT": 74.68, "NO": 79.93},
}


@needs_real
@pytest.mark.parametrize("read", ["results", "outputs"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_outputs_score_what_was_published(name, read):
    path = REAL / "predictions" / f"{name}.json"
    problems = read_problems(REAL / "llava_test_CQM-A.json")
    scored = score(problems, choose(problems, read_predictions(path), file=path, read=read).choices)
    assert {column: round(scored[column]["accuracy"], 2) for column in PUBLISHED[name]} == PUBLISHED[name]
    assert (scored["ALL"]["n"], scored["IMG"]["n"], scored["NAT"]) == (4241, 2017, None)


@needs_real
def test_from_texts_alone_nothing_is_guessed():
    """243 of GPT-3's texts are empty and six say their answer more than once; their published choices were drawn."""
    problems = read_problems(REAL / "llava_test_CQM-A.json")
    found = {}
    for name in PUBLISHED:
        path = REAL / "predictions" / f"{name}.json"
        answers = choose(problems, Predictions({}, read_predictions(path).outputs), file=path)
        found[name] = (answers.unread, round(score(problems, answers.choices)["ALL"]["accuracy"], 2))
    assert found == {"llava-v1.5-13b": (40, 74.39), "gpt3-cot-ale": (249, 72.18)}


@needs_real
def test_with_metadata_all_nine_columns_are_scored():
    problems = read_problems(REAL / "problems_head.json", split="test")
    path = REAL / "predictions" / "gpt3-cot-ale.json"
    answers = choose(problems, read_predictions(path), file=path, allow_missing=True)
    scored = score(problems, answers.choices)
    assert (answers.missing, answers.unknown) == (0, 4241 - 361)
    assert scored["NAT"]["n"] + scored["SOC"]["n"] + scored["LAN"]["n"] == scored["ALL"]["n"] == 361
    assert scored["G1-6"]["n"] + scored["G7-12"]["n"] == 361


def test_scoring_imports_no_torch():
    names = "scoring", "statistics", "results", "comparison"
    modules = ", ".join(f"llava_mistral.evaluation.{name}" for name in names)
    code = f"import {modules}, sys; sys.exit(bool({{'torch', 'transformers', 'datasets'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


@pytest.mark.parametrize(("read", "given"), [("results", ({}, {"1": "A"})), ("outputs", ({"1": 0}, {}))])
def test_a_problem_that_only_the_other_kind_answers_has_no_prediction(read, given):
    """It would otherwise be counted among the answers that could not be read, and nobody be told."""
    results, outputs = ({"2": 0} | given[0], {"2": "A"} | given[1])
    problems = [problem("1"), problem("2")]
    with pytest.raises(BadInput, match=r"1 problems have no prediction \(first: 1\)"):
        choose(problems, Predictions(results, outputs), file="f", read=read)
    answers = choose(problems, Predictions(results, outputs), file="f", read=read, allow_missing=True)
    assert (answers.choices, answers.missing, answers.unread) == ({"1": None, "2": 0}, 1, 0)
