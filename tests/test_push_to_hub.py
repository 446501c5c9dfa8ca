"""The verb, end to end: what a stranger receives from a Hub is what was made, or nothing was written."""

import hashlib
import json
import subprocess
import sys
import time

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
    assert len(snippet) == 8 and snippet[6:] == ["", f"{hub.url}/owner/name"]
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
        "for name in get_dataset_config_names('owner/rows'):\n"
        "    rows = load_dataset('owner/rows', name, split='train')\n"
        "    print(name, rows.num_rows, *rows.column_names)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub.environment(tmp_path / "stranger"), capture_output=True, text=True
    )
    # TRL refuses rows that have its own columns beside `messages`.
    assert done.stdout.splitlines() == [
        "principles 10 id images prompt completion",
        "principles-messages 10 id images messages",
        "random 7 id images prompt completion",
        "random-messages 7 id images messages",
    ], done.stderr


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
    assert "license: cc-by-4.0" in said and "no licence is stated" not in said
    assert said.splitlines()[-1] == f"open {tmp_path / 'preview' / 'README.html'}; nothing was sent"
    assert not hub.requests
    assert (tmp_path / "preview" / "README.html").read_text().startswith("<!doctype html>")


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
