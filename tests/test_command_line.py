"""What every verb shares: exit codes, one-line errors, folders that appear whole or not at all, and a quick --help."""

import os
import time
from pathlib import Path

import pytest

from bad_input import BadInput
from command_line import VerbParser, check_output_folder, whole_folder
from tests.running import HOME, run_apart, run_here

VERBS = sorted(path.name for path in HOME.glob("*.py") if "run_verb(main)" in path.read_text(encoding="utf-8"))
MODULES = ["processing.digitsqa", "training.components"]
SECONDS = {"train_sft.py": 6}  # its flags are SFTConfig's; two for every other


def test_the_verbs_of_the_study_are_there():
    names = {"build_checkpoint.py", "train_sft.py", "prune_dataset.py", "evaluate_scienceqa.py", "push_to_hub.py"}
    assert names | {"compare_backbones.py"} <= set(VERBS)


@pytest.mark.parametrize("verb", [*VERBS, *MODULES])
def test_help_comes_quickly(verb):
    words = [verb] if verb.endswith(".py") else ["-m", verb]
    started = time.monotonic()
    done = run_apart(*words, "--help")
    assert time.monotonic() - started < 3 * SECONDS.get(verb, 2), "thrice the time is for a busy machine"
    assert done.stdout.startswith("usage: ") and not done.stderr
    assert verb != "train_sft.py" or {"--learning_rate", "--dataset"} <= set(done.stdout.split())


def raises(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (lambda: None, 0, None),
        (lambda: 3, 3, None),
        (raises(BadInput("is odd", remedy="make it even", file="a.json", record=12, field="n")), 2,
         "a.json: record 12: field n: is odd; make it even"),
        (raises(BadInput("spans\nlines", remedy="use one")), 2, "spans lines; use one"),
        (raises(KeyboardInterrupt()), 130, "interrupted; run the same command again to go on"),
        (raises(OSError(28, "No space left on device", "/data/x")), 1, "/data/x: No space left on device; free the"),
        (raises(OSError("no such repository")), 1, "OSError: no such repository; run again with"),
        (raises(ZeroDivisionError("division\nby zero")), 1, "ZeroDivisionError: division by zero; run again with"),
        (raises(RuntimeError()), 1, "RuntimeError: no message; run again"),
    ],
)  # fmt: skip
def test_every_outcome_has_its_exit_code_and_its_line(outcome, code, said):
    done = run_here(outcome, code=code)
    if said is None:
        assert done.stderr == ""
    else:
        assert f": {said}" in done.error
    assert "Traceback" not in done.stderr


def test_verbose_adds_the_traceback():
    done = run_here(raises(BadInput("is odd", remedy="make it even")), "--verbose", code=2)
    assert "Traceback" in done.stderr and done.stderr.endswith("is odd; make it even\n")


def test_the_parser_takes_no_abbreviation(capsys):
    parser = VerbParser(prog="verb.py")
    parser.add_argument("--output")
    with pytest.raises(SystemExit) as left:
        parser.parse_args(["--out", "x"])
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.endswith("run `verb.py --help` for the arguments\n")


@pytest.mark.parametrize("kind", ["absent", "empty", "earlier"])
def test_a_folder_that_may_be_written_to_is_taken(tmp_path, kind):
    folder = tmp_path / "out"
    if kind != "absent":
        folder.mkdir()
    if kind == "earlier":
        (folder / "made.json").write_text("{}")
    assert check_output_folder(folder, "made.json") == folder


@pytest.mark.parametrize("kind", ["other", "file", "dangling link"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, kind):
    path = tmp_path / "out"
    if kind == "other":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="field output: .*; name"):
        check_output_folder(path, "made.json")


def beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_whole_folder_appears_at_the_end(tmp_path):
    out = tmp_path / "deep" / "out"
    with whole_folder(out, "made.json") as folder:
        assert folder != out and not out.exists()
        (folder / "made.json").write_text("1")
    assert beside(out) == ["out"] and (out / "made.json").read_text() == "1"


def test_an_earlier_folder_is_replaced_whole(tmp_path):
    out = tmp_path / "out"
    for text, extra in (("1", "old.txt"), ("2", "new.txt")):
        with whole_folder(out, "made.json") as folder:
            assert (out / "made.json").exists() == (text == "2"), "the old one stays until the end"
            (folder / "made.json").write_text(text)
            (folder / extra).touch()
    assert beside(out) == ["out"]
    assert sorted(os.listdir(out)) == ["made.json", "new.txt"] and (out / "made.json").read_text() == "2"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    out = tmp_path / "out"
    with whole_folder(out, "made.json") as folder:
        (folder / "made.json").write_text("1")
    with pytest.raises(error), whole_folder(out, "made.json") as folder:
        (folder / "made.json").write_text("2")
        raise error
    assert beside(out) == ["out"] and (out / "made.json").read_text() == "1"


def test_the_error_names_only_what_it_knows():
    assert str(BadInput("is odd", remedy="make it even")) == "is odd; make it even"
    assert str(BadInput("is odd", remedy="make it even", record=0)) == "record 0: is odd; make it even"
    error = BadInput("is odd", remedy="make it even", file=Path("a/b.json"), field="n")
    assert str(error) == "a/b.json: field n: is odd; make it even"
    assert (error.problem, error.remedy, error.field, error.record) == ("is odd", "make it even", "n", None)
