"""What every verb shares: exit codes, one-line errors, folders that appear whole or not at all, and a quick --help."""

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from llava_mistral.cli import VERBS
from llava_mistral.ground import output_folders
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, check_output_folder, whole_folder
from llava_mistral.ground.output_folders import Output
from tests.support.running import HOME, run_apart, run_here, run_light

MODULES = ["llava_mistral.miniature.digitsqa", "llava_mistral.miniature.components"]
SCRIPTS = {"train_sft.py": "train", "push_to_hub.py": "publish"}


def test_every_verb_has_its_page_and_every_page_its_verb():
    pages = {path.stem for path in (HOME / "llava_mistral" / "commands").glob("*.py")} - {"__init__"}
    assert pages == set(VERBS)


@pytest.mark.parametrize("verb", [*VERBS, *MODULES])
def test_help_comes_quickly(verb):
    words = ["llava_mistral", verb] if verb in VERBS else [verb]
    done = run_light(*words, "--help")
    assert done.stdout.startswith("usage: ") and not done.stderr
    if verb in VERBS and verb != "hub":
        assert re.search(rf"\nexamples:\n  llava-mistral {verb}\b", done.stdout)
    ours, _, always = done.stdout.partition("\nalways:\n")
    assert "--verbose" in always and "--verbose" not in ours and "default: None" not in ours


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_there_under_every_name(script):
    done = run_apart(script, "--help")
    assert done.stdout.startswith("usage: ") and not done.stderr


def test_what_a_verb_requires_is_marked():
    said = run_light("llava_mistral", "build", "--help").stdout
    usage = " ".join(said.split("\n\n")[0].split())
    assert usage == "usage: llava-mistral build --vision VISION --llm LLM --output OUTPUT [options]"
    assert said.count("(required)") == 3


def test_what_looks_like_a_flag_is_a_value_where_the_library_takes_it_for_one():
    from llava_mistral.ground.command_line import VerbParser

    parser = VerbParser(prog="llava-mistral verb")
    parser.add_argument("file")
    parser.add_argument("--source")
    assert parser.parse_args(["--", "--odd_name"]).file == "--odd_name"
    assert parser.parse_args(["a", "--source", "--from the web"]).source == "--from the web"


def test_train_shows_our_flags_first_and_all_of_trls_when_asked():
    from dataclasses import fields

    from trl import SFTConfig

    from llava_mistral.commands.train import main
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.recipe_help import GROUPS, USUAL

    grouped = [name for names in GROUPS.values() for name in names.split()]
    assert sorted(grouped) == sorted(line.name for line in fields(StageArguments)), "each flag of ours in one group"
    assert USUAL.keys() <= {line.name for line in fields(SFTConfig)}
    short = run_light("llava_mistral", "train", "--help").stdout
    assert short.count("\n") < 160 and short.index("--dataset ") < short.index("--learning_rate ")
    assert "--adam_beta1" not in short and " ".join(short.split()).count("(required, here or in the recipe)") == 4
    everything = run_here(main, "--help-all").stdout
    assert all(f"--{line.name} " in everything for line in fields(SFTConfig) if line.init)


def test_another_trainers_names_are_understood():
    from llava_mistral.training.recipe import parse_recipe

    for given, meant in (("lr", "learning_rate"), ("epochs", "num_train_epochs"), ("batch_size", "per_device_train")):
        with pytest.raises(BadInput, match=f"did you mean --{meant}"):
            parse_recipe([f"--{given}", "1"])


def test_the_command_lists_its_verbs_and_names_the_nearest():
    done = run_apart("-m", "llava_mistral", "--help")
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS) and not done.stderr
    assert run_apart("-m", "llava_mistral", "eval", code=2).error == (
        "llava-mistral: there is no command eval; did you mean evaluate?"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "llava_mistral"),
        (
            "-m",
            "llava_mistral.commands.{verb}",
        ),
        ("{script}",),
    ],
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_verb_is_the_same_by_whatever_name_it_is_started(script, words):
    verb = SCRIPTS[script]
    words = [word.format(verb=verb, script=script) for word in words]
    words += [verb] if words[-1] == "llava_mistral" else []
    words += ["--trust_code_of", "x"] if verb == "train" else ["--no_such_flag"]  # before TRL is imported
    assert run_apart(*words, code=2).error.startswith(f"llava-mistral {verb}: ")


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
        (raises(FileNotFoundError(2, "No such file or directory", "/x")), 1, "/x: No such file or directory; correct"),
        (raises(ConnectionRefusedError(111, "Connection refused")), 1, "Connection refused; start the server that"),
        (raises(RuntimeError("at x: Connection refused")), 1, "at x: Connection refused; start the server that"),
        (raises(OSError(98, "Address already in use")), 1, "Address already in use; name another port and run"),
        (raises(OSError(5, "Input/output error", "/x")), 1, "OSError: [Errno 5] Input/output error: '/x'; run again"),
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
    assert line == "verb.py: there is no flag --out; did you mean --output?\n"


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """A verb that writes made.json, and perhaps a text beside it."""
    output = Output(lambda found: True, r"made\.json|\w+\.txt")
    monkeypatch.setitem(output_folders.OUTPUTS, "made.json", output)


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
    assert (
        sorted(os.listdir(out)) == [output_folders.MARKER, "made.json", "new.txt"]
        and (out / "made.json").read_text() == "2"
    )


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


def test_a_hub_that_nobody_answers_for_ends_in_one_line_without_further_tries(tmp_path):
    """An address that refuses connections; no cache holds anything."""
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x"}
    checkpoint = tmp_path / "mine"
    checkpoint.mkdir()
    for words in (
        ("chat", "me/x"),
        ("evaluate", "--model", "me/x", "--dataset", "me/y"),
        ("prune", "--dataset", "me/y", "--method", "random", "--size", "9", "--output", tmp_path / "out"),
        ("build", "--vision", "me/x", "--llm", "me/y", "--output", tmp_path / "out"),
        ("train", "--stage", "finetune", "--model_name_or_path", "me/x", "--dataset", "me/y", "--output_dir", "out"),
    ):
        done = run_apart("-m", "llava_mistral", *words, code=2, **gone)
        assert "from the cache (nobody answers at http://127.0.0.1:9" in done.error, words
    done = run_apart("-m", "llava_mistral", "publish", "model", checkpoint, "me/x", code=2, **gone)
    assert "nobody answers at http://127.0.0.1:9" in done.error


def test_only_where_nobody_answers_the_libraries_are_kept_offline(monkeypatch):
    from huggingface_hub import constants

    from llava_mistral.ground import hub_access
    from llava_mistral.local_hub import LocalHub

    hub_access._reach.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with TemporaryDirectory() as root, LocalHub(Path(root)) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        hub_access.reach_hub("me/x")
        assert hub_access.unreachable() is None and not constants.HF_HUB_OFFLINE and not hub.requests
    hub_access._reach.cache_clear()
    with pytest.raises(BadInput, match="nobody answers at"):
        hub_access.reach_hub("me/x")
    assert constants.HF_HUB_OFFLINE
    hub_access._reach.cache_clear()
