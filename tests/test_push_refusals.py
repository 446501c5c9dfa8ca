"""What must not be published is refused before anything is written, in one line and without the token."""

import subprocess
import sys
from pathlib import Path

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.publishing_runs import TOKEN, VERB, push, written
from tests.support.tiny_publications import save_checkpoint, save_dataset


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("made") / "checkpoint")


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        yield hub


@pytest.mark.slow
def test_a_second_licence_does_not_slip_into_a_repository(hub, tmp_path):
    home = tmp_path / "home"
    push(hub, home, "dataset", save_dataset(tmp_path / "first"), "owner/rows", "--no_verify")
    commits = len(written(hub))
    second = save_dataset(tmp_path / "second", "random", license="cc-by-nc-sa-4.0")
    assert "a repository of their own" in push(hub, home, "dataset", second, "owner/rows", code=2)
    assert len(written(hub)) == commits


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
        (["model", ".", "owner/name"], {}, "is not a checkpoint"),
        (["model", ".", "a--b/c"], {}, "not a repository name"),
        (["model", ".", "owner/name"], {"HF_TOKEN": ""}, "hf auth login"),
        (["model", ".", "owner/name"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (["model", ".", "owner/name", "--timeout", "0"], {}, "above 0"),
        (["model", ".", "owner/name", "--privat"], {}, "there is no flag --privat; did you mean --private?"),
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


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_each_kind_has_its_own_help(kind):
    done = subprocess.run([sys.executable, VERB, kind, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "REPO_ID" in done.stdout


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("model", ["--base_model", "./nowhere"], "field base_model: './nowhere' is not a Hub id"),
        ("model", ["--dataset", "/data/rows"], "field dataset: '/data/rows' is not a Hub id"),
        ("model", ["--ask", "notes.png", "What is it?"], "notes.png is not a JPEG"),
        ("dataset", ["--split", "a/b"], "field split: 'a/b' is not a valid name for a split"),
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
    from llava_mistral.publishing import receiving

    (tmp_path / "app.py").write_text("import numpy  # installed here, as the project may be\n")
    monkeypatch.setattr(receiving, "_download", lambda *_: tmp_path)
    with pytest.raises(SystemExit, match="does not start: ModuleNotFoundError: No module named 'numpy'"):
        receiving._space({"repo_id": "a/b", "commit": "c", "files": {}})
