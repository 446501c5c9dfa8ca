"""The verb, end to end: what a stranger receives from a Hub is what was made, or nothing was written."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.publishing_runs import TOKEN, VERB, download, push, written
from tests.support.tiny_publications import SUMMARY, png, save_checkpoint, save_dataset


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("made") / "checkpoint")


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        yield hub


@pytest.mark.case("R1", "survived")
@pytest.mark.parametrize("xet", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_arrives_bit_for_bit_and_answers(hub, checkpoint, tmp_path, xet):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "chart.png").write_bytes(png(1))
    (tmp_path / "recipe.yaml").write_text("learning_rate: 2.0e-5  # as in the study\n")
    extras = [
        "--results",
        tmp_path / "summary.json",
        "--chart",
        tmp_path / "chart.png",
        "--recipe",
        tmp_path / "recipe.yaml",
        "--ask",
        tmp_path / "chart.png",
        "What is this?",
    ]
    said = push(hub, tmp_path / "home", "model", checkpoint, "owner/name", *extras, "--license", "apache-2.0", xet=xet)
    assert "files equal by sha256, logits equal bit for bit (text and image prompt);" in said
    assert "asked 'What is this?', the pipeline answers" in said
    assert "stays here: checkpoint-8/optimizer.pt, training_args.bin" in said

    received = download(hub, tmp_path / "stranger", "owner/name")
    weights = [hashlib.sha256((place / "model.safetensors").read_bytes()).digest() for place in (received, checkpoint)]
    assert weights[0] == weights[1]
    assert not {"training_args.bin", "checkpoint-8"} & {path.name for path in received.iterdir()}
    assert {"README.md", "recipe.yaml", "run.json", "assets"} <= {path.name for path in received.iterdir()}
    card = (received / "README.md").read_text()
    assert "74.39" in card
    assert TOKEN not in card
    revision = card.split('revision="')[1].split('"')[0]
    assert download(hub, tmp_path / "other", "owner/name", revision=revision) / "x" != received  # the tag is there

    snippet = said[said.rindex("from transformers import pipeline") :].strip().splitlines()
    assert len(snippet) == 6
    assert 'revision="' in snippet[2]
    commit = snippet[2].split('revision="')[1].split('"')[0]
    assert commit == received.name
    assert len(commit) == 40


@pytest.mark.case("S21", "accepted")
@pytest.mark.case("R1", "survived")
@pytest.mark.case("R2", "survived")
def test_several_configs_of_a_dataset_share_a_repository_and_its_card(hub, tmp_path):
    first = save_dataset(tmp_path / "first", "principles", rows=10)
    second = save_dataset(tmp_path / "second", "random", rows=7)
    home = tmp_path / "home"
    assert "loaded and streamed (train 10)" in push(hub, home, "dataset", first, "owner/rows")
    assert "published as" in push(hub, home, "dataset", second, "owner/rows", "--no_verify")
    assert "unchanged at" in push(hub, home, "dataset", first, "owner/rows", "--no_verify")
    assert len([request for request in written(hub) if request["route"] == "commit"]) == 2
    code = (
        "from datasets import config, get_dataset_config_names, load_dataset\n"
        "config.USE_PARQUET_EXPORT = False  # asks datasets-server.127.0.0.1\n"
        "print(*[(name, load_dataset('owner/rows', name, split='train').num_rows)"
        " for name in get_dataset_config_names('owner/rows')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub.environment(tmp_path / "stranger"), capture_output=True, text=True
    )
    assert done.stdout.strip() == "('principles', 10) ('random', 7)", done.stderr


@pytest.mark.slow
def test_a_second_licence_does_not_slip_into_a_repository(hub, tmp_path):
    home = tmp_path / "home"
    push(hub, home, "dataset", save_dataset(tmp_path / "first"), "owner/rows", "--no_verify")
    commits = len(written(hub))
    second = save_dataset(tmp_path / "second", "random", license="cc-by-nc-sa-4.0")
    assert "a repository of their own" in push(hub, home, "dataset", second, "owner/rows", code=2)
    assert len(written(hub)) == commits


@pytest.mark.slow
@pytest.mark.case("P1", "survived")
def test_five_publishers_of_five_configs_all_arrive(hub, tmp_path):
    methods = ["principles", "farthest", "random", "longest", "shortest"]
    folders = [save_dataset(tmp_path / method, method) for method in methods]
    running = [
        subprocess.Popen(
            [sys.executable, VERB, "dataset", folder, "owner/rows"],
            env=hub.environment(tmp_path / f"home-{folder.name}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * 5, said
    card = (download(hub, tmp_path / "stranger", "owner/rows", "dataset") / "README.md").read_text()
    assert all(f"config_name: {method}" in card for method in methods)


def test_a_dry_run_shows_the_card_and_contacts_nothing(hub, tmp_path):
    folder = save_dataset(tmp_path / "made")
    options = ["--dry_run", "--preview", tmp_path / "preview"]
    said = push(hub, tmp_path / "home", "dataset", folder, "owner/rows", *options)
    assert "principles/train-00000-of-00001.parquet" in said
    assert "license: cc-by-4.0" in said
    assert not hub.requests
    assert (tmp_path / "preview" / "README.html").read_text().startswith("<!doctype html>")


def spoil(folder: Path, change) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def without_first(weights):
    return dict(list(weights.items())[1:])


def with_nan(weights):
    name = next(name for name in weights if "projector" in name and name.endswith("weight"))
    weights[name].view(-1)[3] = float("nan")
    return weights


def with_another(weights):
    return {**weights, "model.stray.weight": next(iter(weights.values())).clone()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(without_first, "missing keys", marks=pytest.mark.slow),
        pytest.param(with_nan, "not finite: model.multi_modal_projector", marks=pytest.mark.slow),
        pytest.param(with_another, "unexpected keys model.stray.weight", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_that_does_not_load_whole_is_refused_before_anything_is_written(hub, tmp_path, change, said):
    folder = save_checkpoint(tmp_path / "checkpoint")
    spoil(folder, change)
    assert said in push(hub, tmp_path / "home", "model", folder, "owner/name", code=2)
    assert not hub.requests


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["model", "absent", "owner/name"], {}, "the folder does not exist"),
        (["model", ".", "owner/name"], {}, "is no checkpoint"),
        (["model", ".", "a--b/c"], {}, "no repository name"),
        (["model", ".", "owner/name"], {"HF_TOKEN": ""}, "hf auth login"),
        (["model", ".", "owner/name"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (["model", ".", "owner/name", "--timeout", "0"], {}, "above 0"),
        (["model", ".", "owner/name", "--privat"], {}, "unrecognized arguments: --privat"),
        (["dataset", ".", "owner/name"], {}, "manifest.json: does not exist"),
        (["page", ".", "owner/name"], {}, "invalid choice"),
        (["space", ".", "owner/name"], {}, "publish the folder first"),
        (["space", "owner/model", "owner/name", "--dry_run", "--revision", "v1"], {}, "a commit of 40"),
    ],
)
def test_bad_usage_is_one_line_exit_2_and_no_request(hub, tmp_path, arguments, environment, said):
    (tmp_path / "home").mkdir()
    error = push(hub, tmp_path / "home", *arguments, code=2, **environment)
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not hub.requests


def over_the_limit(folder: Path) -> list:
    path = save_checkpoint(folder) / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(50 * 10**9 + 1)  # sparse: it takes no room
    return ["model", folder]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(
            lambda folder: ["dataset", save_dataset(folder, license=None)],
            "under which licence",
            marks=pytest.mark.case("S21", "refused"),
        ),
        (lambda folder: ["dataset", save_dataset(folder), "--license", "my-own"], "is not a licence the Hub knows"),
        pytest.param(
            lambda folder: ["dataset", save_dataset(folder, source="ScienceQA"), "--license", "mit"],
            "come under cc-by-nc-sa-4.0",
            marks=[pytest.mark.slow, pytest.mark.case("S21", "refused")],
        ),
        (over_the_limit, "is over the Hub's 50 GB for one file"),
    ],
    ids=["no licence", "no such licence", "another licence", "too big"],
)
def test_what_may_not_be_published_is_refused_before_anything_is_written(hub, tmp_path, make, said):
    kind, folder, *options = make(tmp_path / "made")
    error = push(hub, tmp_path / "home", kind, folder, "owner/name", *options, code=2)
    assert said in error and len(error.strip().splitlines()) == 1
    assert not hub.requests


def test_a_secret_in_any_file_stops_everything(hub, tmp_path):
    folder = save_dataset(tmp_path / "made", recipe={"wandb": "https://me:hunter22@example.org"})
    error = push(hub, tmp_path / "home", "dataset", folder, "owner/rows", code=2)
    assert "principles/manifest.json holds a password in an address" in error
    assert "hunter22" not in error
    assert not hub.requests


@pytest.mark.slow
@pytest.mark.parametrize(("route", "said"), [("commit", "may not write"), ("create", "may not write")])
def test_a_forbidden_repository_is_said_in_one_line(hub, tmp_path, route, said):
    hub.add_fault(route=route, status=403, times=0)
    error = push(hub, tmp_path / "home", "dataset", save_dataset(tmp_path / "made"), "owner/rows", code=2)
    assert said in error.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.case("S19", "refused")
@pytest.mark.case("S19", "accepted")
def test_the_token_is_in_no_output_even_when_everything_is_logged(hub, tmp_path):
    """`push` looks for it in what the verb prints; what lies at the Hub (card, commit messages) is searched here."""
    folder = save_dataset(tmp_path / "made")
    loud = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}
    push(hub, tmp_path / "home", "dataset", folder, "owner/rows", "--verbose", **loud)
    hub.add_fault(route="commit", status=400, message=f"header was Bearer {TOKEN}", times=0)
    changed = save_dataset(tmp_path / "changed", rows=3)
    push(hub, tmp_path / "home", "dataset", changed, "owner/rows", code=2, **loud)
    stored = [path for path in hub.store.root.rglob("*") if path.is_file()]
    assert stored and not [path for path in stored if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in json.dumps([request | {"fault": None} for request in hub.requests])


def test_a_flipped_byte_on_the_way_back_is_detected(hub, tmp_path):
    hub.add_fault(route="resolve", method="GET", path="*.parquet", flip=0.5, times=0)
    error = push(hub, tmp_path / "home", "dataset", save_dataset(tmp_path / "made"), "owner/rows", code=1)
    assert "came back" in error
    assert "other bytes than were sent" in error


@pytest.mark.slow
def test_a_download_that_fails_in_passing_is_tried_again(hub, tmp_path):
    hub.add_fault(route="resolve", method="GET", path="*.parquet", status=503)
    assert "verified" in push(hub, tmp_path / "home", "dataset", save_dataset(tmp_path / "made"), "owner/rows")


@pytest.mark.slow
@pytest.mark.case("K7", "survived")
@pytest.mark.case("H7", "survived")
@pytest.mark.parametrize(
    ("route", "before", "xet"),
    [
        ("preupload", "create", False),
        ("put", "batch", False),
        ("commit", "put", False),
        ("preupload", "create", True),
        ("xet-token", "preupload", True),
        ("commit", "xet-token", True),
    ],
)
def test_a_killed_push_shows_nothing_and_is_finished_by_the_next(hub, tmp_path, route, before, xet):
    folder = save_dataset(tmp_path / "made")
    hub.add_fault(route=route, delay=20)
    running = subprocess.Popen(
        [sys.executable, VERB, "dataset", folder, "owner/rows"],
        env=hub.environment(tmp_path / "home", xet=xet),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not [request for request in hub.requests if request["route"] == before]:
        time.sleep(0.1)
    time.sleep(0.5)
    running.kill()
    running.wait()
    assert not [request for request in hub.requests if request["route"] == "commit"]
    assert "verified" in push(hub, tmp_path / "home", "dataset", folder, "owner/rows", xet=xet)
    made = [request for request in written(hub) if request["route"] in ("commit", "put")]
    assert len({request["path"] for request in made}) == len(made), "an object or a commit was sent twice"


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_each_kind_has_its_own_help(kind):
    done = subprocess.run([sys.executable, VERB, kind, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "REPO_ID" in done.stdout


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("model", ["--base_model", "./nowhere"], "field base_model: './nowhere' is no Hub id"),
        ("model", ["--dataset", "/data/rows"], "field dataset: '/data/rows' is no Hub id"),
        ("model", ["--ask", "notes.png", "What is it?"], "notes.png is no JPEG"),
        ("dataset", ["--split", "a/b"], "field split: 'a/b' is no name for a split"),
        ("dataset", ["--license", "unknown"], "nothing says under which licence"),
    ],
)
def test_an_option_that_would_spoil_the_card_or_the_proof_is_refused_first(tmp_path, kind, options, said):
    from llava_mistral.commands.publish import main
    from tests.support.running import run_here

    (tmp_path / "notes.png").write_text("no picture")
    folder = save_checkpoint(tmp_path / "made") if kind == "model" else save_dataset(tmp_path / "made")
    options = [tmp_path / option if option == "notes.png" else option for option in options]
    preview = ["--dry_run", "--preview", tmp_path / "preview"]
    assert said in run_here(main, kind, folder, "owner/name", *options, *preview, code=2).error


def test_a_page_that_leans_on_the_project_installed_here_does_not_pass(tmp_path, monkeypatch):
    from llava_mistral.publishing import verification

    (tmp_path / "app.py").write_text("import numpy  # installed here, as the project may be\n")
    monkeypatch.setattr(verification, "_download", lambda *_: tmp_path)
    with pytest.raises(SystemExit, match="does not start: ModuleNotFoundError: No module named 'numpy'"):
        verification._space({"repo_id": "a/b", "commit": "c", "files": {}})
