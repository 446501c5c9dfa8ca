"""One commit or none, whatever the Hub and the wire do: against a Hub on this machine that misbehaves on order."""

import hashlib

import pytest

from llava_mistral.publishing import connection
from llava_mistral.publishing.connection import HubError, connect
from llava_mistral.publishing.upload import publish, read_remote
from tests.support.hub_here import (
    TOKEN,
    WEIGHTS,
    commits,
    hub_here,
    patch_clock,
    save_files,
    send,
    stalled_statuses,
)

STATUSES = [
    *({"status": status} for status in (500, 502, 503, 504)),
    {"status": 429, "retry_after": 2},
    {"status": 429, "headers": {"ratelimit": '"api";r=0;t=1'}},
]
ROUTES = ["validate-yaml", "create", "info", "tree", "preupload", "batch", "put", "verify", "commit", "tag"]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


@pytest.fixture
def files(tmp_path):
    return save_files(tmp_path)


def holds(files, repo_id="owner/name") -> bool:
    api = connect()
    whole = {path: data if isinstance(data, bytes) else data.read_bytes() for path, data in files.items()}
    return all(read_remote(api, repo_id, "model", path, "main") == data for path, data in whole.items())


def stock_commit() -> str:
    """What the client's own `create_commit` makes of a fault that passes."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=TOKEN)
    api.create_repo("owner/theirs", exist_ok=True)
    before = len(api.list_repo_commits("owner/theirs"))
    weights = CommitOperationAdd("model.safetensors", WEIGHTS[::-1])
    try:
        api.create_commit("owner/theirs", [weights], commit_message="Theirs")
    except Exception as error:
        made = len(api.list_repo_commits("owner/theirs")) - before
        return f"raises {type(error).__name__}, {made} commits are made"
    return "tries again, and succeeds"


def test_everything_arrives_in_one_commit_onto_the_head_it_was_made_for(hub, files):
    done = send(files)
    assert done.changed
    assert commits() == 1
    assert holds(files)
    assert done.files["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()


@pytest.mark.case("R2", "survived")
def test_an_unchanged_push_makes_no_commit(hub, files):
    first = send(files)
    second = send(files)
    assert (second.changed, second.commit, commits()) == (False, first.commit, 1)


def test_only_what_changed_is_sent(hub, files):
    send(files)
    sent = len(hub.requests)
    send({**files, "config.json": b'{"a": 1}'})
    assert "put" not in [request["route"] for request in hub.requests[sent:]]
    assert commits() == 2


def test_files_that_are_no_longer_part_of_it_go_and_others_stay(hub, files):
    send({**files, "old.py": b"1", "LICENSE": b"by hand"})
    done = send(files, owns=lambda path: path.endswith(".py"))
    from huggingface_hub import HfApi

    there = HfApi(token=TOKEN).list_repo_files("owner/name", revision=done.commit)
    assert "old.py" not in there
    assert "LICENSE" in there


@pytest.mark.case("H1", "survived")
@pytest.mark.parametrize("route", ["put", "commit"])
def test_a_passing_503_on_any_route_is_survived(hub, files, route, by_itself):
    hub.add_fault(route=route, status=503)
    send(files)
    assert commits() == 1
    assert holds(files)
    hub.add_fault(route=route, status=503)
    by_itself(f"huggingface_hub, 503 on {route}", stock_commit)


@pytest.mark.slow
@pytest.mark.case("H1", "survived")
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("route", ROUTES)
def test_every_passing_status_on_every_route_is_survived(hub, files, route, status):
    hub.add_fault(route=route, **status)
    send(files)
    assert commits() == 1
    assert holds(files)
    assert any(request["fault"] for request in hub.requests)


@pytest.mark.parametrize(("route", "status"), [("commit", 503), slow("preupload", 500), slow("create", 429)])
def test_a_hub_that_fails_for_ever_ends_in_a_clear_error_and_no_commit(hub, files, monkeypatch, route, status):
    clock = patch_clock(monkeypatch)
    hub.add_fault(route=route, status=status, times=0)
    with pytest.raises(HubError, match="kept failing") as error:
        send(files)
    assert connection.FAILING_SECONDS <= clock.now < 60, "seconds of waiting, none of which is waited here"
    assert TOKEN not in str(error.value)
    hub.clear_faults()
    if route != "create":
        assert commits() == 0
    send(files)
    assert commits() == 1


@pytest.mark.case("H2", "survived")
def test_for_ever_ends_within_a_minute_at_the_real_patience(tmp_path, record_property):
    """Not "verify": the Hub then says at the next try that it holds the bytes, and the push goes through."""
    routes = [route for route in ROUTES if route != "verify"]
    for route in routes:
        folder = tmp_path / route
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch, hub_here(folder, patch) as hub:
            clock = patch_clock(patch)
            hub.add_fault(route=route, status=503, times=0)
            with pytest.raises(HubError, match="kept failing") as error:
                send(save_files(folder))
            assert connection.FAILING_SECONDS <= clock.now < 60 and TOKEN not in str(error.value), route
            hub.clear_faults()
            if route not in ("validate-yaml", "create"):  # there is no repository then
                assert commits() == (1 if route == "tag" else 0), route
    record_property("tried", len(routes))


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(hub, files, monkeypatch):
    clock = patch_clock(monkeypatch)
    hub.add_fault(route="preupload", status=429, retry_after=3600, times=0)
    with pytest.raises(HubError, match="come back in 3600 s"):
        send(files)
    assert clock.now < 60 and [request["route"] for request in hub.requests].count("preupload") == 1


@pytest.mark.case("H3", "survived")
@pytest.mark.parametrize("place", [slow(0), slow(0.01), 0.5, slow(0.99), slow(1.0)])
def test_a_cut_upload_is_sent_again(hub, files, place):
    hub.add_fault(route="put", cut=place)
    send(files)
    assert commits() == 1
    assert holds(files)


@pytest.mark.case("H4", "survived")
@pytest.mark.parametrize("side", ["request", "response"])
def test_a_cut_commit_is_made_exactly_once(hub, files, side, by_itself):
    fault = {"route": "commit", "cut": 0.5 if side == "request" else 0, "side": side}
    hub.add_fault(**fault)
    done = send(files)
    assert done.changed
    assert commits() == 1
    assert holds(files)
    hub.add_fault(**fault)
    by_itself(f"huggingface_hub, {side} cut", stock_commit)


@pytest.mark.case("H5", "survived")
@pytest.mark.parametrize("route", ["info", *(slow(route) for route in ROUTES if route != "info")])
def test_a_stalled_answer_is_given_up_and_asked_again(hub, files, route):
    hub.add_fault(route=route, delay=600)
    send(files, timeout=1)
    assert commits() == 1
    assert stalled_statuses(hub) == [None], "the stall was waited out"


def test_a_commit_by_another_in_between_is_built_upon(hub, files):
    from huggingface_hub import HfApi

    send(files)
    heads = []

    def compose(head):
        heads.append(head)
        if len(heads) == 3:  # once for the card's validation, once for the first head: then somebody is faster
            HfApi(token=TOKEN).upload_file(path_or_fileobj=b"theirs", path_in_repo="b.txt", repo_id="owner/name")
        return {**files, "heads.json": str(heads[1:]).encode()}

    heads.append(None)
    publish(connect(), "owner/name", "model", compose, message="Publish")
    assert len(set(heads[2:])) == 2
    assert commits() == 3
    assert holds({"b.txt": b"theirs", "heads.json": str(heads[1:]).encode()})
