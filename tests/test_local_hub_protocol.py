"""What the Local Hub answers, request by request."""

import random
import re
import threading

import pytest

from llava_mistral.local_hub import LocalHub
from llava_mistral.local_hub.card_check import read_front_matter
from llava_mistral.local_hub.git_rules import GIT_ATTRIBUTES, is_ignored, is_large
from tests.support.hub_requests import TOKEN, ask, commit, commit_body, create, titles, upload_address


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        yield hub


def test_ranges_are_served_as_asked(hub):
    create(hub)
    content = random.Random(0).randbytes(5000)
    commit(hub, {"a b.txt": content})
    url = "/me/model/resolve/main/a%20b.txt"
    whole = ask(hub, "GET", url)
    assert (whole.status, whole.body, whole.headers["Accept-Ranges"]) == (200, content, "bytes")
    for asked, span in {
        "0-0": (0, 1),
        "100-299": (100, 300),
        "4990-": (4990, 5000),
        "4000-9999": (4000, 5000),
    }.items():
        part = ask(hub, "GET", url, Range=f"bytes={asked}")
        assert (part.status, part.body) == (206, content[slice(*span)])
        assert part.headers["Content-Range"] == f"bytes {span[0]}-{span[1] - 1}/5000"
    assert ask(hub, "GET", url, Range="bytes=-10").body == content[-10:]
    assert ask(hub, "GET", url, Range="bytes=0-1,5-6").body == content
    past = ask(hub, "GET", url, Range="bytes=5000-")
    assert (past.status, past.headers["Content-Range"]) == (416, "bytes */5000")
    head = ask(hub, "HEAD", url)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "5000")


def test_large_files_are_taken_whole_or_not_at_all(hub):
    create(hub)
    content = random.Random(0).randbytes(100_000)
    address = upload_address(hub, content)
    assert ask(hub, "PUT", address, content[:-1] + b"?", token=None).status == 400
    assert ask(hub, "PUT", address, content[:-1], token=None).status == 400
    assert ask(hub, "PUT", re.sub("key=.", "key=x", address), content, token=None).status == 403
    refused = ask(hub, "POST", "/api/models/me/model/commit/main", commit_body(large={"w.bin": content}))
    assert refused.status == 400 and "w.bin" in refused.json()["error"]
    assert upload_address(hub, content) is not None
    pieces = (content[at : at + 7000] for at in range(0, len(content), 7000))
    assert ask(hub, "PUT", address, pieces, token=None).status == 200
    assert upload_address(hub, content) is None
    assert ask(hub, "POST", "/api/models/me/model/commit/main", commit_body(large={"w.bin": content})).status == 200
    assert ask(hub, "GET", "/me/model/resolve/main/w.bin").body == content
    assert not any(hub.store.incoming.iterdir())


@pytest.mark.case("S23", "refused")
@pytest.mark.parametrize(
    "path", ["../up", "a/../../b", "/etc/passwd", "a//b", ".git/config", "a/.git/x", "a\0b", "", "."]
)
def test_paths_that_leave_the_repository_are_refused(hub, path):
    create(hub)
    assert commit(hub, {"fine.txt": b"", path: b"x"}).status == 400
    assert titles(hub) == ["initial commit"]


@pytest.mark.case("S23", "refused")
@pytest.mark.parametrize("up", ["..", "%2e%2e", "..%2f..", "..%5c..", "%2e%2e%2f%2e%2e", "....//.."])
@pytest.mark.parametrize("route", ["/me/model/resolve/main/{}", "/me/model/resolve/{}/x", "/me/{}/resolve/main/x",
                                   "/api/models/me/{}", "/api/models/me/model/tree/main/{}", "/{}"])  # fmt: skip
def test_no_address_reads_a_file_beside_the_repositories(hub, tmp_path, route, up):
    create(hub)
    (tmp_path / "secret").write_text("salaries")
    for depth in range(1, 6):
        answer = ask(hub, "GET", route.format("/".join([up] * depth) + "/secret"))
        assert answer.status >= 400 and b"salaries" not in answer.body


@pytest.mark.parametrize("name", ["a--b", "..", "-a", "a.", "a" * 97, "x/y", "", "a.git", "a b", "%2e%2e"])
def test_repository_names_follow_the_rules_of_the_hub(hub, name):
    assert ask(hub, "POST", "/api/repos/create", {"organization": "me", "name": name}).status == 400


def test_a_commit_is_all_or_nothing(hub):
    create(hub)
    commit(hub, {"a/b.txt": b"1"})
    deletion = b'{"key": "deletedFile", "value": {"path": "absent"}}\n'
    bad_readme = {"new.txt": b"", "README.md": b"---\nlicense: [mit\n---\n"}
    for body in (
        commit_body({"new.txt": b""}) + deletion,
        commit_body({"new.txt": b""}) + b"{not json}\n",
        commit_body({"new.txt": b"", "a": b"a file where a folder is"}),
        commit_body(bad_readme),
    ):
        assert ask(hub, "POST", "/api/models/me/model/commit/main", body).status in (400, 404)
    assert titles(hub) == ["a commit", "initial commit"]
    folder = b'{"key": "deletedFolder", "value": {"path": "a/"}}\n'
    assert ask(hub, "POST", "/api/models/me/model/commit/main", commit_body() + folder).status == 200
    assert [item["path"] for item in ask(hub, "GET", "/api/models/me/model/tree/main").json()] == [".gitattributes"]
    assert commit(hub, {"x": b""}, parentCommit="0" * 40).status == 412
    assert ask(hub, "POST", "/api/models/me/model/commit/main?create_pr=1", commit_body({"x": b""})).status == 400


def test_of_simultaneous_commits_on_one_parent_one_wins_and_without_a_parent_none_is_lost(hub):
    create(hub)
    parent = ask(hub, "GET", "/api/models/me/model").json()["sha"]

    def race(**header) -> list[int]:
        answers = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(commit(hub, {f"{n}.txt": b""}, **header).status))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(answers)

    assert race(parentCommit=parent) == [200] + [412] * 7
    assert race() == [200] * 8
    assert len(titles(hub)) == 1 + 1 + 8
    assert len(ask(hub, "GET", "/api/models/me/model/tree/main").json()) == 1 + 8


def test_what_is_not_there_is_named_as_the_hub_names_it(hub):
    create(hub)
    head = ask(hub, "GET", "/api/models/me/model").json()["sha"]
    for path in ("/me/model/resolve/main/absent", "/api/models/me/model/tree/main/absent"):
        answer = ask(hub, "GET", path)
        assert (answer.status, answer.headers["X-Error-Code"]) == (404, "EntryNotFound")
        assert answer.headers["X-Repo-Commit"] == head
    for path in ("/me/model/resolve/absent/x", "/api/models/me/model/tree/absent", "/api/models/me/model/revision/v9"):
        answer = ask(hub, "GET", path)
        assert (answer.status, answer.headers["X-Error-Code"]) == (404, "RevisionNotFound")
    assert ask(hub, "GET", "/api/models/me/model/discussions").status == 404
    assert ask(hub, "GET", f"/api/models/me/model/revision/{head[:8]}").json()["sha"] == head


def test_long_listings_come_in_pages(hub):
    create(hub)
    commit(hub, {f"folder/{number:04}.txt": b"" for number in range(1100)})
    first = ask(hub, "GET", "/api/models/me/model/tree/main?recursive=True")
    address = re.fullmatch(r'<(.*)>; rel="next"', first.headers["Link"]).group(1)
    second = ask(hub, "GET", address)
    assert (len(first.json()), len(second.json()), second.headers["Link"]) == (1000, 102, None)


def test_large_files_are_known_by_gitattributes_size_and_content():
    def large(path: str, size: int = 10, sample: bytes = b"text", attributes: str = GIT_ATTRIBUTES) -> bool:
        return is_large(path, size, sample, attributes)

    assert large("data/train-00000-of-00001.parquet") and large("saved_model/1/x.txt")
    assert large("merges.txt", size=11 * 2**20) and large("tool", sample=b"\x7fELF\0")
    assert not large("config.json") and not large("empty.bin", size=0)
    assert not large("a.bin", attributes="*.bin filter=lfs\na.bin -filter\n")


def test_gitignore_rules_leave_files_out():
    rules = "# caches\n*.log\n!keep.log\nbuild/\n/top.txt\ndocs/*.txt\n**/cache/*\n"
    ignored = ["a.log", "x/a.log", "build/a.py", "x/build/y/z.py", "top.txt", "docs/a.txt", "a/b/cache/c"]
    kept = ["keep.log", "build", "x/top.txt", "docs/a/b.txt", "a.py"]
    assert [path for path in ignored + kept if is_ignored(path, rules)] == ignored


def test_front_matter_is_read_and_its_errors_named():
    assert read_front_matter("---\nlicense: mit\n---\ntext")[0] == {"license": "mit"}
    assert read_front_matter("text") == ({}, [], ["empty or missing yaml metadata in repo card"])
    for bad in ("license: [mit", "- a", "tags: one", "license: {a: b}", "model-index: x"):
        metadata, errors, _ = read_front_matter(f"---\n{bad}\n---\n")
        assert not metadata and len(errors) == 1
