"""The verb `publish` as a user runs it against a Local Hub, and what a stranger downloads from there."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.running import HOME

VERB = HOME / "push_to_hub.py"
TOKEN = "hf_" + "T" * 34
WRITES = {"create", "put", "commit", "xet-token", "tag"}


def push(hub, home, *arguments, xet=False, code=0, **environment):
    """Run the verb as a user does and return what it said."""
    done = subprocess.run(
        [sys.executable, VERB, *map(str, arguments)],
        env={**hub.environment(home, xet=xet), **environment},
        cwd=home.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def written(hub) -> list[dict]:
    return [request for request in hub.requests if request["route"] in WRITES and request["status"] == 200]


def download(hub, home, repo_id, repo_type="model", **options) -> Path:
    code = "import sys, json, huggingface_hub as h; print(h.snapshot_download(**json.load(sys.stdin)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({"repo_id": repo_id, "repo_type": repo_type, **options}),
        env=hub.environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


def publish(hub, home, checkpoint, name: str = "me/model") -> list[str]:
    """Two commits of a model; their ids, oldest first."""
    code = (
        "import sys, huggingface_hub as h; api = h.HfApi(); name = sys.argv[2]\n"
        "api.create_repo(name); a = api.upload_folder(repo_id=name, folder_path=sys.argv[1])\n"
        "b = api.upload_file(repo_id=name, path_in_repo='NOTICE', path_or_fileobj=b'two')\n"
        "print(a.oid, b.oid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, checkpoint, name],
        env=hub.environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
