"""Requests to a Local Hub, bare and by the unmodified clients, and the command that serves one."""

import base64
import hashlib
import http.client
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.running import HOME

TOKEN = "hf_rehearsal_0123456789"
BOTH_WAYS = pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])


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
    request = {"operation": "upload", "objects": [item]}
    answer = ask(hub, "POST", "/me/model.git/info/lfs/objects/batch", request).json()["objects"][0]
    return answer["actions"]["upload"]["href"] if "actions" in answer else None


def titles(hub: LocalHub | str) -> list[str]:
    return [item["title"] for item in ask(hub, "GET", "/api/models/me/model/commits/main").json()]


CONTENT = b"large" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PUSH = """
import json, sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("me/model", exist_ok=True)
print(json.dumps({"oid": api.upload_folder(repo_id="me/model", folder_path=sys.argv[1]).oid}))
"""


def assert_published(hub: LocalHub | str, folder: Path) -> None:
    assert titles(hub) == ["Upload folder using huggingface_hub", "initial commit"]
    for path in folder.iterdir():
        assert ask(hub, "GET", f"/me/model/resolve/main/{path.name}").body == path.read_bytes()


def wait_until(happened, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def start_command(root: Path, *arguments: object) -> tuple[subprocess.Popen, str]:
    """Start `llava-mistral hub` and return it with its address."""
    command = [sys.executable, "-m", "llava_mistral", "hub", "--root", root, "--token", TOKEN, *arguments]
    server = subprocess.Popen([*map(str, command)], cwd=HOME, stdout=subprocess.PIPE, text=True)
    first = server.stdout.readline()
    assert re.fullmatch(r"Local Hub at http://127\.0\.0\.1:\d+\n", first), first
    return server, first.split()[-1]


def end(server: subprocess.Popen) -> None:
    server.kill()
    server.communicate()


def save_four_files(folder: Path) -> Path:
    """Four files of 200 kB, which go the large-file way."""
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.bin").write_bytes(random.Random(number).randbytes(200_000))
    return folder


def run_command(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "llava_mistral", "hub", *map(str, arguments)],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert not done.stdout and "Traceback" not in done.stderr
    return done.returncode, done.stderr
