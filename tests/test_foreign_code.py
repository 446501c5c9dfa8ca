"""Whose code runs: this project's alone, until the user names a commit; and what was looked at is what is loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mistral.ground import environments, foreign_code
from llava_mistral.ground.bad_input import BadInput
from tests.support.hub_here import TOKEN, hub_here
from tests.support.refusals import change, loads, refused
from tests.support.running import HOME, run_here
from tests.support.small_problems import save_problems
from tests.support.strangers import stranger, upload
from tests.support.tiny_llava import save_tiny_llava

shows = pytest.mark.case
VERBS = ["evaluate", "train", "plan", "embedder", "scorer"]


@pytest.fixture
def problems(tmp_path) -> Path:
    return save_problems(tmp_path / "problems", 6)


@pytest.fixture
def ran(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the Hub of the test before
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


@pytest.mark.parametrize("verb", [*VERBS, "push", "app"])
@shows("S25", "refused")
def test_a_folder_that_brings_foreign_code_is_refused(tiny, problems, rows_file, hub, tmp_path, ran, verb):
    folder = stranger(tmp_path / "folder", tiny, ran)
    main, *arguments = loads(verb, folder, problems, rows_file, tmp_path / "out")
    line = refused(main, *arguments, output=tmp_path / "out")
    assert "brings code of its own (stranger.StrangerProcessor), which is not run" in line and not ran.exists()


@pytest.mark.parametrize("verb", [*VERBS, "app"])
@pytest.mark.parametrize("revision", ["main", "its own commit"])
@shows("S12", "refused")
def test_code_on_the_hub_is_not_run_unasked(tiny, problems, rows_file, hub, tmp_path, ran, verb, revision):
    """A commit says what is loaded, not that its code may run."""
    commit = upload("evil/base", stranger(tmp_path / "folder", tiny, ran))
    revision = commit if revision != "main" else revision
    flag = {"evaluate": "--revision", "train": "--model_revision", "plan": "--model_revision"}.get(verb)
    name, more = ("evil/base", (flag, revision)) if flag else (f"evil/base@{revision}", ())
    main, *arguments = loads(verb, name, problems, rows_file, tmp_path / "out", *more)
    line = refused(main, *arguments, output=tmp_path / "out")
    assert "--trust_code_of evil/base@COMMIT" in line and not ran.exists()
    assert not [request for request in hub.requests if request["path"].endswith(".py")]


def llava_mistral(hub, home: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "llava_mistral", *map(str, arguments)]
    return subprocess.run(command, env=hub.environment(home), cwd=HOME, capture_output=True, text=True)


def log_in(home: Path, environment: dict[str, str]) -> None:
    """As `hf auth login --add-to-git-credential` leaves it: the token in two files and in none of the environment."""
    for place in (home / "token", Path(environment["HOME"]) / ".cache" / "huggingface" / "token"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(TOKEN)
    (Path(environment["HOME"]) / ".git-credentials").write_text(f"https://someone:{TOKEN}@hf.example.org\n")
    (Path(environment["HOME"]) / ".gitconfig").write_text("[credential]\n\thelper = store\n")


@shows("S38", "refused")
def test_code_that_is_trusted_is_not_handed_the_login_of_a_file(tiny, problems, hub, tmp_path, ran):
    commit = upload("evil/base", stranger(tmp_path / "folder", tiny, ran))
    environment = {**hub.environment(tmp_path / "home"), "HOME": str(tmp_path / "user")}
    environment.pop("HF_TOKEN")
    log_in(tmp_path / "home", environment)
    asked = ("evaluate", "--model", "evil/base", "--revision", commit, "--dataset", problems, "--split", "train")
    command = [sys.executable, "-m", "llava_mistral", *map(str, asked), "--trust_code_of", f"evil/base@{commit}"]
    done = subprocess.run(command, env=environment, cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(ran.read_text().splitlines()) == {"ran without the token"}


@shows("S38", "accepted")
def test_an_environment_without_logins_shares_the_caches_and_is_itself_again():
    given = {"HF_HOME": "/h", "HF_TOKEN": "1", "HF_TOKEN_PATH": "/t", "SSH_AUTH_SOCK": "/s", "PATH": "/bin"}
    kept = environments.without_logins(given)
    assert kept["HF_HUB_CACHE"] == "/h/hub" and kept["HF_DATASETS_CACHE"] == "/h/datasets" and kept["PATH"] == "/bin"
    assert not {"HF_TOKEN", "HF_TOKEN_PATH", "SSH_AUTH_SOCK"} & kept.keys() and kept["HF_HOME"] != "/h"
    assert environments.without_logins(kept) == kept, "else the program would start itself for ever"
    assert environments.without_logins({"HF_HUB_CACHE": "/c"})["HF_HUB_CACHE"] == "/c"


@shows("S12", "accepted")
def test_code_runs_at_the_commit_the_user_typed_and_sees_no_token(tiny, problems, hub, tmp_path, ran):
    commit = upload("evil/base", stranger(tmp_path / "folder", tiny, ran))
    upload("evil/base", stranger(tmp_path / "newer", tiny, tmp_path / "ran too"))
    asked = ("evaluate", "--model", "evil/base", "--revision", commit, "--dataset", problems, "--split", "train")
    done = llava_mistral(hub, tmp_path / "home", *asked, "--trust_code_of", f"evil/base@{commit}")
    assert done.returncode == 0, done.stderr
    assert set(ran.read_text().splitlines()) == {"ran without the token"} and not (tmp_path / "ran too").exists()


def test_code_trusted_at_one_commit_does_not_run_at_another(tiny, problems, hub, tmp_path, ran, monkeypatch):
    monkeypatch.setattr(foreign_code, "_TRUSTED", {})
    first = upload("evil/base", stranger(tmp_path / "folder", tiny, ran))
    foreign_code.trust(f"evil/base@{first}")
    assert foreign_code.origin("evil/base", first).runs_code
    for revision in (None, "main"):
        with pytest.raises(BadInput, match="name the same commit for both"):
            foreign_code.origin("evil/base", revision)


@pytest.mark.parametrize("named", ["evil/base", "evil/base@main", "evil/base@" + "a" * 39, "/folder@" + "a" * 40])
def test_only_a_whole_commit_of_a_repository_can_be_trusted(named):
    with pytest.raises(BadInput, match="give OWNER/NAME@COMMIT"):
        foreign_code.trust(named)


@pytest.mark.parametrize("verb", [*VERBS, "app"])
@shows("S25", "accepted")
def test_of_our_classes_ours_are_loaded_and_not_the_folders_copy(stage0, problems, rows_file, tmp_path, ran, verb):
    folder = shutil.copytree(stage0, tmp_path / "folder")
    (folder / "custom_generate").mkdir()
    trap = f"open({str(ran)!r}, 'w')\n"
    for file in [*folder.glob("*.py"), folder / "custom_generate" / "generate.py"]:
        file.write_text(trap + (file.read_text() if file.exists() else "def generate(model, **_): pass"))
    main, *arguments = loads(verb, folder, problems, rows_file, tmp_path / "out")
    run_here(main, *arguments)
    assert not ran.exists()


def generating(folder: Path, ran: Path) -> Path:
    """With a `generate` of its own, which the library would take."""
    (folder / "custom_generate").mkdir()
    trap = f"open({str(ran)!r}, 'w')\ndef generate(model, **_): pass\n"
    (folder / "custom_generate" / "generate.py").write_text(trap)
    return folder


@shows("S25", "accepted")
def test_a_generate_of_its_own_does_not_run_though_the_model_is_pinned(tiny, problems, hub, tmp_path, ran):
    commit = upload("evil/base", generating(shutil.copytree(tiny, tmp_path / "folder"), ran))
    run_here(*loads("evaluate", "evil/base", problems, None, tmp_path / "out", "--revision", commit))
    assert not ran.exists()


@shows("S25", "refused")
def test_a_generate_of_its_own_does_not_run_beside_code_that_is_trusted(tiny, hub, tmp_path, ran, monkeypatch):
    monkeypatch.setattr(foreign_code, "_TRUSTED", {})
    commit = upload("evil/base", generating(stranger(tmp_path / "folder", tiny, ran), ran))
    foreign_code.trust(f"evil/base@{commit}")
    with pytest.raises(BadInput, match="brings a custom_generate/generate.py, which is never run"):
        foreign_code.origin("evil/base", commit)


@shows("S26", "refused")
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("part", [None, "text_config"])
def test_a_kernel_named_in_a_config_is_refused(stage0, problems, tmp_path, key, part):
    folder = shutil.copytree(stage0, tmp_path / "folder")
    named = {key: "evil/kernel@main"}
    whole = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", **({part: {**whole[part], **named}} if part else named))
    main, *arguments = loads("evaluate", folder, problems, None, tmp_path / "out")
    assert "names a kernel of the Hub (evil/kernel@main)" in refused(main, *arguments, output=tmp_path / "out")


@shows("S26", "accepted")
def test_an_implementation_of_the_library_is_accepted(stage0, problems, tmp_path):
    folder = shutil.copytree(stage0, tmp_path / "folder")
    change(folder / "config.json", attn_implementation="eager")
    main, *arguments = loads("evaluate", folder, problems, None, tmp_path / "out")
    run_here(main, *arguments)


def test_secrets_are_left_out_of_an_environment_by_their_names():
    secrets = {"HF_TOKEN": "1", "AWS_SECRET_ACCESS_KEY": "2", "WANDB_API_KEY": "3", "db_password": "4"}
    assert environments.without_secrets({**secrets, "PATH": "/bin", "HOME": "/root"}) == {
        "PATH": "/bin",
        "HOME": "/root",
    }
