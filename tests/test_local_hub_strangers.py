"""The Local Hub answers programs of this machine: no page in a browser writes, and no request hangs or fills it."""

import http.client
import json
import re
import socket
import threading

import pytest

from llava_mistral.local_hub import LocalHub
from llava_mistral.local_hub.exchange import Exchange
from llava_mistral.local_hub.git_rules import is_ignored, is_large
from llava_mistral.local_hub.messages import MOST
from tests.support.hub_requests import TOKEN, ask, commit, commit_body, create, titles

COMMIT = "/api/models/me/model/commit/main"
PREUPLOAD = "/api/models/me/model/preupload/main"
STARS = "*a" * 12 + "b"


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        create(hub)
        yield hub


def raw(hub, text: str) -> bytes:
    """What comes back to these bytes before the Hub ends the connection, or nothing within 10 s."""
    with socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1])), timeout=10) as connection:
        connection.sendall(text.encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.mark.case("L1", "refused")
@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_no_other_host_is_answered(hub, host):
    for method, path, body in (
        ("GET", "/api/models/me/model", None),
        ("POST", "/api/repos/create", {"organization": "me", "name": "second"}),
        ("DELETE", "/api/repos/delete", {"organization": "me", "name": "model"}),
    ):
        assert ask(hub, method, path, body, Host=host).status == 403
    assert titles(hub) == ["initial commit"] and ask(hub, "GET", "/api/models/me/second").status == 404


@pytest.mark.case("L2", "refused")
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_no_page_of_another_origin_is_answered(hub, origin):
    assert ask(hub, "POST", COMMIT, commit_body({"evil.py": b""}), Origin=origin).status == 403
    assert ask(hub, "GET", "/api/models/me/model", Origin=origin).status == 403
    assert titles(hub) == ["initial commit"]


@pytest.mark.case("L1", "accepted")
@pytest.mark.case("L2", "accepted")
def test_its_own_names_are_answered_and_used_in_addresses(hub):
    port = hub.url.rsplit(":", 1)[1]
    for name in ("127.0.0.1", "localhost"):
        asked = {"organization": "me", "name": name.replace(".", "-")}
        made = ask(hub, "POST", "/api/repos/create", asked, Host=f"{name}:{port}", Origin=f"http://{name}:{port}")
        assert made.status == 200 and made.json()["url"].startswith(f"http://{name}:{port}/")


@pytest.mark.case("L3", "refused")
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_body_of_a_type_that_any_page_may_send_changes_nothing(hub, kind):
    assert ask(hub, "POST", COMMIT, commit_body({"evil.py": b""}), Content_Type=kind).status == 415
    assert ask(hub, "POST", "/api/repos/create", {"name": "second"}, Content_Type=kind).status == 415
    assert titles(hub) == ["initial commit"]


@pytest.mark.case("L3", "accepted")
@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/json; charset=utf-8"])
def test_a_body_of_a_type_that_clients_send_is_taken(hub, kind):
    assert ask(hub, "POST", COMMIT, commit_body({"a.txt": b""}), Content_Type=kind).status == 200


@pytest.mark.case("L4", "refused")
def test_a_token_is_asked_for_though_none_was_named(tmp_path):
    with LocalHub(tmp_path / "one") as hub, LocalHub(tmp_path / "two") as other:
        assert hub.token and hub.token != other.token and hub.environment(tmp_path)["HF_TOKEN"] == hub.token
        for token in (None, other.token, ""):
            assert ask(hub, "POST", "/api/repos/create", {"name": "model"}, token=token).status == 401
        assert not list(hub.store.repos("models"))


@pytest.mark.case("L4", "accepted")
def test_with_the_token_that_was_made_or_where_none_is_wanted_it_is_written(tmp_path):
    with LocalHub(tmp_path / "one") as hub, LocalHub(tmp_path / "two", unguarded=True) as unguarded:
        assert ask(hub, "POST", "/api/repos/create", {"name": "model"}, token=hub.token).status == 200
        assert ask(unguarded, "POST", "/api/repos/create", {"name": "model"}, token=None).status == 200


@pytest.mark.timeout(60)
@pytest.mark.case("L5", "refused")
@pytest.mark.parametrize("rules", [STARS, "**/" * 30 + "b", "**" + STARS, "[a-z]" * 150 + STARS, "*" * 900])
@pytest.mark.parametrize("path", ["a" * 50, "a" * 1000, "a/" * 49 + "a"])
def test_patterns_of_many_stars_are_matched_in_little_time(hub, rules, path):
    """With expressions that go back over what a star took, one of these takes longer than the machine lasts."""
    file = {"path": path, "size": 1, "sample": ""}
    answer = ask(hub, "POST", PREUPLOAD, {"gitIgnore": rules, "files": [file] * 4})
    assert answer.status == 200 and {file["shouldIgnore"] for file in answer.json()["files"]} == {rules == "*" * 900}
    commit(hub, {".gitattributes": f"{rules} filter=lfs\n".encode()})
    assert ask(hub, "POST", PREUPLOAD, {"files": [file]}).status == 200


@pytest.mark.case("L5", "refused")
@pytest.mark.parametrize("rules", ["a\n" * 1001, "*" * 1001])
def test_more_rules_than_anybody_writes_are_refused(hub, rules):
    asked = {"gitIgnore": rules, "files": [{"path": "a", "size": 1, "sample": ""}]}
    assert ask(hub, "POST", PREUPLOAD, asked).status == 413


@pytest.mark.case("L5", "accepted")
def test_patterns_mean_what_they_mean_to_git():
    for pattern, path in (
        *(("*.txt", "a/b.txt"), ("a*b*c", "a1b2c"), ("**/x", "x"), ("**/x", "a/b/x"), ("a/**", "a/b/c")),
        *(("a/**/b", "a/b"), ("a/**/b", "a/x/y/b"), ("/top", "top"), ("d/*.py", "d/a.py"), ("[!a]?.c", "bb.c")),
        *(("a/**/b/**/c", "a/b/x/b/c"), ("build/", "build/a"), ("*", ".hidden")),
    ):
        assert is_ignored(path, pattern), (pattern, path)
    for pattern, path in (
        *(("*.txt", "a.txt.b"), ("a*b*c", "a1c2b"), ("**/x", "xx"), ("a/**", "a"), ("a/**/b", "a/xb")),
        *(("/top", "a/top"), ("d/*.py", "d/e/a.py"), ("[!a]?.c", "ab.c"), ("build/", "build")),
    ):
        assert not is_ignored(path, pattern), (pattern, path)
    assert is_large("m/a.bin", 9, b"", "m/*.bin filter=lfs\n") and not is_large(
        "n/a.bin", 9, b"", "m/*.bin filter=lfs\n"
    )


@pytest.mark.case("L6", "refused")
@pytest.mark.parametrize(
    "path", ["/api/validate-yaml", "/api/repos/create", PREUPLOAD, "/api/models/me/model/paths-info/main"]
)
def test_a_body_larger_than_any_client_s_is_not_read_to_its_end(hub, path):
    pieces = iter([b" " * (1 << 20)] * 700)
    with pytest.raises(ConnectionError):  # the client is still sending
        ask(hub, "POST", path, pieces)
    assert (hub.requests[-1]["status"], hub.requests[-1]["received"] < 2 * MOST) == (413, True)


@pytest.mark.case("L6", "refused")
def test_bytes_beyond_those_that_were_announced_are_not_stored(hub):
    item = {"oid": "0" * 64, "size": 10}
    asked = {"operation": "upload", "objects": [item]}
    address = ask(hub, "POST", "/me/model.git/info/lfs/objects/batch", asked).json()["objects"][0]["actions"]["upload"]
    assert ask(hub, "PUT", address["href"], b"x" * (4 << 20), token=None).status == 400
    assert not list(hub.store.incoming.iterdir())


@pytest.mark.case("L6", "accepted")
def test_a_long_card_is_looked_at_and_a_file_of_ten_megabytes_is_committed(hub):
    card = "---\nlicense: mit\n---\n" + "text " * 1_000_000
    assert ask(hub, "POST", "/api/validate-yaml", {"content": card}).status == 200
    assert commit(hub, {"a.txt": b"a" * (10 << 20)}).status == 200


@pytest.mark.case("L7", "refused")
@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "+4", "4, 5", "1 2", "9" * 30, "4\r\nContent-Length: 5", ""])
def test_a_length_that_is_no_number_is_a_bad_request(hub, length):
    head = f"POST /api/repos/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    answer = raw(hub, f"{head}Content-Length: {length}\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [repo.id for repo in hub.store.repos("models")] == ["me/model"]


@pytest.mark.case("L7", "accepted")
def test_a_length_is_heeded_and_the_connection_goes_on(hub):
    body = json.dumps({"organization": "me", "name": "second"})
    head = f"POST /api/repos/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    then = "GET /api/models/me/second HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert raw(hub, f"{head}Content-Length: {len(body)}\r\n\r\n{body}{then}").count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    ("coding", "answers"),
    [
        pytest.param("chunked", [b"200", b"200"], marks=pytest.mark.case("L7", "accepted")),
        *(pytest.param(one, [b"400"], marks=pytest.mark.case("L7", "refused")) for one in ("x", "gzip, chunked")),
    ],
)
def test_chunks_and_a_length_are_read_in_one_way_alone(hub, coding, answers):
    """Chunks go before the length, and what else they may be is refused with the connection's end."""
    body = json.dumps({"organization": "me", "name": "second"})
    head = f"POST /api/repos/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    sent = f"{head}Content-Length: 3\r\nTransfer-Encoding: {coding}\r\n\r\n{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    then = "GET /api/models/me/second HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert re.findall(rb"HTTP/1.1 (\d+) ", raw(hub, sent + then)) == answers


@pytest.mark.case("L8", "refused")
@pytest.mark.parametrize(
    "begun", ["", "GET /api/mod", "GET / HTTP/1.1\r\nHost: loc", "POST {} HTTP/1.1\r\nContent-Length: 9\r\n\r\n{{"]
)
def test_what_is_begun_and_not_ended_is_let_go(hub, monkeypatch, begun):
    monkeypatch.setattr(Exchange, "patience", 0.3)
    before = threading.active_count()
    connections = [socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1])), 10) for _ in range(40)]
    for connection in connections:
        connection.sendall(begun.format("/api/repos/create").encode())
    assert ask(hub, "GET", "/api/models/me/model").status == 200
    assert [connection.recv(1) for connection in connections] == [b""] * 40, "ended by the Hub"
    for connection in connections:
        connection.close()
    for _ in range(100):
        if threading.active_count() <= before:
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"{threading.active_count()} threads, {before} before")


@pytest.mark.case("L8", "refused")
def test_a_head_that_comes_byte_by_byte_is_let_go_too(hub, monkeypatch):
    monkeypatch.setattr(Exchange, "patience", 0.5)
    address = ("127.0.0.1", int(hub.url.rsplit(":", 1)[1]))
    with socket.create_connection(address, 10) as connection, pytest.raises(ConnectionError):
        for letter in "GET /api/models/me/model HTTP/1.1\r\nX: " + "x" * 100:
            connection.sendall(letter.encode())
            threading.Event().wait(0.05)


@pytest.mark.case("L8", "accepted")
def test_a_body_that_comes_slowly_and_a_connection_that_is_used_again_are_served(hub, monkeypatch):
    monkeypatch.setattr(Exchange, "patience", 1.0)

    def slowly():
        for line in commit_body({f"{n}.txt": b"" for n in range(6)}).splitlines(keepends=True):
            threading.Event().wait(0.3)
            yield line

    assert ask(hub, "POST", COMMIT, slowly()).status == 200
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    for _ in range(3):
        connection.request("GET", "/api/models/me/model")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()


@pytest.mark.case("L9", "refused")
@pytest.mark.parametrize("asked", [{}, {"name": None}, {"name": 7}, {"name": ["x"]}, {"name": ""}])
def test_a_repository_without_a_name_is_refused(hub, asked):
    assert ask(hub, "POST", "/api/repos/create", asked).status == 400
    assert [repo.id for repo in hub.store.repos("models")] == ["me/model"]


@pytest.mark.case("L9", "accepted")
def test_a_repository_without_an_owner_is_the_user_s(hub):
    assert ask(hub, "POST", "/api/repos/create", {"name": "second"}).json()["name"] == "local/second"


@pytest.mark.case("L10", "refused")
@pytest.mark.parametrize(
    "yaml",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "a: &a [*a]\n",
    ],
    ids=["billion laughs", "itself"],
)
def test_yaml_that_unfolds_without_end_is_refused(hub, yaml):
    card = f"---\n{yaml}---\n"
    assert ask(hub, "POST", "/api/validate-yaml", {"content": card}).status == 400
    assert commit(hub, {"README.md": card.encode()}).status == 400
    assert ask(hub, "GET", "/api/models/me/model").status == 200


@pytest.mark.case("L10", "accepted")
def test_yaml_that_refers_to_itself_once_is_taken(hub):
    assert commit(hub, {"README.md": b"---\ndatasets: &d [me/rows]\ntags: *d\n---\n"}).status == 200
    assert ask(hub, "GET", "/api/models/me/model").json()["cardData"]["tags"] == ["me/rows"]
