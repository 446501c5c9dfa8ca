"""Whose code runs: this project's alone, until the user names a commit; and what was looked at is what is loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mistral.commands import chat
from llava_mistral.ground import environments, foreign_code
from llava_mistral.ground.bad_input import BadInput
from tests.support.hub_here import TOKEN, hub_here
from tests.support.refusals import change, loads, refused
from tests.support.running import HOME, run_here
from tests.support.small_problems import save_problems
from tests.support.tiny_llava import save_tiny_llava

shows = pytest.mark.case
VERBS = ["evaluate", "train", "plan", "embedder", "scorer"]
STRANGER = """
import os
import subprocess
from huggingface_hub import get_token
from transformers import LlavaProcessor

environment = open("/proc/self/environ").read() + str(dict(os.environ)) + str(get_token())
environment += subprocess.run(["git", "credential", "fill"], input="protocol=https\\nhost=hf.example.org\\n\\n",
                              capture_output=True, text=True).stdout
open(RAN, "a").write("ran " + ("with the token" if TOKEN in environment else "without the token") + chr(10))


class StrangerProcessor(LlavaProcessor):
    pass
"""


@pytest.fixture
def problems(tmp_path) -> Path:
    return save_problems(tmp_path / "problems", 6)


@pytest.fixture
def ran(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("made") / "tiny")


def stranger(folder: Path, tiny: Path, ran: Path) -> Path:
    """A checkpoint that works, with code of its own that leaves a trace."""
    shutil.copytree(tiny, folder)
    (folder / "stranger.py").write_text(STRANGER.replace("RAN", repr(str(ran))).replace("TOKEN", repr(TOKEN)))
    change(folder / "processor_config.json", auto_map={"AutoProcessor": "stranger.StrangerProcessor"})
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the Hub of the test before
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


def upload(name: str, folder: Path, **more) -> str:
    from huggingface_hub import HfApi

    HfApi(token=TOKEN).create_repo(name, exist_ok=True)
    return HfApi(token=TOKEN).upload_folder(repo_id=name, folder_path=folder).oid


@pytest.mark.parametrize("verb", [*VERBS, "push", "app"])
@shows("S25", "refused")
def test_a_folder_that_brings_foreign_code_is_refused(tiny, problems, rows_file, hub, tmp_path, ran, verb):
    folder = stranger(tmp_path / "folder", tiny, ran)
    main, *arguments = loads(verb, folder, problems, rows_file, tmp_path / "out")
    line = refused(main, *arguments, output=tmp_path / "out")
    assert "brings code of its own (stranger.StrangerProcessor), which is not run" in line and not ran.exists()


@pytest.mark.parametrize("verb", VERBS)
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
    asked = ("evaluate", "--model", "evil/base", "--revision", commit, "--dataset", problems, "--split", "train")
    done = llava_mistral(hub, tmp_path / "home", *asked, "--trust_code_of", f"evil/base@{commit}")
    assert done.returncode == 0, done.stderr
    assert set(ran.read_text().splitlines()) == {"ran without the token"}


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


@shows("S26", "refused")
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_named_in_a_config_is_refused(stage0, problems, tmp_path, key):
    folder = shutil.copytree(stage0, tmp_path / "folder")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config={**text, key: "evil/kernel@main"})
    main, *arguments = loads("evaluate", folder, problems, None, tmp_path / "out")
    assert "names a kernel of the Hub (evil/kernel@main)" in refused(main, *arguments, output=tmp_path / "out")


@shows("S26", "accepted")
def test_an_implementation_of_the_library_is_accepted(stage0, problems, tmp_path):
    folder = shutil.copytree(stage0, tmp_path / "folder")
    change(folder / "config.json", attn_implementation="eager")
    main, *arguments = loads("evaluate", folder, problems, None, tmp_path / "out")
    run_here(main, *arguments)


def adapter_of(base: Path, folder: Path, **named) -> Path:
    """A LoRA of `base`, saved as PEFT saves it, whose configuration names another base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(base)
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    change(folder / "adapter_config.json", **named)
    return folder


@pytest.mark.parametrize("verb", ["evaluate", "scorer", "push", "app"])
@shows("S27", "refused")
def test_an_adapter_cannot_vouch_for_the_code_of_its_base(tiny, problems, hub, tmp_path, ran, verb):
    commit = upload("evil/base", stranger(tmp_path / "folder", tiny, ran))
    folder = adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path="evil/base", revision=commit)
    main, *arguments = loads(verb, folder, problems, None, tmp_path / "out")
    line = refused(main, *arguments, output=tmp_path / "out")
    assert "evil/base" in line and "which is not run" in line and not ran.exists()


@pytest.mark.parametrize("on_the_hub", [False, True])
@shows("S27", "accepted")
def test_an_adapter_is_loaded_on_the_commit_of_its_base_that_it_notes(tiny, hub, tmp_path, on_the_hub):
    import torch

    commit = upload("good/model", tiny)
    moved = save_tiny_llava(tmp_path / "moved", seed=7)
    newer = upload("good/model", moved)
    folder = adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path="good/model", revision=commit)
    name = str(folder)
    if on_the_hub:
        name, at = "me/adapter", upload("me/adapter", folder)
    seen = len(hub.requests)
    here = chat.open_chat(chat.find(name, at) if on_the_hub else chat.find(name, None)).model
    there = foreign_code.load_model(
        type(here), foreign_code.Origin(str(tiny), adapter=foreign_code.Origin(str(folder)))
    )
    assert not [r["path"] for r in hub.requests[seen:] if newer in r["path"]]
    ids = {"input_ids": torch.tensor([[1, 5, 6, 7]])}
    assert torch.equal(here(**ids).logits, there.eval()(**ids).logits)


def test_an_adapter_on_the_hub_is_evaluated_by_its_name(tiny, problems, hub, tmp_path):
    commit = upload("good/model", tiny)
    upload("me/adapter", adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path="good/model", revision=commit))
    main, *arguments = loads("evaluate", "me/adapter", problems, None, tmp_path / "out")
    assert "pictures" in run_here(main, *arguments).stdout


@shows("S27", "refused")
def test_an_adapter_hidden_in_a_base_is_not_followed(tiny, problems, rows_file, hub, tmp_path):
    """The library would load the base of the base, of which nobody has looked at a file."""
    upload("evil/other", tiny)
    commit = upload("evil/base", adapter_of(tiny, tmp_path / "base", base_model_name_or_path="evil/other"))
    upload("evil/base", tiny)
    named = {"base_model_name_or_path": "evil/base"}
    upload("me/adapter", adapter_of(tiny, tmp_path / "adapter", **named))
    seen = len(hub.requests)
    main, *arguments = loads("evaluate", "me/adapter", problems, None, tmp_path / "out")
    assert "names the base evil/base, which is an adapter" in refused(main, *arguments, output=tmp_path / "out")
    main, *arguments = loads("train", "evil/base", None, rows_file, tmp_path / "out", "--model_revision", commit)
    assert "is an adapter, not a checkpoint; merge it" in refused(main, *arguments, output=tmp_path / "out")
    assert not [one["path"] for one in hub.requests[seen:] if one["path"].endswith("safetensors")]


@pytest.mark.parametrize("sizes", [{"r": 10**9}, {"rank_pattern": {"q_proj": 10**9}}])
@shows("S39", "refused")
def test_an_adapter_of_terabytes_is_refused(tiny, problems, tmp_path, sizes):
    folder = adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path=str(tiny), **sizes)
    main, *arguments = loads("evaluate", folder, problems, None, tmp_path / "out")
    assert "field r: is 1,000,000,000, more than any model has" in refused(main, *arguments, output=tmp_path / "out")


def test_an_adapter_on_the_hub_cannot_name_a_folder_of_this_machine(tiny, problems, hub, tmp_path):
    upload("me/adapter", adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path=str(tiny)))
    main, *arguments = loads("evaluate", "me/adapter", problems, None, tmp_path / "out")
    assert "not a Hub repository" in refused(main, *arguments, output=tmp_path / "out")


def test_secrets_are_left_out_of_an_environment_by_their_names():
    secrets = {"HF_TOKEN": "1", "AWS_SECRET_ACCESS_KEY": "2", "WANDB_API_KEY": "3", "db_password": "4"}
    assert environments.without_secrets({**secrets, "PATH": "/bin", "HOME": "/root"}) == {
        "PATH": "/bin",
        "HOME": "/root",
    }
