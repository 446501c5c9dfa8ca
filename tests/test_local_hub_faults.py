"""Faults on order, and what becomes of requests whose connection ends."""

import http.client
import re
import socket
import time

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.local_hub import LocalHub
from llava_mistral.local_hub.faults import read_rules
from llava_mistral.local_hub.routes import ROUTES
from tests.support.hub_requests import (
    BOTH_WAYS,
    CONTENT,
    PUSH,
    SHA256,
    TOKEN,
    ask,
    assert_published,
    commit,
    commit_body,
    create,
    run_client,
    save_four_files,
    start_client,
    titles,
    upload_address,
    wait_until,
)


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        yield hub


REQUESTS = {
    "whoami": ("GET", "/api/whoami-v2", None),
    "agent-harnesses": ("GET", "/api/agent-harnesses", None),
    "list": ("GET", "/api/models", None),
    "info": ("GET", "/api/models/me/model", None),
    "tree": ("GET", "/api/models/me/model/tree/main", None),
    "paths-info": ("POST", "/api/models/me/model/paths-info/main", b"paths=README.md"),
    "refs": ("GET", "/api/models/me/model/refs", None),
    "settings": ("PUT", "/api/models/me/model/settings", {"gated": "auto"}),
    "auth-check": ("GET", "/api/models/me/model/auth-check", None),
    "commits": ("GET", "/api/models/me/model/commits/main", None),
    "resolve": ("HEAD", "/me/model/resolve/main/.gitattributes", None),
    "create": ("POST", "/api/repos/create", {"organization": "me", "name": "second"}),
    "branch": ("POST", "/api/models/me/model/branch/next", {}),
    "tag": ("POST", "/api/models/me/model/tag/main", {"tag": "v1"}),
    "validate-yaml": ("POST", "/api/validate-yaml", {"content": "---\nlicense: mit\n---\n", "repoType": "model"}),
    "preupload": ("POST", "/api/models/me/model/preupload/main", {"files": [{"path": "a", "size": 1, "sample": ""}]}),
    "batch": ("POST", "/me/model.git/info/lfs/objects/batch", {"operation": "upload", "objects": []}),
    "put": ("PUT", None, CONTENT),
    "verify": ("POST", f"/lfs/{SHA256}/verify", {"oid": SHA256, "size": len(CONTENT)}),
    "xet-token": ("GET", "/api/models/me/model/xet-write-token/main", None),
    "commit": ("POST", "/api/models/me/model/commit/main", commit_body({"a.txt": b"a"})),
    "delete": ("DELETE", "/api/repos/delete", {"organization": "me", "name": "model"}),
}


def test_each_route_can_fail_once_and_then_works(hub):
    assert set(REQUESTS) == {route.name for route in ROUTES}
    create(hub)
    for number, (route, (method, path, body)) in enumerate(REQUESTS.items()):
        path = path or upload_address(hub, CONTENT)
        status = (429, 500, 502, 503, 504)[number % 5]
        hub.add_fault(route=route, status=status, retry_after=3)
        failed = ask(hub, method, path, body)
        assert (failed.status, failed.headers["Retry-After"]) == (status, "3"), route
        assert ask(hub, method, path, body).status == 200, route
        struck, carried_out = hub.requests[-2:]
        assert struck["fault"]["status"] == status == struck["status"] and carried_out["fault"] is None
    wanted = {route.name for route in ROUTES if route.writes}
    for route in wanted:
        method, path, body = REQUESTS[route]
        assert ask(hub, method, path or f"/lfs/{SHA256}?size=1&key=", body, token=None).status == 401, route


def test_rules_choose_by_method_path_skip_and_times(hub):
    create(hub)
    url, info = "/me/model/resolve/main/.gitattributes", "/api/models/me/model"
    hub.add_fault(route="resolve", method="HEAD", status=500, times=2, skip=1)
    hub.add_fault(path="*/absent.txt", status=503, times=0)
    assert [ask(hub, "HEAD", url).status for _ in range(5)] == [200, 500, 500, 200, 200]
    assert ask(hub, "GET", url).status == 200
    assert {ask(hub, "GET", "/me/model/resolve/main/absent.txt").status for _ in range(5)} == {503}
    hub.clear_faults()
    assert ask(hub, "GET", "/me/model/resolve/main/absent.txt").status == 404
    hub.add_fault(route="info", delay=0.3)
    hub.add_fault(route="info", status=429, headers={"ratelimit": '"api";r=0;t=3'})
    started = time.monotonic()
    assert ask(hub, "GET", info).status == 200 and time.monotonic() - started > 0.3
    assert ask(hub, "GET", info).headers["ratelimit"] == '"api";r=0;t=3'


@pytest.mark.parametrize("place", [0, 0.01, 0.5, 0.99, 1.0])
def test_a_commit_cut_on_the_way_in_is_not_carried_out(hub, place):
    create(hub)
    hub.add_fault(route="commit", cut=place)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        commit(hub, {"a.txt": b"a" * 10_000})
    assert titles(hub) == ["initial commit"]
    assert hub.requests[-2]["status"] is None
    assert commit(hub, {"a.txt": b"a" * 10_000}).status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_commit_whose_client_goes_away_is_not_carried_out(hub, chunked):
    create(hub)
    lines = commit_body({"a.txt": b"a", "b.txt": b"b"}).splitlines(keepends=True)
    kept = b"".join(lines[:-1])  # a whole commit by the look of it, were the length not known
    kept = f"{len(kept):x}\r\n".encode() + kept + b"\r\n" if chunked else kept
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {sum(map(len, lines))}"
    head = f"POST /api/models/me/model/commit/main HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n{length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(head.encode() + kept)
    wait_until(lambda: hub.requests[-1]["route"] == "commit")
    assert hub.requests[-1]["status"] is None and titles(hub) == ["initial commit"]


def test_a_commit_whose_answer_is_lost_is_carried_out(hub):
    create(hub)
    hub.add_fault(route="commit", cut=0, side="response")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        commit(hub, {"a.txt": b"a"})
    assert titles(hub) == ["a commit", "initial commit"]


def test_downloads_can_be_cut_and_flipped(hub):
    create(hub)
    content = bytes(1000)
    commit(hub, {"zeros.txt": content})
    hub.add_fault(route="resolve", cut=0.25)
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(hub, "GET", "/me/model/resolve/main/zeros.txt")
    assert len(cut.value.partial) == 250 == hub.requests[-1]["sent"]
    hub.add_fault(route="resolve", flip=500)
    flipped = ask(hub, "GET", "/me/model/resolve/main/zeros.txt").body
    assert (len(flipped), [at for at, byte in enumerate(flipped) if byte]) == (1000, [500])
    assert ask(hub, "GET", "/me/model/resolve/main/zeros.txt").body == content
    address = upload_address(hub, CONTENT)
    hub.add_fault(route="put", flip=1.0)
    assert ask(hub, "PUT", address, CONTENT, token=None).status == 400


@pytest.fixture
def folder(tmp_path):
    return save_four_files(tmp_path / "folder")


def test_the_client_recovers_from_what_its_own_retries_cover(hub, folder, tmp_path):
    hub.add_fault(route="preupload", status=429, retry_after=0)
    hub.add_fault(route="batch", status=503)
    hub.add_fault(route="put", status=500)
    hub.add_fault(route="put", cut=0.5)
    hub.add_fault(route="verify", status=502)
    said = run_client(hub.environment(tmp_path / "home", xet=False), PUSH, folder)
    assert ask(hub, "GET", "/api/models/me/model").json()["sha"] == said["oid"]
    assert sum(record["fault"] is not None for record in hub.requests) == 5
    assert_published(hub, folder)


VERIFY = """
import json
from huggingface_hub import HfApi, snapshot_download
snapshot_download("me/model")
print(json.dumps([mismatch["path"] for mismatch in HfApi().verify_repo_checksums("me/model").mismatches]))
"""


def test_a_byte_flipped_on_the_way_back_is_seen_only_by_checksums(hub, folder, tmp_path):
    run_client(hub.environment(tmp_path / "home"), PUSH, folder)
    hub.add_fault(route="resolve", method="GET", path="*/2.bin", flip=0.5)
    assert run_client(hub.environment(tmp_path / "other"), VERIFY) == ["2.bin"]


def test_a_client_killed_in_its_upload_goes_on_where_it_stopped(hub, folder, tmp_path):
    hub.add_fault(route="put", skip=2, delay=30, times=2)
    client = start_client(hub.environment(tmp_path / "home", xet=False), PUSH, folder)
    wait_until(lambda: sum(record["route"] == "put" for record in hub.requests) == 2)
    client.kill()
    client.communicate()
    assert titles(hub) == ["initial commit"]
    hub.clear_faults()
    hub.requests.clear()
    run_client(hub.environment(tmp_path / "home", xet=False), PUSH, folder)
    assert sum(record["route"] == "put" for record in hub.requests) == 2
    assert_published(hub, folder)


@BOTH_WAYS
def test_a_commit_pending_when_its_client_is_killed_lands_once(hub, folder, tmp_path, xet):
    hub.add_fault(route="commit", delay=1)
    client = start_client(hub.environment(tmp_path / "home", xet=xet), PUSH, folder)
    wait_until(lambda: sum(record["route"] in ("verify", "xet-token") for record in hub.requests) == (1 if xet else 4))
    time.sleep(0.4)  # the commit is sent once the files are; should it not have been, the second push makes it
    client.kill()
    client.communicate()
    time.sleep(1)
    run_client(hub.environment(tmp_path / "home", xet=xet), PUSH, folder)
    assert_published(hub, folder)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("[", "not JSON"),
        ("{}", "not a list of objects"),
        ('[{"status": 503}, {"rout": "put"}]', "record 1: field rout"),
        ('[{"status": "503"}]', "field status"),
        ('[{"status": 200}]', "not an error status"),
        ('[{"route": "put"}]', "does nothing"),
        ('[{"delay": -1}]', "out of range"),
        ('[{"cut": true}]', "field cut"),
        ('[{"cut": 1, "side": "left"}]', "not a side"),
    ],
)
def test_a_bad_fault_rule_is_named(tmp_path, rules, said):
    (tmp_path / "rules.json").write_text(rules)
    with pytest.raises(BadInput, match=re.escape(said)) as refused:
        read_rules(tmp_path / "rules.json")
    assert "rules.json" in str(refused.value)
