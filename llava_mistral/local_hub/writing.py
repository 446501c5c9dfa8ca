"""The Hub's write routes: create, upload, commit, branch, tag."""

import base64
import hashlib
import hmac
import io
import json
import re

from llava_mistral.local_hub import xet
from llava_mistral.local_hub.blobs import SHA256, Blobs, file_size
from llava_mistral.local_hub.card_check import read_front_matter
from llava_mistral.local_hub.git_rules import GIT_ATTRIBUTES, is_ignored, is_large
from llava_mistral.local_hub.messages import HubError, Reply, Request
from llava_mistral.local_hub.protocol import (
    PAGES,
    REPO,
    REVISION,
    Hub,
    find_commit,
    find_repo,
    known_oid,
    page_url,
    route,
)
from llava_mistral.local_hub.repository import Entry, Repo
from llava_mistral.local_hub.store import REPO_KINDS

LINE, OPERATIONS = 64 << 20, 25_000  # of a commit: a file of 10 MB in base64 is the largest that is no LFS file


@route("create", "POST", "/api/repos/create", writes=True)
def create(hub: Hub, request: Request) -> Reply:
    fields = request.json()
    kind, repo_id = _named(hub, fields)
    attributes = GIT_ATTRIBUTES.encode()
    hub.store.add_blob(io.BytesIO(attributes))
    private = bool(fields.get("private")) or fields.get("visibility") == "private"
    repo = hub.store.create(kind, repo_id, private, {".gitattributes": Entry.regular(attributes)})
    url = page_url(request.base, Repo(hub.store, kind, repo_id, hub.store.root))
    if not repo:  # the client reads the url of an existing repository from this refusal (exist_ok=True)
        raise HubError(409, "You already created this repo", url=url)
    return Reply({"url": url, "name": repo_id})


@route("delete", "DELETE", "/api/repos/delete", writes=True)
def delete(hub: Hub, request: Request) -> Reply:
    request.names["kind"], request.names["repo"] = _named(hub, request.json())
    hub.store.delete(find_repo(hub, request))
    return Reply({})


def _named(hub: Hub, fields: dict) -> tuple[str, str]:
    kind = f"{fields.get('type') or 'model'}s"
    if kind not in REPO_KINDS:
        raise HubError(400, f"Invalid repo type: {fields.get('type')}")
    name, owner = fields.get("name"), fields.get("organization") or hub.user
    if not isinstance(name, str) or not isinstance(owner, str):
        raise HubError(400, "Invalid repo name: it is missing, or no text")
    return kind, f"{owner}/{name}"


@route("branch", "POST DELETE", REPO + r"/branch/(?P<branch>[^/]+)", writes=True)
def branch(hub: Hub, request: Request) -> Reply:
    return _change_ref(hub, request, "heads", request.names["branch"], request.json().get("startingPoint"))


@route("tag", "POST DELETE", REPO + rf"/tag{REVISION}", writes=True)
def tag(hub: Hub, request: Request) -> Reply:
    if request.method == "DELETE":
        return _change_ref(hub, request, "tags", request.names["revision"], None)
    return _change_ref(hub, request, "tags", str(request.json().get("tag", "")), request.names["revision"])


def _change_ref(hub: Hub, request: Request, kind: str, name: str, target: str | None) -> Reply:
    repo = find_repo(hub, request)
    with hub.store.lock:
        there = name in repo.refs(kind)
        if request.method == "DELETE":
            if not there:
                raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
            if (kind, name) == ("heads", "main"):
                raise HubError(403, "The main branch cannot be deleted")
            repo.delete_ref(kind, name)
        elif there:
            raise HubError(409, f"Reference already exists: {name}")
        else:
            if not _legal_path(name):
                raise HubError(400, f"Invalid reference name: {name}")
            repo.set_ref(kind, name, repo.resolve(target or "main"))
    return Reply({})


@route("validate-yaml", "POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, request: Request) -> Reply:
    _, errors, warnings = read_front_matter(str(request.json().get("content", "")))
    reply = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Reply(reply, 400 if errors else 200)


@route("preupload", "POST", REPO + rf"/preupload{REVISION}", writes=True)
def preupload(hub: Hub, request: Request) -> Reply:
    """Say for each file whether it goes into the commit itself or ahead of it, and what is there already."""
    _refuse_pull_request(request)
    repo, commit_id = find_commit(hub, request)
    fields, files = request.json(), repo.files(commit_id)
    attributes = _text(repo, files, ".gitattributes")
    ignored = fields.get("gitIgnore", _text(repo, files, ".gitignore"))
    if len(fields["files"]) > 256 or any(not _legal_path(str(file["path"])) for file in fields["files"]):
        raise HubError(400, "more than 256 files, or a path that no repository has")
    return Reply({"files": [_upload_mode(file, files, attributes, ignored) for file in fields["files"]]})


def _upload_mode(file: dict, files: dict[str, Entry], attributes: str, ignored: str) -> dict:
    path, size, sample = file["path"], file["size"], base64.b64decode(file.get("sample") or "")
    mode = "lfs" if is_large(path, size, sample, attributes) else "regular"
    oid = known_oid(files.get(path))
    return {"path": path, "uploadMode": mode, "shouldIgnore": is_ignored(path, ignored), "oid": oid}


def _text(repo: Repo, files: dict[str, Entry], path: str) -> str:
    entry = files.get(path)
    return repo.store.blob(entry.sha256).read_text(encoding="utf-8", errors="replace") if entry else ""


@route("batch", "POST", PAGES + r"\.git/info/lfs/objects/batch", writes=True)
def batch(hub: Hub, request: Request) -> Reply:
    """Return an upload address for each large file; a stored one gets none, which is how uploads resume."""
    find_repo(hub, request)
    fields = request.json()
    if fields.get("operation") != "upload":
        raise HubError(400, "Files are read from /resolve/, not through LFS")
    return Reply({"transfer": "basic", "objects": [_object(hub, request.base, item) for item in fields["objects"]]})


def _object(hub: Hub, base: str, item: dict) -> dict:
    sha256, size = str(item["oid"]), int(item["size"])
    answer = {"oid": sha256, "size": size}
    if not SHA256.fullmatch(sha256):
        return {**answer, "error": {"code": 422, "message": "the object id is not a sha256"}}
    if file_size(hub.store.blob(sha256)) == size:
        return answer
    # The client puts the bytes without its token (the Hub stores them on another host): the address is the right to.
    upload = {"href": f"{base}/lfs/{sha256}?size={size}&key={_key(hub.store, sha256, size)}"}
    return {**answer, "actions": {"upload": upload, "verify": {"href": f"{base}/lfs/{sha256}/verify"}}}


def _key(store: Blobs, sha256: str, size: int) -> str:
    return hmac.new(store.secret, f"{sha256} {size}".encode(), hashlib.sha256).hexdigest()


@route("put", "PUT", r"/lfs/(?P<sha256>[0-9a-f]{64})")
def put(hub: Hub, request: Request) -> Reply:
    sha256, size = request.names["sha256"], int(request.query.get("size", -1))
    if not hmac.compare_digest(request.query.get("key", ""), _key(hub.store, sha256, size)):
        raise HubError(403, "This upload address was not given out here")
    hub.store.add_blob(request.body, sha256, size)
    return Reply({})


@route("verify", "POST", r"/lfs/(?P<sha256>[0-9a-f]{64})/verify", writes=True)
def verify(hub: Hub, request: Request) -> Reply:
    if file_size(hub.store.blob(request.names["sha256"])) != request.json().get("size"):
        raise HubError(404, "The object is not here at that size")
    return Reply({})


@route("xet-token", "GET", REPO + rf"/xet-write-token{REVISION}", writes=True)
def xet_token(hub: Hub, request: Request) -> Reply:
    _refuse_pull_request(request)
    answer = xet.grant(find_commit(hub, request)[0])
    names = {"X-Xet-Cas-Url": "casUrl", "X-Xet-Access-Token": "accessToken", "X-Xet-Token-Expiration": "exp"}
    return Reply(answer, headers={name: str(answer[key]) for name, key in names.items()})


@route("commit", "POST", REPO + rf"/commit{REVISION}", writes=True)
def commit(hub: Hub, request: Request) -> Reply:
    """Put one commit on a branch, wholly or not at all."""
    _refuse_pull_request(request)
    repo, _ = find_commit(hub, request)
    header, operations = _read_operations(repo, request.body)
    entries = _entries(repo, operations)

    def change(files: dict[str, Entry]) -> dict[str, Entry]:
        return _apply(files, operations, entries)

    title, message = str(header.get("summary") or "Update"), str(header.get("description") or "")
    commit_id = repo.advance(request.names["revision"], change, title, message, header.get("parentCommit"))
    return Reply(
        {"success": True, "commitOid": commit_id, "commitUrl": f"{page_url(request.base, repo)}/commit/{commit_id}"}
    )


def _read_operations(repo: Repo, body: io.BufferedReader) -> tuple[dict, list[tuple[str, dict]]]:
    """Return the commit's header and its operations in order; the bytes of regular files are stored on the way."""
    header, operations = {}, []
    while line := body.readline(LINE + 1):
        if len(line) > LINE or len(operations) >= OPERATIONS:
            raise HubError(413, f"a commit has lines of at most {LINE} bytes and at most {OPERATIONS} files")
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            header = value
            continue
        if key not in ("file", "lfsFile", "deletedFile", "deletedFolder"):
            raise HubError(400, f"Unknown operation in commit: {key}")
        path = value["path"].rstrip("/") if key == "deletedFolder" else value["path"]
        if not _legal_path(path):
            raise HubError(400, f"Invalid path in commit: {path}")
        operation = {"path": path, "oid": value.get("oid")}
        if key == "file":
            content = _content(value)
            _check_card(path, content)
            repo.store.add_blob(io.BytesIO(content))
            operation["entry"] = Entry.regular(content)
        operations.append((key, operation))
    return header, operations


def _content(value: dict) -> bytes:
    content = value["content"]
    return base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content.encode()


def _check_card(path: str, content: bytes) -> None:
    errors = read_front_matter(content.decode("utf-8", "replace"))[1] if path == "README.md" else []
    if errors:
        raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")


def _entries(repo: Repo, operations: list[tuple[str, dict]]) -> dict[str, Entry]:
    """Return the entry of every large file that a commit names.

    Raises:
        HubError: its bytes were not uploaded, through LFS or through Xet.
    """
    large = {value["path"]: str(value.get("oid")) for key, value in operations if key == "lfsFile"}
    missing = {sha256 for sha256 in large.values() if file_size(repo.store.blob(sha256)) is None}
    if missing:
        xet.receive(repo, missing)
    sizes = {path: file_size(repo.store.blob(sha256)) for path, sha256 in large.items()}
    if lost := [path for path, size in sizes.items() if size is None]:
        raise HubError(400, f"An LFS pointer pointed to a file that does not exist: {', '.join(lost)}")
    return {path: Entry.large(sha256, sizes[path]) for path, sha256 in large.items()}


def _apply(files: dict[str, Entry], operations: list[tuple[str, dict]], entries: dict[str, Entry]) -> dict[str, Entry]:
    """Return the files after a commit's operations."""
    files = dict(files)
    for key, value in operations:
        path = value["path"]
        gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(f"{path}/"))]
        if key in ("file", "lfsFile"):
            files[path] = value["entry"] if key == "file" else entries[path]
        elif not gone:
            raise HubError(404, f"{path} does not exist and cannot be deleted", "EntryNotFound")
        else:
            files = {name: entry for name, entry in files.items() if name not in gone}
    folders = {name.rsplit("/", depth)[0] for name in files for depth in range(1, name.count("/") + 1)}
    if both := sorted(folders & files.keys()):
        raise HubError(400, f"A path cannot be a file and a folder: {both[0]}")
    return files


def _legal_path(path: str) -> bool:
    parts = path.split("/")
    legal = not any(part in ("", ".", "..", ".git") for part in parts) and not re.search(r"[\0-\x1f\\]", path)
    return legal and len(path) <= 1000 and len(parts) <= 50


def _refuse_pull_request(request: Request) -> None:
    if request.asks("create_pr") or request.names["revision"].startswith("refs/pr/"):
        raise HubError(400, "This Local Hub has no pull requests; commit to a branch")


ROUTES = (
    create,
    delete,
    branch,
    tag,
    validate_yaml,
    preupload,
    batch,
    put,
    verify,
    xet_token,
    commit,
)
