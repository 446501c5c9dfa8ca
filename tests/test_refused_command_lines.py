"""Ten kinds of wrong command lines: one line, exit code 2, nothing written, and nothing heavy imported to find out.

`train` alone imports TRL first: its parser knows the keys and their types, and a second reading of our own of the same
recipe did not always agree with it. A refusal takes seconds there, and comes before any data or weights are read.
"""

import json
from pathlib import Path
from unittest import mock

import pytest

from tests.support.hub_here import hub_here
from tests.support.malformed import GOOD, hollow
from tests.support.running import run_apart, run_here, run_light

LONG = "o/" + "a" * 97

BUILD = "build --vision {base} --llm {base} --output {new}"
CONVERT = "convert {base} {new} --to plugin"
TRAIN = "train --stage pretrain --model_name_or_path {base} --dataset {data} --output_dir {new}"
PRUNE = "prune --dataset {data} --method full --output {new}"
SCORE = "evaluate --problems {data} --predictions {predictions} --output {new}"
ASK = "evaluate --problems {data} --model {base} --output {new}"
COMPARE = "compare a={base} b={empty} --output {new}"
STUDY = "study --config miniature/study --output {new}"
PUSH, SPACE = "publish model {base} o/n", "publish space o/m o/n"
CHAT = "chat {base}"
HUB, INIT, STUDIO = "hub --root {new}", "init {data} --model {base}", "studio"
VERBS = [BUILD, CONVERT, TRAIN, PRUNE, SCORE, COMPARE, STUDY, PUSH, CHAT]

CASES = {
    "F1": [
        *((f"{verb} --no_such_flag x", "there is no flag --no_such_flag; did you mean --")
          for verb in (*VERBS, HUB, INIT, STUDIO) if verb != TRAIN),
        (f"{TRAIN} --no_such_flag x", "field no_such_flag: there is no such flag; did you mean --"),
    ],
    "F2": [
        ("build --vision {base} --output {new}", "the following arguments are required: --llm"),
        ("convert {base} {new}", "the following arguments are required: --to"),
        ("train", "field stage: is not given; add it to the recipe or pass --stage"),
        ("train --stage pretrain --dataset {data}", "field model_name_or_path: is not given; add it"),
        ("prune --dataset {data} --method full", "--output is missing"),
        ("evaluate --problems {data}", "one of the arguments --predictions --model is required"),
        ("compare a={base} b={empty}", "the following arguments are required: --output"),
        ("study", "the following arguments are required: --config"),
        ("publish model {base}", "the following arguments are required: REPO_ID"),
        ("chat", "field MODEL: no model is named; give a checkpoint folder or a Hub id"),
    ],
    "F3": [
        # A study's output may hold what its steps begin with.
        *((verb.replace("{new}", "{full}"), "holds something else") for verb in (*VERBS[:-3], ASK)),
        (f"{PUSH} --dry_run --preview {{full}}", "holds something else"),
    ],
    "F4": [
        *((verb.replace("{new}", "{file}"), "is a file") for verb in (*VERBS[:-2], ASK)),
        *((verb.replace("{new}", "{file}/deep/new"), "{file} is a file") for verb in (*VERBS[:-2], ASK)),
        *((verb.replace("{base}", "{file}"), "{file}") for verb in (BUILD, CONVERT, TRAIN, ASK, COMPARE, PUSH, CHAT)),
        (f"{TRAIN} --image_folder {{file}}", "{file}: field image_folder: is a file, not a folder"),
        (f"{PUSH} --dry_run --preview {{file}}", "is a file"),
    ],
    "F5": [
        *((f"{TRAIN} --learning_rate {rate}", f"field learning_rate: {float(rate)} is out of range; give a positive")
          for rate in ("nan", "-1e-5", "inf", "-inf", "0")),
        (f"{TRAIN} --learning_rate 1e-5x", "field learning_rate: invalid float value: '1e-5x'"),
        (f"{TRAIN} --max_grad_norm nan", "field max_grad_norm: nan is out of range"),
        (f"{PRUNE} --necessity nan", "--necessity nan is not between 0 and 1"),
        (f"{PRUNE} --max_bad_samples nan", "field max_bad_samples: nan is not a share; give 0 to 1"),
        (f"{PUSH} --timeout inf", "field timeout: inf s is not a valid time-out"),
    ],
    "F6": [
        (f"{TRAIN} --per_device_train_batch_size 0", "field per_device_train_batch_size: 0 is out of range"),
        (f"{TRAIN} --per_device_eval_batch_size 0", "field per_device_eval_batch_size: 0 is out of range"),
        (f"{ASK} --batch_size 0", "--batch_size 0 is not positive; give 1 or more"),
        (f"{COMPARE} --batch_sizes 4 0", "--batch_sizes 0 is not positive; give 1 or more"),
        (f"{CHAT} --max_new_tokens 0", "field max_new_tokens: 0 tokens are too few for an answer; give 1 or more"),
    ],
    "F7": [
        *((f"publish model {{base}} {name}", f"'{name}' is not a repository name")
          for name in ("a--b", "..", "../x", "x/y/z", LONG, "o/n.git")),
        ("publish model {base} name", "'name' names no owner; use OWNER/NAME"),
        ("publish space x/y/z o/n", "'x/y/z' is not a repository name"),
        ("chat x/y/z", "field MODEL: 'x/y/z' is neither a folder nor a Hub id"),
    ],
    "F8": [
        (verb, "there is no token to publish with; set HF_TOKEN or run `hf auth login`")
        for verb in (PUSH, "publish dataset {base} o/n", SPACE)
    ],
    "F9": [
        (f"{TRAIN} --resume_from_checkpoint {place}", "field resume_from_checkpoint: is not allowed here; leave it")
        for place in ("{full}", "{file}", "True")
    ],
    "F10": [
        (f"{TRAIN} --use_peft", "field use_peft: stage 1 trains the projector in full and has no use for LoRA"),
        (f"{TRAIN} --lora_r 8", "field lora_r: has no effect without LoRA; add --use_peft or leave it out"),
        (f"{TRAIN} --load_in_4bit", "field load_in_4bit: 4-bit weights cannot be trained"),
        (f"{TRAIN} --packing True", "field packing: is not allowed here; leave it out: packed, which is on"),
        (f"{TRAIN} --max_length 64", "field max_length: is not allowed here; leave it out: cutting a row would cut"),
        (f"{TRAIN} --push_to_hub", "field push_to_hub: is not allowed here; leave it out, and publish"),
        (f"{ASK} --predictions {{predictions}}", "argument --predictions: not allowed with argument --model"),
        (f"{PRUNE} --stratified", "--stratified has no effect with --method full, only with --method random"),
    ],
}  # fmt: skip
LINES = [
    pytest.param(line, said, marks=pytest.mark.case(case, "refused"), id=f"{case} {line.split('.py')[0]} {number}")
    for case, lines in CASES.items()
    for number, (line, said) in enumerate(lines)
]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lines")
    places = {name: folder / name for name in ("base", "empty", "full", "file", "data", "predictions", "new")}
    hollow(places["base"])
    for name in ("empty", "full"):
        places[name].mkdir()
    (places["full"] / "mine.txt").write_text("mine")
    places["file"].write_text("mine")
    places["data"].write_text(json.dumps([GOOD]))
    places["predictions"].write_text('{"results": {"1": 0}}')
    return places


@pytest.mark.parametrize(("line", "said"), LINES)
def test_a_wrong_command_line_is_refused_at_once(places, tmp_path, monkeypatch, line, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # nobody connects: what is wrong is known without the Hub
    monkeypatch.chdir(tmp_path)
    folder = places["base"].parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    verb, *words = line.format(**places).split()
    refused = refused_by_train if verb == "train" else refused_at_once
    line = refused(verb, words)
    assert line.startswith(f"llava-mistral {verb}") and said.format(**places) in line and "; " in line
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before and not list(tmp_path.iterdir())


def refused_at_once(verb: str, words: list[str]) -> str:
    """The one line of a verb in a process of its own, which imports nothing heavy."""
    done = run_light("llava_mistral", verb, *words, code=2, cwd=Path.cwd())
    assert not done.stdout
    return done.error


def refused_by_train(verb: str, words: list[str]) -> str:
    """The one line of training, in this process: neither data nor weights are read for it."""
    from llava_mistral.commands.train import main

    with mock.patch("llava_mistral.data.conversations.read_rows", side_effect=AssertionError("data was read")):
        done = run_here(main, *words, code=2)
    assert not done.stdout
    return done.error


def test_training_refuses_a_misspelt_flag_in_a_process_of_its_own():
    """The one refusal of training that is started as a user starts it, with whatever the libraries say by the way."""
    done = run_apart("-m", "llava_mistral", "train", "--lr", "1e-3", code=2)
    assert done.error == "llava-mistral train: field lr: there is no such flag; did you mean --learning_rate?"


def test_every_verb_is_given_a_flag_that_does_not_exist():
    from llava_mistral.cli import VERBS as ALL

    assert {line.split()[0] for line, _ in CASES["F1"]} == ALL.keys()


# The legal neighbours: the same command lines, right.


@pytest.mark.case("F1", "accepted")
@pytest.mark.case("F2", "accepted")
def test_known_flags_and_all_that_are_required_are_taken(tmp_path):
    from tests.support.small_problems import PROBLEM

    (tmp_path / "problems.json").write_text(json.dumps({"1": PROBLEM}))
    (tmp_path / "predictions.json").write_text('{"results": {"1": 1}}')
    given = ("--problems", tmp_path / "problems.json", "--predictions", tmp_path / "predictions.json")
    done = run_apart("-m", "llava_mistral", "evaluate", *given, "--read", "results", "--verbose")
    assert "accuracy %   100.00" in done.stdout


@pytest.mark.case("F3", "accepted")
@pytest.mark.case("F4", "accepted")
def test_an_output_of_its_own_and_a_new_folder_far_below_are_taken(places, tmp_path, monkeypatch, rows_file):
    from llava_mistral.commands.prune import main

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for out in (tmp_path / "link" / "deep" / "out",) * 2:
        run_here(main, *("--dataset", rows_file, "--method", "full", "--output", out))
        assert (out / "manifest.json").is_file()


@pytest.mark.case("F5", "accepted")
@pytest.mark.case("F6", "accepted")
@pytest.mark.case("F10", "accepted")
@pytest.mark.parametrize(
    "flags",
    [
        ("--stage", "pretrain", "--learning_rate", "1e-5", "--per_device_train_batch_size", "1"),
        ("--stage", "finetune", "--learning_rate", "1e-30", "--use_peft", "--lora_r", "8", "--push_to_hub", "False"),
    ],
)
def test_flags_that_fit_the_stage_are_taken(stage0, rows_file, tmp_path, flags):
    from llava_mistral.commands.train import main

    given = ("--model_name_or_path", stage0, "--dataset", rows_file, "--output_dir", tmp_path / "out", "--use_cpu")
    assert "steps" in run_here(main, *given, "--plan", *flags).stdout


@pytest.mark.case("F7", "accepted")
@pytest.mark.case("F8", "accepted")
@pytest.mark.parametrize("name", ["o/n", LONG[:-1], "an-owner/a_name-v1.5"])
def test_with_a_token_and_a_name_that_the_hub_takes_it_is_published(tmp_path, monkeypatch, name):
    from llava_mistral.commands.publish import main
    from tests.support.tiny_publications import save_dataset

    dataset = save_dataset(tmp_path / "dataset")
    with hub_here(tmp_path, monkeypatch) as hub:
        assert f"{name} published as" in run_here(main, "dataset", dataset, name, "--no_verify").stdout
        assert any(request["route"] == "commit" and request["status"] == 200 for request in hub.requests)


@pytest.mark.case("F9", "accepted")
def test_the_same_command_goes_on_from_a_checkpoint_of_its_own(stage0, rows_file, tmp_path, monkeypatch):
    from tests.support.training_runs import interrupt, train

    saving = {"save_strategy": "steps", "save_steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_save", interrupt)
        train("pretrain", stage0, rows_file, tmp_path / "out", code=130, **saving)
    done = train("pretrain", stage0, rows_file, tmp_path / "out", **saving)
    assert f"{tmp_path / 'out' / 'checkpoint-2'}: going on from here" in done.stdout
