"""What a verb may replace: an earlier output of its own, and nothing that merely bears the name of one."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from llava_mistral.commands import build, convert, prune
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import whole_folder
from llava_mistral.ground.output_folders import OUTPUTS, check_output_folder
from tests.support.running import HOME, run_here
from tests.support.small_problems import save_problems

STRANGERS = {
    "manifest.json": {"manifest_version": 3, "name": "an extension of a browser"},
    "config.json": {"model_type": "bert", "hidden_size": 8},
    "summary.json": {"total": 3},
    "comparison.json": {"left": 1, "right": 2},
    "study.json": {"patients": 12},
    "problems.json": {"1": {"question": "?", "choices": ["a", "b"], "answer": 0, "split": "train"}},
    "open.json": {"hours": "9 to 5"},
    "components.json": ["button", "form"],
    "decoders.json": {"h264": True},
    "real.json": {"time": 3},
    "README.html": {},
}


def test_every_marker_is_tried():
    assert STRANGERS.keys() == OUTPUTS.keys()


@pytest.mark.parametrize("made_by", OUTPUTS)
@pytest.mark.case("S28", "refused")
def test_a_folder_with_a_file_of_the_right_name_is_not_taken_for_ours(tmp_path, made_by):
    (tmp_path / made_by).write_text(json.dumps(STRANGERS[made_by]))
    with pytest.raises(BadInput, match="was not written by this command"):
        check_output_folder(tmp_path, made_by)


@pytest.mark.parametrize(("verb", "name"), [("prune", "manifest.json"), ("build", "config.json")])
@pytest.mark.case("S28", "refused")
def test_a_verb_leaves_such_a_folder_as_it_is(tmp_path, verb, name):
    folder = tmp_path / "mine"
    (folder / "src").mkdir(parents=True)
    (folder / name).write_text(json.dumps(STRANGERS[name]))
    (folder / "src" / "app.js").write_text("mine")
    data = ("--dataset", save_problems(tmp_path / "problems", 3), "--method", "random", "--size", 1)
    main, words = (prune.main, data) if verb == "prune" else (build.main, ("--vision", "v", "--llm", "m"))
    said = run_here(main, *words, "--output", folder, code=2).error
    assert f"{name} was not written by this command" in said and (folder / "src" / "app.js").read_text() == "mine"


def made(verb: str, output: Path, tmp_path: Path, stage0: Path) -> None:
    if verb == "prune":
        problems = tmp_path / "problems"
        problems.exists() or save_problems(problems, 6)
        run_here(prune.main, "--dataset", problems, "--method", "random", "--size", 3, "--output", output)
    else:
        run_here(convert.main, stage0, output, "--to", verb)


@pytest.mark.parametrize("verb", ["prune", "plugin", "llava-hf", "original"])
@pytest.mark.case("S28", "accepted")
def test_an_output_of_an_earlier_run_is_replaced(tmp_path, stage0, verb):
    for _ in range(2):
        made(verb, tmp_path / "out", tmp_path, stage0)


@pytest.mark.parametrize("verb", ["prune", "plugin"])
@pytest.mark.case("S28", "refused")
def test_an_output_that_holds_something_of_the_users_is_not_replaced(tmp_path, stage0, verb):
    made(verb, tmp_path / "out", tmp_path, stage0)
    (tmp_path / "out" / "notes").mkdir()
    (tmp_path / "out" / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="notes/mine.txt, which this command does not write"):
        check_output_folder(tmp_path / "out", "manifest.json" if verb == "prune" else "config.json")


@pytest.mark.parametrize("kind", ["added", "changed", "while it runs"])
@pytest.mark.case("S28", "refused")
def test_a_file_under_a_name_of_ours_that_the_verb_did_not_write_is_not_removed(tmp_path, kind):
    """The patterns of `OUTPUTS` fit it; the list of what was written does not."""
    out = tmp_path / "out"
    with whole_folder(out, "open.json") as folder:
        (folder / "open.json").write_text(json.dumps({"digit": [], "pictured": [], "text": []}))
        if kind != "added":
            (folder / "answers.json").write_text("{}")
    if kind == "while it runs":
        with (
            pytest.raises(BadInput, match="answers.json, which was changed"),
            whole_folder(out, "open.json") as folder,
        ):
            (out / "answers.json").write_text("mine, of an hour's work")
    else:
        (out / "answers.json").unlink(missing_ok=True)
        (out / "answers.json").write_text("mine, of an hour's work")
        with pytest.raises(BadInput, match=r"answers.json, which (this command did not write|was changed)"):
            check_output_folder(out, "open.json")
    assert (out / "answers.json").read_text() == "mine, of an hour's work"


@pytest.mark.parametrize("marker", ["{}", "[]", "no JSON", '{"files": ["open.json"]}'])
@pytest.mark.case("S28", "refused")
def test_a_marker_that_lists_nothing_proves_nothing(tmp_path, marker):
    (tmp_path / "open.json").write_text('{"tabs": []}')
    (tmp_path / ".llava-mistral").write_text(marker)
    with pytest.raises(BadInput, match="open.json was not written by this command"):
        check_output_folder(tmp_path, "open.json")


@pytest.mark.case("S28", "accepted")
def test_its_neighbour_that_is_as_it_was_written_is_replaced(tmp_path):
    for text in ("1", "2"):
        with whole_folder(tmp_path / "out", "open.json") as folder:
            (folder / "open.json").write_text(json.dumps({"digit": [], "pictured": [], "text": []}))
            (folder / "answers.json").write_text(text)
    assert (tmp_path / "out" / "answers.json").read_text() == "2"


def test_a_trained_checkpoint_is_not_replaced_by_another_verb(tmp_path, stage0):
    shutil.copytree(stage0, tmp_path / "trained")
    (tmp_path / "trained" / "run.json").write_text("{}")
    arguments = (build.main, "--vision", "v", "--llm", "m", "--output", tmp_path / "trained")
    assert "run.json, which this command does not write" in run_here(*arguments, code=2).stderr


def test_an_output_folder_that_holds_what_is_read_is_not_replaced(tmp_path, stage0):
    """Pruning a pruned set into its own folder would leave the smaller set alone; links lead to the same folder."""
    made("prune", tmp_path / "out", tmp_path, stage0)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for source, output in (("out", "out"), ("out/data", "out"), ("link", "out"), ("out", "link")):
        arguments = ("--dataset", tmp_path / source, "--method", "random", "--size", 1, "--output", tmp_path / output)
        said = run_here(prune.main, *arguments, code=2).stderr
        assert f"field output: holds {tmp_path / source}, which is read, and would be replaced" in said
    assert json.loads((tmp_path / "out/manifest.json").read_text())["counts"]["kept"] == 3
    run_here(
        prune.main, "--dataset", tmp_path / "out", "--method", "random", "--size", 1, "--output", tmp_path / "new"
    )
    shutil.copytree(stage0, tmp_path / "mine")
    said = run_here(convert.main, tmp_path / "mine", tmp_path / "mine", "--to", "plugin", code=2).stderr
    assert "which is read, and would be replaced" in said


def test_every_folder_that_is_written_has_its_files_listed():
    """The file that marks an output is known, so that a second run replaces the first one's."""
    calls = [
        node.args
        for path in sorted((HOME / "llava_mistral").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) in ("check_output_folder", "whole_folder")
    ]
    marks = {args[1].value for args in calls if len(args) > 1 and isinstance(args[1], ast.Constant)}
    assert len(marks) > 8 and marks <= OUTPUTS.keys()
