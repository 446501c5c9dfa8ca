"""The Local Hub, asked by the unmodified clients (in processes of their own: they read their settings at import)."""

import base64
import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.local_hub import Fault, LocalHub
from llava_mistral.local_hub.card_check import read_front_matter
from llava_mistral.local_hub.faults import read_rules
from llava_mistral.local_hub.git_rules import GIT_ATTRIBUTES, is_ignored, is_large
from llava_mistral.local_hub.protocol import ROUTES
from llava_mistral.local_hub.store import Store

ROOT = Path(__file__).parents[1]
TOKEN = "hf_rehearsal_0123456789"
BOTH_WAYS = pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        yield hub


# ---------------------------------------------------------------------------------------------- two kinds of client


def run_client(environment: dict[str, str], script: str, *arguments: object) -> dict:
    """Run a script in a fresh interpreter and return the JSON of its last line."""
    done = start_client(environment, script, *arguments)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def start_client(environment: dict[str, str], script: str, *arguments: object) -> subprocess.Popen:
    environment = {**environment, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Answer:
    def __init__(self, response: http.client.HTTPResponse, body: bytes):
        self.status, self.headers, self.body = response.status, response.headers, body

    def json(self):
        return json.loads(self.body)


def ask(hub: LocalHub | str, method: str, path: str, body=None, token: str | None = TOKEN, **headers: str) -> Answer:
    """Send one bare HTTP request; `path` may be an address of the hub, `body` JSON-able, bytes or an iterator."""
    url = hub if isinstance(hub, str) else hub.url
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    if isinstance(body, dict | list):
        body = json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path.removeprefix(url), body, headers, encode_chunked=hasattr(body, "__next__"))
        response = connection.getresponse()
        return Answer(response, response.read())
    finally:
        connection.close()


def commit_body(files: dict[str, bytes] | None = None, large: dict[str, bytes] | None = None, **header) -> bytes:
    lines = [{"key": "header", "value": {"summary": "a commit", **header}}]
    for path, content in (files or {}).items():
        value = {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}
        lines.append({"key": "file", "value": value})
    for path, content in (large or {}).items():
        value = {"path": path, "algo": "sha256", "oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
        lines.append({"key": "lfsFile", "value": value})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def create(hub: LocalHub | str, name: str = "model", **asked) -> None:
    assert ask(hub, "POST", "/api/repos/create", {"organization": "me", "name": name, **asked}).status == 200


def commit(hub: LocalHub | str, files: dict[str, bytes], **header) -> Answer:
    return ask(hub, "POST", "/api/models/me/model/commit/main", commit_body(files, **header))


def upload_address(hub: LocalHub | str, content: bytes) -> str | None:
    """Return where the hub wants a large file put, or None if it has it."""
    item = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    asked = {"operation": "upload", "objects": [item]}
    answer = ask(hub, "POST", "/me/model.git/info/lfs/objects/batch", asked).json()["objects"][0]
    return answer["actions"]["upload"]["href"] if "actions" in answer else None


def titles(hub: LocalHub | str) -> list[str]:
    return [item["title"] for item in ask(hub, "GET", "/api/models/me/model/commits/main").json()]


# --------------------------------------------------------------------------------------- what the clients can do here

USE_THE_HUB = """
import json, random, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download

api, noise, folder, said = HfApi(), random.Random(0), Path(sys.argv[1]), {}
(folder / "sub").mkdir(parents=True)
(folder / "model.safetensors").write_bytes(noise.randbytes(3_000_000))
(folder / "sub" / "weights.bin").write_bytes(noise.randbytes(300_000))
(folder / "README.md").write_text("---\\nlicense: mit\\npipeline_tag: image-text-to-text\\n---\\n# Hello\\n")
(folder / "empty.bin").write_bytes(b"")
url = api.create_repo("me/model")
said["same"] = url == api.create_repo("me/model", exist_ok=True) and url.repo_id == "me/model"
said["name"] = api.whoami()["name"]
first = api.upload_folder(repo_id="me/model", folder_path=folder)
said["unchanged"] = api.upload_folder(repo_id="me/model", folder_path=folder).oid == first.oid
shared = (folder / "model.safetensors").read_bytes()[:2_000_000] + b"tail" * 999
operations = [CommitOperationAdd("shared.bin", shared), CommitOperationAdd("notes/a.txt", b"text")]
second = api.create_commit("me/model", [*operations, CommitOperationDelete("empty.bin")], commit_message="Second",
                           parent_commit=first.oid)
try:
    api.create_commit("me/model", [CommitOperationAdd("b.txt", b"")], commit_message="Late", parent_commit=first.oid)
except Exception as error:
    said["stale"] = error.response.status_code
api.create_tag("me/model", tag="v1", revision=first.oid)
api.create_branch("me/model", branch="try/out", revision="v1")
api.create_branch("me/model", branch="try/out", exist_ok=True)
api.upload_file(path_or_fileobj=b"only here", path_in_repo="c.txt", repo_id="me/model", revision="try/out")
refs = api.list_repo_refs("me/model")
said["refs"] = [ref.name for ref in refs.branches + refs.tags]
said["files"] = sorted(api.list_repo_files("me/model"))
said["branch"] = Path(hf_hub_download("me/model", "c.txt", revision="try/out")).read_text()
said["titles"] = [item.title for item in api.list_repo_commits("me/model")]
tree = list(api.list_repo_tree("me/model", recursive=True, expand=True))
said["last"] = {item.path: item.last_commit.title for item in tree}
said["paths"] = [item.path for item in api.get_paths_info("me/model", ["sub", "README.md", "absent"])]
local = Path(snapshot_download("me/model"))
said["equal"] = all((local / name).read_bytes() == (folder / name).read_bytes()
                    for name in ("model.safetensors", "sub/weights.bin", "README.md"))
said["equal"] = said["equal"] and (local / "shared.bin").read_bytes() == shared
said["pinned"] = local.name == second.oid
said["mismatches"] = len(api.verify_repo_checksums("me/model").mismatches)
info = api.model_info("me/model", files_metadata=True)
said["info"] = [info.sha == second.oid, info.pipeline_tag, info.card_data.license, len(info.siblings)]
said["listed"] = [item.id for item in api.list_models(author="me")]
api.create_repo("me/gone"), api.delete_repo("me/gone")
failures = [lambda: api.model_info("me/gone"), lambda: api.model_info("gpt2"),
            lambda: hf_hub_download("me/model", "absent.txt"), lambda: api.model_info("me/model", revision="v9"),
            lambda: HfApi(token="wrong").model_info("me/model"), lambda: HfApi(token=False).create_repo("me/x")]
said["errors"] = []
for fail in failures:
    try:
        fail()
    except Exception as error:
        said["errors"].append([type(error).__name__, error.response.status_code])
print(json.dumps(said))
"""


@BOTH_WAYS
def test_huggingface_hub_creates_uploads_commits_lists_and_downloads(hub, tmp_path, xet):
    said = run_client(hub.environment(tmp_path / "home", xet=xet), USE_THE_HUB, tmp_path / "folder")
    assert said["same"] and said["unchanged"] and said["equal"] and said["pinned"]
    assert said["name"] == "local" and said["stale"] == 412 and said["mismatches"] == 0
    assert said["refs"] == ["main", "try/out", "v1"] and said["branch"] == "only here"
    large = ["model.safetensors", "shared.bin", "sub/weights.bin"]
    assert said["files"] == sorted([".gitattributes", "README.md", "notes/a.txt", *large])
    assert said["titles"] == ["Second", "Upload folder using huggingface_hub", "initial commit"]
    assert said["last"]["notes"] == said["last"]["shared.bin"] == "Second" and said["last"]["sub"] == said["titles"][1]
    assert said["paths"] == ["sub", "README.md"] and said["listed"] == ["me/model"]
    assert said["info"] == [True, "image-text-to-text", "mit", 6]
    missing = ["RepositoryNotFoundError", 404]
    found_none = [["RemoteEntryNotFoundError", 404], ["RevisionNotFoundError", 404]]
    assert said["errors"] == [missing, missing, *found_none, ["HfHubHTTPError", 401], ["HfHubHTTPError", 401]]
    routes = [record["route"] for record in hub.requests]
    assert ("put" in routes, "xet-token" in routes) == (not xet, xet) and "unknown" not in routes
    left = [path for path in (hub.store.root / "xet").rglob("*") if path.is_file()]
    assert not left, "an upload stays in the Xet folder after its commit"


UPLOAD_ONCE_COMMIT_TWICE = """
import json
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("me/model")
added = [CommitOperationAdd(f"{n}.bin", bytes([n]) * 100_000) for n in range(2)]
api.preupload_lfs_files("me/model", additions=added)
ids = [api.create_commit("me/model", [one], commit_message=one.path_in_repo).oid for one in added]
print(json.dumps({"commits": len(set(ids))}))
"""


@BOTH_WAYS
def test_one_upload_may_serve_several_commits_beside_one_that_was_broken_off(hub, tmp_path, xet):
    broken = hub.store.root / "xet/models--me--model/broken/xet/xorbs/shards"
    broken.mkdir(parents=True)
    (broken / "half.mdb").write_bytes(b"HFRepoMetaData" + bytes(90))
    said = run_client(hub.environment(tmp_path / "home", xet=xet), UPLOAD_ONCE_COMMIT_TWICE)
    assert said == {"commits": 2} and titles(hub) == ["1.bin", "0.bin", "initial commit"]
    assert ask(hub, "GET", "/me/model/resolve/main/1.bin").body == b"\1" * 100_000


USE_DATASETS = """
import json
import numpy as np
import datasets
from datasets import Dataset, Features, Image, Value, load_dataset
from PIL import Image as Picture

datasets.config.USE_PARQUET_EXPORT = False  # asks datasets-server.127.0.0.1
noise = np.random.default_rng(0)
pixels = [noise.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(12)]
columns = {"image": [Picture.fromarray(array) for array in pixels], "id": [str(number) for number in range(12)]}
rows = Dataset.from_dict(columns, features=Features({"image": Image(), "id": Value("string")}))
for config in ("principles", "random"):
    rows.push_to_hub("me/data", config_name=config, split="train", private=True)
loaded = load_dataset("me/data", "principles", split="train")
streamed = load_dataset("me/data", "random", split="train", streaming=True)
print(json.dumps({
    "loaded": all(np.array_equal(row["image"], array) for row, array in zip(loaded, pixels, strict=True)),
    "streamed": [row["id"] for row in streamed] == rows["id"][:],
}))
"""


@BOTH_WAYS
def test_datasets_pushes_configs_with_images_and_loads_and_streams_them(hub, tmp_path, xet):
    said = run_client(hub.environment(tmp_path / "home", xet=xet), USE_DATASETS)
    assert said == {"loaded": True, "streamed": True}
    assert not [record["path"] for record in hub.requests if record["route"] == "unknown"]
    assert ask(hub, "GET", "/api/datasets/me/data", token=None).status == 401


USE_TRANSFORMERS = """
import json, sys, tempfile
import torch
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, pipeline)

sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(**sizes))
words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>", eos_token="<unk>")
model.push_to_hub("me/tiny"), tokenizer.push_to_hub("me/tiny")
ModelCard("---\\npipeline_tag: text-generation\\nlibrary_name: transformers\\n---\\n").push_to_hub("me/tiny")
with tempfile.TemporaryDirectory() as cache:
    again = AutoModelForCausalLM.from_pretrained("me/tiny", cache_dir=cache)
equal = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
answer = pipeline(model="me/tiny")("one two", max_new_tokens=2)[0]["generated_text"]
print(json.dumps({"equal": equal, "answers": answer.startswith("one two")}))
"""


@BOTH_WAYS
def test_transformers_pushes_and_loads_models_and_finds_the_pipeline_task(hub, tmp_path, xet):
    said = run_client(hub.environment(tmp_path / "home", xet=xet), USE_TRANSFORMERS)
    assert said == {"equal": True, "answers": True}
    assert not [record["path"] for record in hub.requests if record["route"] == "unknown"]


# ----------------------------------------------------------------------------------------------------- the protocol


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


def test_private_repositories_look_absent_without_the_token(hub):
    create(hub, visibility="private")
    create(hub, name="public")
    hidden, absent = (ask(hub, "GET", f"/api/models/me/{name}", token=None) for name in ("model", "none"))
    assert (hidden.status, hidden.headers["X-Error-Code"], hidden.body) == (401, "RepoNotFound", absent.body)
    assert ask(hub, "HEAD", "/me/model/resolve/main/.gitattributes", token=None).status == 401
    assert ask(hub, "GET", "/api/models/me/public", token=None).status == 200
    assert [item["id"] for item in ask(hub, "GET", "/api/models", token=None).json()] == ["me/public"]
    assert ask(hub, "GET", "/api/models/me/public", token="wrong").status == 401


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


# ------------------------------------------------------------------------------------------------------ faults, log

CONTENT = b"large" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
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


PUSH = """
import json, sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("me/model", exist_ok=True)
print(json.dumps({"oid": api.upload_folder(repo_id="me/model", folder_path=sys.argv[1]).oid}))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    for number in range(4):
        (tmp_path / "folder" / f"{number}.bin").write_bytes(random.Random(number).randbytes(200_000))
    return tmp_path / "folder"


def assert_published(hub: LocalHub | str, folder: Path) -> None:
    assert titles(hub) == ["Upload folder using huggingface_hub", "initial commit"]
    for path in folder.iterdir():
        assert ask(hub, "GET", f"/me/model/resolve/main/{path.name}").body == path.read_bytes()


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


# ----------------------------------------------------------------------------------------------- the command, kill -9


def start_command(root: Path, *arguments: object) -> tuple[subprocess.Popen, str]:
    """Start `llava-mistral hub` and return it with its address."""
    command = [sys.executable, "-m", "llava_mistral", "hub", "--root", root, "--token", TOKEN, *arguments]
    server = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    first = server.stdout.readline()
    assert re.fullmatch(r"Local Hub at http://127\.0\.0\.1:\d+\n", first), first
    return server, first.split()[-1]


def wait_until(happened, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def end(server: subprocess.Popen) -> None:
    server.kill()
    server.communicate()


def test_the_command_serves_and_ends_cleanly(tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text('[{"route": "info", "status": 503, "retry_after": 2}]')
    server, url = start_command(tmp_path / "root", "--faults", rules, "--log", tmp_path / "log")
    try:
        create(url)
        assert ask(url, "GET", "/api/models/me/model").status == 503
        idle = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        idle.request("GET", "/api/models/me/model")
        assert idle.getresponse().status == 200
        second = run_command("--root", tmp_path / "root")
        assert second[0] == 2 and "another Local Hub serves this folder" in second[1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        assert len((tmp_path / "log").read_text().splitlines()) == 3
    finally:
        end(server)


def run_command(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "llava_mistral", "hub", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert not done.stdout and "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("[", "not JSON"),
        ("{}", "not a list of objects"),
        ('[{"status": 503}, {"rout": "put"}]', "record 1: field rout"),
        ('[{"status": "503"}]', "field status"),
        ('[{"status": 200}]', "no error status"),
        ('[{"route": "put"}]', "does nothing"),
        ('[{"delay": -1}]', "out of range"),
        ('[{"cut": true}]', "field cut"),
        ('[{"cut": 1, "side": "left"}]', "no side"),
    ],
)
def test_a_bad_fault_rule_is_named(tmp_path, rules, said):
    (tmp_path / "rules.json").write_text(rules)
    with pytest.raises(BadInput, match=re.escape(said)) as refused:
        read_rules(tmp_path / "rules.json")
    assert "rules.json" in str(refused.value)


def test_bad_arguments_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("[{}]")
    with LocalHub(tmp_path / "other") as hub:
        port = hub.url.rsplit(":", 1)[1]
        for arguments in (
            [],
            ["--root", tmp_path / "root", "--prot", 1],
            ["--root", tmp_path / "root", "--port", "many"],
            ["--root", tmp_path / "root", "--port", 99999],
            ["--root", tmp_path / "root", "--port", port],
            ["--root", tmp_path / "file" / "root"],
            ["--root", tmp_path],
            ["--root", tmp_path / "root", "--faults", tmp_path / "absent.json"],
            ["--root", tmp_path / "root", "--faults", tmp_path / "file"],
            ["--root", tmp_path / "root", "--log", tmp_path / "no" / "log"],
        ):
            code, said = run_command(*arguments)
            assert code == 2 and said.count("\n") == 1 and "; " in said, (arguments, said)


@pytest.mark.case("H8", "survived")
def test_nothing_acknowledged_is_lost_and_nothing_half_done_is_seen_after_kill_9(tmp_path):
    acknowledged, stop, number = [], random.Random(0), 0
    for round_ in range(6):
        server, url = start_command(tmp_path / "root")
        if not round_:
            create(url)
        killer = threading.Timer(0.05 + 0.25 * stop.random(), server.kill)
        killer.start()
        try:
            while True:
                number += 1
                content = random.Random(number).randbytes(50_000)
                ask(url, "PUT", upload_address(url, content), content, token=None)
                body = commit_body({f"{number}.txt": b"x"}, {f"{number}.bin": content}, summary=str(number))
                answer = ask(url, "POST", "/api/models/me/model/commit/main", body)
                acknowledged.append((str(number), answer.json()["commitOid"]))
        except (ConnectionError, http.client.HTTPException):
            end(server)
    store = Store(tmp_path / "root")
    try:
        repo = store.repo("models", "me/model")
        history = {commit["title"]: commit_id for commit_id, commit in repo.history(repo.resolve("main"))}
        assert len(acknowledged) > 6 and all(history.get(title) == oid for title, oid in acknowledged)
        for entry in repo.files(repo.resolve("main")).values():
            content = store.blob(entry.sha256).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (entry.sha256, entry.size)
        assert len(repo.files(repo.resolve("main"))) == 2 * (len(history) - 1) + 1
        assert not any(store.incoming.iterdir())
    finally:
        store.close()


@pytest.mark.case("H8", "survived")
def test_a_push_outlives_a_server_that_is_killed_and_started_again(folder, tmp_path):
    rules, log = tmp_path / "rules.json", tmp_path / "log"
    rules.write_text('[{"route": "put", "delay": 30, "times": 0, "skip": 1}]')
    server, url = start_command(tmp_path / "root", "--faults", rules, "--log", log)
    environment = {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    try:
        client = start_client({**os.environ, **environment}, PUSH, folder)
        wait_until(lambda: '"put"' in log.read_text())
        end(server)
        server, url = start_command(tmp_path / "root", "--port", url.rsplit(":", 1)[1])
        out, err = client.communicate(timeout=60)
        assert client.returncode == 0, err[-3000:]
        assert_published(url, folder)
    finally:
        end(server)


def test_a_stopped_hub_leaves_no_thread_and_starts_again_on_its_folder(tmp_path):
    before = threading.active_count()
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        create(hub)
        idle = http.client.HTTPConnection(hub.url.removeprefix("http://"))
        idle.request("GET", "/api/agent-harnesses")
        idle.getresponse().read()
        with pytest.raises(BadInput, match="another Local Hub"):
            LocalHub(tmp_path / "root")
    assert threading.active_count() == before
    with LocalHub(tmp_path / "root") as hub:
        assert ask(hub, "GET", "/api/models/me/model", token=None).status == 200
    with pytest.raises(BadInput):
        Fault()


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


# ------------------------------------------------------------------------------------------ who may see it, and lists

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


LIST_BY_TAG = """
import json
from huggingface_hub import HfApi, ModelCard
api = HfApi()
for name, licence in (("one", "mit"), ("two", "apache-2.0")):
    api.create_repo(f"me/{name}")
    card = f"---\\nlicense: {licence}\\nlibrary_name: peft\\ndatasets:\\n- me/rows\\n---\\n"
    ModelCard(card).push_to_hub(f"me/{name}")
said = [[found.id for found in api.list_models(**by)] for by in (
    {"filter": ["peft", "license:mit"]}, {"trained_dataset": "me/rows"}, {"search": "tw"}, {"pipeline_tag": "x"})]
try:
    api.list_models(gated=True).__next__()
except Exception as error:
    said.append(error.response.status_code)
print(json.dumps(said))
"""


def test_repositories_are_found_by_tags_and_never_listed_by_what_was_not_asked(hub, tmp_path):
    said = run_client(hub.environment(tmp_path / "home"), LIST_BY_TAG)
    assert said == [["me/one"], ["me/one", "me/two"], ["me/two"], [], 400]


COPY = """
import json
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi
api = HfApi()
api.create_repo("me/model")
added = [CommitOperationAdd("a.bin", b"\\0" * 1000), CommitOperationAdd("a.txt", b"text")]
api.create_commit("me/model", added, commit_message="add")
copies = [CommitOperationCopy("a.bin", "b/a.bin"), CommitOperationCopy("a.txt", "b/a.txt")]
api.create_commit("me/model", copies, commit_message="copy")
api.delete_folder("b", repo_id="me/model", revision=(api.create_branch("me/model", branch="dev"), "dev")[1])
print(json.dumps([sorted(api.list_repo_files("me/model", revision=r)) for r in ("main", "dev")]))
"""


@BOTH_WAYS
def test_files_are_copied_within_a_repository_and_folders_deleted(hub, tmp_path, xet):
    main, dev = run_client(hub.environment(tmp_path / "home", xet=xet), COPY)
    assert dev == [".gitattributes", "a.bin", "a.txt"] and main == sorted([*dev, "b/a.bin", "b/a.txt"])
    assert ask(hub, "GET", "/me/model/resolve/main/b/a.bin").body == bytes(1000)


def test_the_command_prints_what_a_client_must_export_to_write_here(tmp_path):
    server = subprocess.Popen(
        [sys.executable, "-m", "llava_mistral", "hub", "--root", tmp_path / "root"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        server.stdout.readline()
        said = server.stdout.readline().split()
        assert said[0] == "export"
        given = dict(word.split("=", 1) for word in said[1:])
        run_client(
            {**os.environ, "HF_HOME": str(tmp_path), **given},
            "from huggingface_hub import create_repo\ncreate_repo('me/model'); print('{}')",
        )
    finally:
        end(server)
