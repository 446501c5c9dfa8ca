"""The verb prints the published figures, writes whole results folders, and refuses bad input at once in one line."""

import json
import random
import sys
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.commands import evaluate as evaluate_scienceqa
from llava_mistral.ground.bad_input import BadInput
from tests.support.running import run_light
from tests.support.tiny_llava import save_tiny_llava

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "scienceqa"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real ScienceQA files are not beside this checkout")
SUBJECTS = ("natural science", "social science", "language science")


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["llava-mistral evaluate", *map(str, arguments)])
    evaluate_scienceqa.main()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A ScienceQA folder of 24 test questions, half of them with a picture, and one training question."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    problems = {}
    for pid in range(1, 26):
        problems[str(pid)] = {
            "question": f"Which digit is it {'? ' * pid}",
            "choices": ["one", "two", "three"],
            "answer": pid % 3,
            "hint": "Context" if pid % 3 == 0 else "",
            "image": "image.png" if pid % 2 else None,
            "subject": SUBJECTS[pid % 3],
            "grade": f"grade{pid % 12 + 1}",
            "split": "train" if pid == 25 else "test",
        }
        picture = folder / "images" / problems[str(pid)]["split"] / str(pid) / "image.png"
        picture.parent.mkdir(parents=True)
        Image.frombytes("L", (8, 8), rng.randbytes(64)).save(picture)
    (folder / "problems.json").write_text(json.dumps(problems))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_llava(tmp_path_factory.mktemp("tiny") / "llava")


@needs_real
def test_the_published_accuracies_are_printed(monkeypatch, capsys):
    for name, percents in (("llava-v1.5-13b", ("74.39", "71.64")), ("gpt3-cot-ale", ("75.17", "67.43"))):
        predictions = REAL / "predictions" / f"{name}.json"
        run(monkeypatch, "--problems", REAL / "llava_test_CQM-A.json", "--predictions", predictions)
        said = capsys.readouterr().out
        assert all(percent in said for percent in percents) and "2017" in said
        assert f"unread answers (counted as wrong): {38 if 'llava' in name else 0}" in said


@needs_real
def test_texts_without_a_choice_are_said_to_be_recorded(monkeypatch, capsys):
    predictions = REAL / "predictions" / "gpt3-cot-ale.json"
    run(monkeypatch, "--problems", REAL / "llava_test_CQM-A.json", "--predictions", predictions, "--read", "outputs")
    said = capsys.readouterr().out
    assert "75.17" in said and "texts that could not be read, with the index recorded for them: 249" in said


@needs_real
def test_a_real_split_is_scored_with_its_metadata(monkeypatch, tmp_path, capsys):
    source = ["--problems", REAL / "problems_head.json", "--pid_splits", REAL / "pid_splits.json", "--split", "test"]
    predictions = REAL / "predictions" / "llava-v1.5-13b.json"
    with pytest.raises(BadInput, match="3880 predictions are for problems that are not in this set"):
        run(monkeypatch, *source, "--predictions", predictions)
    run(monkeypatch, *source, "--predictions", predictions, "--allow_missing", "--output", tmp_path / "out")
    assert "is an extract" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["ALL"]["n"] == 361 and summary["unknown"] == 3880
    assert all(summary[column]["n"] > 0 for column in ("NAT", "SOC", "LAN", "G1-6", "G7-12"))
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["results"]) == 361


def test_predictions_are_scored_into_a_whole_folder(monkeypatch, tmp_path, dataset, capsys):
    predictions = tmp_path / "predictions.json"
    outputs = {str(pid): "ABC"[pid % 3] for pid in range(1, 25)} | {"1": "it is late"}
    predictions.write_text(json.dumps({"outputs": outputs}))
    out = tmp_path / "out"
    for _ in range(2):  # an earlier result of the same kind may be replaced
        run(monkeypatch, "--dataset", dataset, "--split", "test", "--predictions", predictions, "--output", out)
    summary = json.loads((out / "summary.json").read_text())
    assert [summary["ALL"][key] for key in ("accuracy", "n", "correct")] == [100 * 23 / 24, 24, 23]
    assert (summary["unread"], summary["scoring"], summary["split"]) == (1, "outputs", "test")
    assert json.loads((out / "predictions.json").read_text())["results"]["1"] == -1
    assert Image.open(out / "chart.png").width > 500
    assert "unread answers (counted as wrong): 1" in capsys.readouterr().out


def test_a_checkpoint_is_asked_with_real_and_blank_pictures(monkeypatch, tmp_path, dataset, checkpoint, capsys):
    out = tmp_path / "out"
    arguments = ["--model", checkpoint, "--dataset", dataset, "--images", "blank", "real", "--output", out]
    run(monkeypatch, *arguments)
    said = capsys.readouterr().out
    assert "generated, real pictures" in said and "scored by choice likelihood instead: " in said
    assert "blank pictures, on the 12 questions with one:" in said and "exact McNemar p =" in said
    assert "unread, and counted as wrong:" in said and "with blank ones" in said
    assert "the same texts by three readers, IMG: ours " in said
    real, blank = (json.loads((out / part / "summary.json").read_text()) for part in ("", "blank"))
    assert (real["images"], blank["images"], real["ALL"]["n"]) == ("real", "blank", 24)
    assert real["question_hash"] == blank["question_hash"]
    assert real["likelihood"]["ALL"]["n"] == 24 and real["versions"]["torch"]
    assert real["scoring"] == "generated" and real["NO"] == blank["NO"]
    assert sum(real["read"].values()) == 24 and real["readers"]["IMG"]["LLaVA"]["n"] == 12
    assert real["unread"] == sum(n for form, n in real["read"].items() if form.startswith("unread"))
    predictions = json.loads((out / "predictions.json").read_text())
    assert predictions.keys() == {"results", "likelihood", "outputs", "answers", "columns"}
    before = (out / "summary.json").read_bytes()
    run(monkeypatch, *arguments)
    assert (out / "summary.json").read_bytes() == before, "a second run only reads what was answered"


def test_its_predictions_score_the_same_from_the_file(monkeypatch, tmp_path, dataset, checkpoint):
    asked, read = tmp_path / "asked", tmp_path / "read"
    run(monkeypatch, "--model", checkpoint, "--dataset", dataset, "--output", asked)
    for kind in ("results", "outputs"):
        predictions = ["--predictions", asked / "predictions.json", "--read", kind, "--output", read]
        run(monkeypatch, "--dataset", dataset, "--split", "test", *predictions)
        first, second = (json.loads((folder / "summary.json").read_text()) for folder in (asked, read))
        assert first["ALL"] == second["ALL"] and first["question_hash"] == second["question_hash"]


def test_likelihood_scoring_never_leaves_an_answer_unread(monkeypatch, tmp_path, dataset, checkpoint):
    run(
        monkeypatch, "--model", checkpoint, "--dataset", dataset, "--scoring", "likelihood", "--output", tmp_path / "o"
    )
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert (summary["scoring"], summary["unread"]) == ("likelihood", 0)
    assert summary["ALL"] == summary["likelihood"]["ALL"]


BAD = {
    "no such file": ["--problems", "absent.json", "--predictions", "p.json"],
    "no such file, folder or Hub id": ["--dataset", "./absent", "--predictions", "p.json"],
    "not valid JSON": ["--dataset", "data", "--predictions", "bad.json"],
    "neither results nor outputs": ["--dataset", "data", "--predictions", "data/problems.json"],
    "no such checkpoint folder": ["--dataset", "data", "--model", "./absent"],
    "there is no config.json in it": ["--dataset", "data", "--model", "data"],
    "no problem of split 'val'": ["--dataset", "data", "--predictions", "p.json", "--split", "val"],
    "24 problems have no prediction": ["--dataset", "data", "--predictions", "p.json", "--split", "test"],
    "holds something else": ["--dataset", "data", "--predictions", "p.json", "--output", "data"],
    "holds something else ": ["--dataset", "data", "--model", "tiny", "--output", "data"],
    "pictures are not at hand": ["--dataset", "bare", "--model", "tiny"],
    "cannot be read": ["--dataset", "data", "--model", "tiny", "--chat_template", "absent.jinja"],
    "--batch_size 0 is not positive": ["--dataset", "data", "--model", "tiny", "--batch_size", "0"],
    "not allowed with argument": ["--dataset", "data", "--model", "tiny", "--predictions", "p.json"],
    "../escape: no such file": ["--dataset", "data", "--predictions", "../escape"],
    "no column '../escape'": ["--dataset", "data", "--model", "tiny", "--group_by", "../escape"],
    "no column '../escape' ": ["--dataset", "data", "--predictions", "p.json", "--group_by", "../escape"],
    "required": ["--dataset", "data"],
}


@pytest.mark.parametrize("says", BAD)
def test_bad_input_is_one_line_exit_2_within_2_seconds(says, tmp_path, dataset, checkpoint):
    (tmp_path / "data").symlink_to(dataset)
    (tmp_path / "tiny").symlink_to(checkpoint)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "problems.json").write_bytes((dataset / "problems.json").read_bytes())
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "p.json").write_text('{"results": {"25": 0}}')
    before = sorted(tmp_path.iterdir())
    done = run_light("llava_mistral", "evaluate", *BAD[says], code=2, cwd=tmp_path)
    assert says.strip() in done.error
    assert (done.stdout, sorted(tmp_path.iterdir())) == ("", before)


def test_an_original_checkpoint_is_sent_to_the_converter(monkeypatch, shared, dataset):
    """It opens with the plugin alone, and what is measured is loaded as a stranger would load it."""
    folder = shared / "original_llava" / "llava15_pad"
    with pytest.raises(BadInput, match=f"convert it: llava-mistral convert {folder} OUTPUT --to plugin"):
        run(monkeypatch, "--model", folder, "--dataset", dataset)
