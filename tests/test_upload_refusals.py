"""What the Hub refuses, or would, is said in words of its own and not repeated."""

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.publishing.connection import connect
from llava_mistral.publishing.upload import check_repo_id, content_tag
from tests.support.hub_here import TOKEN, commits, hub_here, save_files, send


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


@pytest.fixture
def files(tmp_path):
    return save_files(tmp_path)


@pytest.mark.case("H9", "survived")
@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"route": "create", "status": 403, "times": 0}, "may not write"),
        ({"route": "commit", "status": 403, "times": 0}, "may not write"),
        ({"route": "create", "status": 401, "times": 0}, "does not accept the token"),
        ({"route": "info", "status": 404, "headers": {"X-Error-Code": "RepoNotFound"}, "times": 0}, "does not exist"),
        ({"route": "info", "status": 403, "headers": {"X-Error-Code": "GatedRepo"}, "times": 0}, "is gated"),
        (
            {"route": "info", "status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}, "times": 0},
            "no such revision",
        ),
        ({"route": "commit", "status": 400, "times": 0}, "refuses this"),
    ],
)
def test_each_refusal_has_its_own_words_and_is_not_repeated(hub, files, rule, said):
    hub.add_fault(**rule)
    with pytest.raises(BadInput, match=said) as error:
        send(files)
    assert TOKEN not in str(error.value)


def test_a_wrong_token_is_said_and_never_shown(hub, files, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "W" * 34)
    with pytest.raises(BadInput) as error:
        send(files)
    assert "token" in str(error.value)
    assert "WWWW" not in str(error.value) + caplog.text
    assert not [r for r in hub.requests if r["route"] in ("put", "commit")]


def test_no_token_is_refused_before_any_request(hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="hf auth login"):
        connect()
    assert not hub.requests


def test_a_server_that_echoes_the_token_does_not_get_it_into_an_error(hub, files):
    hub.add_fault(route="commit", status=400, message=f"bad header Bearer {TOKEN}", times=0)
    with pytest.raises(BadInput) as error:
        send(files)
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize("field", [b"license: [1, 2", b"tags: {a: b}"])
def test_a_card_the_hub_refuses_leaves_no_repository_behind(hub, field):
    with pytest.raises(BadInput, match="refuses the card"):
        send({"README.md": b"---\n" + field + b"\n---\n", "config.json": b"{}"})
    assert not [r for r in hub.requests if r["route"] in ("create", "put", "commit")]


def test_private_is_kept_and_a_public_repository_is_not_taken_for_it(hub, files):
    from huggingface_hub import HfApi

    send(files, "owner/closed", private=True)
    assert HfApi(token=TOKEN).repo_info("owner/closed").private
    send(files, "owner/open")
    with pytest.raises(BadInput, match="is public"):
        send({**files, "new.txt": b"x"}, "owner/open", private=True)
    assert commits("owner/open") == 1


@pytest.mark.parametrize("name", ["a--b/c", "..", "x/y/z", "n" * 97, "owner/name.git", "-a/b", "a b/c"])
def test_a_name_the_hub_would_refuse_is_refused_here(name):
    with pytest.raises(BadInput, match="not a repository name"):
        check_repo_id(name)


def test_a_content_tag_names_the_content_alone():
    sums = {"a": "1", "b": "2"}
    assert content_tag("files", sums) == content_tag("files", dict(reversed(sums.items())))
    assert content_tag("files", sums) != content_tag("files", {"a": "1", "b": "3"})


@pytest.mark.case("H9", "survived")
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not accept the token"),
        (403, "may not write to"),
        (404, "does not exist, or the token cannot see it"),
    ],
)
def test_a_refusal_of_the_xet_client_ends_at_once_in_its_own_words(hub, files, monkeypatch, status, said):
    """It raises a ConnectionError for whatever answer its token request gets; what cannot help is not tried again."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.add_fault(route="xet-token", status=status, times=0)
    with pytest.raises(BadInput, match=said):
        send(files)
    assert len([request for request in hub.requests if request["route"] == "xet-token"]) <= 2


def test_a_long_wait_says_what_it_waits_for(hub, files, capsys):
    hub.add_fault(route="info", status=503, retry_after=6, times=1)
    send(files)
    assert "503" in capsys.readouterr().err
