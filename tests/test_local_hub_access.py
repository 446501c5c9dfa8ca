"""Who may see and change what on the Local Hub, and who is not answered at all."""

import json
import os

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.hub_requests import CONTENT, TOKEN, ask, create, run_client, upload_address


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        yield hub


def test_private_repositories_look_absent_without_the_token(hub):
    create(hub, visibility="private")
    create(hub, name="public")
    hidden, absent = (ask(hub, "GET", f"/api/models/me/{name}", token=None) for name in ("model", "none"))
    assert (hidden.status, hidden.headers["X-Error-Code"], hidden.body) == (401, "RepoNotFound", absent.body)
    assert ask(hub, "HEAD", "/me/model/resolve/main/.gitattributes", token=None).status == 401
    assert ask(hub, "GET", "/api/models/me/public", token=None).status == 200
    assert [item["id"] for item in ask(hub, "GET", "/api/models", token=None).json()] == ["me/public"]
    assert ask(hub, "GET", "/api/models/me/public", token="wrong").status == 401


CHANGE_WHO_SEES = """
import json
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

api, stranger, said = HfApi(), HfApi(token=False), []
api.create_repo("me/model", private=True)
api.upload_file(repo_id="me/model", path_in_repo="a.txt", path_or_fileobj=b"text")

def see():
    for look in (lambda: stranger.model_info("me/model").gated, lambda: stranger.auth_check("me/model"),
                 lambda: open(hf_hub_download("me/model", "a.txt", token=False)).read()):
        try:
            said.append(look())
        except (GatedRepoError, RepositoryNotFoundError) as error:
            said.append(type(error).__name__)

see()
api.update_repo_settings("me/model", private=False, gated="auto"), see()
api.update_repo_settings("me/model", gated=False), see()
api.auth_check("me/model", write=True)
print(json.dumps(said))
"""


def test_private_repositories_are_absent_and_gated_ones_locked_for_strangers_until_opened(hub, tmp_path):
    said = run_client(hub.environment(tmp_path / "home"), CHANGE_WHO_SEES)
    assert said == [*["RepositoryNotFoundError"] * 3, "auto", *["GatedRepoError"] * 2, False, None, "text"]
    for asked in ({"visibility": "protected"}, {"gated": "never"}, {"private": "no"}):
        assert ask(hub, "PUT", "/api/models/me/model/settings", asked).status == 400
    assert ask(hub, "GET", "/api/models/me/model", token=None).json()["private"] is False


def test_the_child_environment_knows_this_hub_only(hub, monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "https_proxy", "HF_HUB_DISABLE_XET"):
        monkeypatch.setenv(name, "1")
    environment = hub.environment(tmp_path / "home")
    ours = {name: value for name, value in environment.items() if name.startswith(("HF_", "HUGG", "DISABLE_S"))}
    assert ours == {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
    }
    assert "https_proxy" not in environment and environment["PATH"] == os.environ["PATH"]
    assert hub.environment(tmp_path, xet=False)["HF_HUB_DISABLE_XET"] == "1"


def test_the_log_tells_every_request_and_never_the_token(tmp_path):
    with LocalHub(tmp_path / "root", token=TOKEN, log=tmp_path / "log.jsonl") as hub:
        create(hub)
        ask(hub, "PUT", upload_address(hub, CONTENT), CONTENT, token=None)
        ask(hub, "GET", f"/api/models/me/{TOKEN}?token={TOKEN}", Range="bytes=0-1")
        ask(hub, "GET", "/api/models/me/model", token="a-wrong-one")
        hub.add_fault(route="info", status=500, times=0)
        ask(hub, "GET", "/api/models/me/model")
        seen = hub.requests
    lines = (tmp_path / "log.jsonl").read_text()
    assert [json.loads(line) for line in lines.splitlines()] == seen
    assert TOKEN not in lines and "a-wrong-one" not in lines
    keys = {"time", "method", "route", "path", "query", "range", "visitor", "fault", "status", "received", "sent"}
    assert set(seen[0]) == keys | {"seconds"}
    assert [(record["route"], record["status"], record["visitor"]) for record in seen] == [
        ("create", 200, "token"),
        ("batch", 200, "token"),
        ("put", 200, "anonymous"),
        ("info", 404, "token"),
        ("info", 401, "wrong"),
        ("info", 500, "token"),
    ]
    assert seen[2]["received"] == len(CONTENT) and seen[2]["query"]["key"] == "***"
