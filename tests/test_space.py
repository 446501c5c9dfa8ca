"""A chat page on its way to the Hub: pinned to one commit of its model, and nothing in it that needs more."""

import ast
import json
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
    assert extras["app"] == [f"gradio=={space.GRADIO}"]


def test_every_module_the_page_imports_of_ours_is_sent_along():
    ours = {path.stem for path in HOME.glob("*.py")} | {path.parent.name for path in HOME.glob("*/__init__.py")}
    for part, code in {"app.py": space.APP, **{part: (HOME / part).read_text() for part in space.PARTS}}.items():
        for node in ast.walk(ast.parse(code)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            sent = [name for name in names if f"{name.replace('.', '/')}.py" in space.PARTS]
            assert all(name.split(".")[0] not in ours or name in sent for name in names), part


def test_a_space_is_published_pinned_to_the_commit_that_main_was(hub, tmp_path):
    first, newest = publish_model(hub, tmp_path / "home", save_tiny_llava(tmp_path / "checkpoint"))
    before = len(written(hub))
    said = push(hub, tmp_path / "home", "space", "me/model", "me/chat")
    assert "verified: 11 files equal by sha256, app.py starts" in said
    assert f"llava-mistral chat me/model --revision {newest}" in said
    received = download(hub, tmp_path / "stranger", "me/chat", "space")
    assert json.loads((received / "app.json").read_text()) == {"model": "me/model", "revision": newest}
    assert (received / "app.py").read_text() == space.APP
    assert all((received / part).read_bytes() == (HOME / part).read_bytes() for part in space.PARTS)
    assert all(len(line.split("==")) == 2 for line in (received / "requirements.txt").read_text().splitlines())
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
