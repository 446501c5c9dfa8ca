"""A chat page on its way to the Hub: pinned to one commit of its model, and nothing in it that needs more."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llava_mistral.local_hub import LocalHub
from llava_mistral.publishing import space
from tests.support.publishing_runs import TOKEN, download, push, written
from tests.support.publishing_runs import publish as publish_model
from tests.support.running import HOME
from tests.support.tiny_llava import save_tiny_llava


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        yield hub


def test_the_page_and_the_extra_want_the_same_gradio():
    extras = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"gradio=={space.GRADIO}" in extras["app"]


def test_every_module_the_page_imports_of_ours_is_sent_along(tmp_path, stage0):
    """And the page opens a checkpoint with them alone: what `python -I` finds is what lies in the folder."""
    sent = space.parts("llava_mistral.commands.chat")
    assert {"llava_mistral/ground/pictures.py", "llava_mistral/ground/foreign_code.py"} < set(sent)
    for part in sent:
        (tmp_path / "page" / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HOME / part, tmp_path / "page" / part)
    code = "import sys; sys.path.insert(0, 'page'); from llava_mistral.commands import chat; "
    code += "print(chat.__file__); chat.open_chat(chat.Source(sys.argv[1]))"
    ran = subprocess.run(
        [sys.executable, "-c", code, stage0], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip().startswith(str(tmp_path / "page"))


def test_a_space_is_published_pinned_to_the_commit_that_main_was(hub, tmp_path):
    first, newest = publish_model(hub, tmp_path / "home", save_tiny_llava(tmp_path / "checkpoint"))
    before = len(written(hub))
    said = push(hub, tmp_path / "home", "space", "me/model", "me/chat")
    sent = space.parts("llava_mistral.commands.chat")
    assert f"verified: {len(sent) + 4} files equal by sha256, app.py starts" in said
    assert f"llava-mistral chat me/model --revision {newest}" in said
    received = download(hub, tmp_path / "stranger", "me/chat", "space")
    assert json.loads((received / "app.json").read_text()) == {"model": "me/model", "revision": newest}
    assert (received / "app.py").read_text() == space.APP
    assert all((received / part).read_bytes() == (HOME / part).read_bytes() for part in sent)
    pinned = dict(line.split("==") for line in (received / "requirements.txt").read_text().splitlines())
    assert {"torch", "transformers", "huggingface-hub", "numpy", "sympy"} <= pinned.keys() and "pillow" not in pinned
    card = (received / "README.md").read_text()
    assert f"sdk: gradio\nsdk_version: {space.GRADIO}\n" in card and newest in card
    commits = [request for request in written(hub)[before:] if request["route"] == "commit"]
    assert len(commits) == 1

    assert "unchanged at" in push(hub, tmp_path / "home", "space", "me/model", "me/chat", "--no_verify")
    push(hub, tmp_path / "home", "space", "me/model", "me/chat", "--revision", first, "--no_verify")
    again = Path(download(hub, tmp_path / "later", "me/chat", "space"))
    assert json.loads((again / "app.json").read_text())["revision"] == first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["me/absent", "me/chat"], "me/absent does not exist"),
        (["me/text", "me/chat"], "me/text has no config.json"),
        (["me/text", "me/chat", "--revision", "v9"], "no such revision"),
    ],
)
def test_a_model_that_cannot_answer_gets_no_space(hub, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no model")
    publish_model(hub, tmp_path / "home", tmp_path / "empty", "me/text")
    before = len(written(hub))
    assert said in push(hub, tmp_path / "home", "space", *arguments, code=2)
    assert len(written(hub)) == before
