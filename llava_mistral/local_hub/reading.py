"""The Hub's read routes: whoami, listings, and files."""

import hashlib
import json
from urllib.parse import parse_qs, quote, urlencode

from llava_mistral.local_hub.access import pass_gate
from llava_mistral.local_hub.card_check import front_matter_tags, read_front_matter
from llava_mistral.local_hub.messages import HubError, Reply, Request, file_reply
from llava_mistral.local_hub.protocol import (
    KIND,
    PAGES,
    REPO,
    REVISION,
    Hub,
    entry_not_found,
    find_commit,
    find_repo,
    route,
)
from llava_mistral.local_hub.repository import Entry, Repo, pointer

PAGE, EXPANDED_PAGE = 1000, 50  # entries of a listing in one answer
CHOICES = {"author", "search", "filter", "pipeline_tag", "limit"}  # of a list of repositories
SHOWN = {"full", "cardData", "config", "expand"}  # all is shown always


@route("whoami", "GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Reply:
    if request.visitor == "anonymous" or "Authorization" not in request.headers:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "local", "role": "write"}
    auth = {"type": "access_token", "accessToken": token}
    return Reply({"type": "user", "name": hub.user, "fullname": hub.user, "isPro": False, "orgs": [], "auth": auth})


@route("agent-harnesses", "GET", "/api/agent-harnesses")
def agent_harnesses(hub: Hub, request: Request) -> Reply:
    return Reply({"standardEnvVars": [], "harnesses": {}})


@route("list", "GET", KIND)
def list_repos(hub: Hub, request: Request) -> Reply:
    """List by author, part of the name, tags and task, in the order of the names.

    Raises:
        HubError: 400 for any other choice; to leave it unheeded would list what was not asked for.
    """
    if unknown := sorted(request.query.keys() - CHOICES - SHOWN):
        raise HubError(400, f"This Local Hub does not list by {', '.join(unknown)}")
    author, search = request.query.get("author", ""), request.query.get("search", "").lower()
    wanted = {tag for key in ("filter", "pipeline_tag") for tag in request.query.get(key, "").split(",") if tag}
    seen = [
        _info(repo, repo.resolve("main"), blobs=False)
        for repo in hub.store.repos(request.names["kind"])
        if repo.id.startswith(f"{author}/" if author else "")
        and search in repo.id.lower()
        and not (repo.settings["private"] and request.visitor == "anonymous")
    ]
    found = [info for info in seen if wanted <= set(info["tags"])]
    return Reply(found[: int(request.query.get("limit", len(found)))])


@route("info", "GET HEAD", REPO + rf"(?:/revision{REVISION})?")
def info(hub: Hub, request: Request) -> Reply:
    repo, commit_id = find_commit(hub, request)
    return Reply(_info(repo, commit_id, request.asks("blobs")))


def _info(repo: Repo, commit_id: str, blobs: bool) -> dict:
    files, metadata = repo.files(commit_id), _card_of(repo, commit_id)
    return {
        "_id": hashlib.sha1(f"{repo.kind}/{repo.id}".encode()).hexdigest()[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit_id,
        "private": repo.settings["private"],
        "gated": repo.settings["gated"],
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "createdAt": repo.settings["created"],
        "lastModified": repo.commit(commit_id)["date"],
        "tags": front_matter_tags(metadata, repo.kind),
        "cardData": metadata or None,
        "model-index": metadata.get("model-index"),
        "pipeline_tag": metadata.get("pipeline_tag"),
        "library_name": metadata.get("library_name"),
        "sdk": metadata.get("sdk") if repo.kind == "spaces" else None,
        "usedStorage": sum(entry.size for entry in files.values()),
        "siblings": [_sibling(path, entry, blobs) for path, entry in files.items()],
    }


def _card_of(repo: Repo, commit_id: str) -> dict:
    entry = repo.files(commit_id).get("README.md")
    readme = repo.store.blob(entry.sha256).read_text(encoding="utf-8", errors="replace") if entry else ""
    # YAML knows dates and JSON does not.
    return json.loads(json.dumps(read_front_matter(readme)[0], default=str))


def _sibling(path: str, entry: Entry, blobs: bool) -> dict:
    if not blobs:
        return {"rfilename": path}
    lfs = {"size": entry.size, "sha256": entry.sha256, "pointerSize": len(pointer(entry.sha256, entry.size))}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid, **({"lfs": lfs} if entry.lfs else {})}


@route("tree", "GET", REPO + rf"/tree{REVISION}(?:/(?P<path>.*))?")
def tree(hub: Hub, request: Request) -> Reply:
    repo, commit_id = find_commit(hub, request)
    files, folder = repo.files(commit_id), request.names["path"].strip("/")
    paths = _inside(files, f"{folder}/" if folder else "", request.asks("recursive"))
    if folder and not paths:
        raise entry_not_found(folder, commit_id)
    return _page(request, paths, lambda page: _records(repo, commit_id, files, page, request.asks("expand")))


def _inside(files: dict[str, Entry], start: str, deep: bool) -> list[str]:
    """Return the files and folders whose path begins with `start`, down to the files or only the first level."""
    found = set()
    for path in files:
        if path.startswith(start):
            parts = path.removeprefix(start).split("/")
            found |= {start + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1 if deep else 2)}
    return sorted(found)


@route("paths-info", "POST", REPO + rf"/paths-info{REVISION}")
def paths_info(hub: Hub, request: Request) -> Reply:
    repo, commit_id = find_commit(hub, request)
    files, form = repo.files(commit_id), parse_qs(request.read().decode())
    wanted = [path.strip("/") for path in form.get("paths", [])]
    folders = {file.rsplit("/", depth)[0] for file in files for depth in range(1, file.count("/") + 1)}
    there = [path for path in wanted if path in files or path in folders]
    return Reply(_records(repo, commit_id, files, there, form.get("expand", [""])[0].lower() == "true"))


def _records(repo: Repo, commit_id: str, files: dict[str, Entry], paths: list[str], expand: bool) -> list[dict]:
    """Return one listing entry for each path, with the commit that last changed it if `expand`."""
    records = [_file(path, files[path]) if path in files else _folder(path, files) for path in paths]
    if expand:
        changes = _last_changes(repo, commit_id, set(paths))
        for record in records:
            oid, commit = changes[record["path"]]
            record["lastCommit"] = {"id": oid, "title": commit["title"], "date": commit["date"]}
    return records


def _file(path: str, entry: Entry) -> dict:
    record = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
    if entry.lfs:
        pointer_size = len(pointer(entry.sha256, entry.size))
        record["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer_size}
    return record


def _folder(path: str, files: dict[str, Entry]) -> dict:
    inside = "".join(f"{name}\0{entry.oid}\n" for name, entry in files.items() if name.startswith(f"{path}/"))
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(inside.encode()).hexdigest()}


def _last_changes(repo: Repo, commit_id: str, paths: set[str]) -> dict[str, tuple[str, dict]]:
    """Return {path: (id, commit)} of the newest commit, up to this one, that touched each file or folder."""
    found, newer = {}, None
    for here in repo.history(commit_id):
        for path in paths - found.keys() if newer else ():
            if _part(here[1], path) != _part(newer[1], path):
                found[path] = newer
        newer = here
    return {path: found.get(path, newer) for path in paths}


def _part(commit: dict, path: str) -> dict:
    return {name: entry for name, entry in commit["files"].items() if name == path or name.startswith(f"{path}/")}


def _page(request: Request, items: list, show) -> Reply:
    """Answer one page of a listing, with the address of the next one in a Link header."""
    size, first = EXPANDED_PAGE if request.asks("expand") else PAGE, int(request.query.get("cursor", 0))
    reply = Reply(show(items[first : first + size]))
    if first + size < len(items):
        query = urlencode({**request.query, "cursor": first + size})
        reply.headers["Link"] = f'<{request.base}{request.path}?{query}>; rel="next"'
    return reply


@route("refs", "GET", REPO + "/refs")
def refs(hub: Hub, request: Request) -> Reply:
    repo = find_repo(hub, request)

    def listed(kind: str) -> list[dict]:
        found = repo.refs(kind).items()
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": target} for name, target in found]

    return Reply({"branches": listed("heads"), "tags": listed("tags"), "converts": [], "pullRequests": []})


@route("commits", "GET", REPO + rf"/commits{REVISION}")
def commits(hub: Hub, request: Request) -> Reply:
    repo, commit_id = find_commit(hub, request)
    return _page(request, list(repo.history(commit_id)), lambda page: [_commit(hub, *item) for item in page])


def _commit(hub: Hub, commit_id: str, commit: dict) -> dict:
    shown = {key: commit[key] for key in ("title", "message", "date")}
    return {"id": commit_id, "authors": [{"user": hub.user}], **shown}


@route("resolve", "GET HEAD", PAGES + rf"/resolve{REVISION}/(?P<path>.+)")
def resolve(hub: Hub, request: Request) -> Reply:
    repo, commit_id = find_commit(hub, request)
    pass_gate(repo, request)
    path = request.names["path"]
    entry = repo.files(commit_id).get(path)
    if entry is None:
        raise entry_not_found(path, commit_id)
    name = path.rsplit("/", 1)[-1]
    headers = {
        "X-Repo-Commit": commit_id,
        "ETag": f'"{entry.sha256 if entry.lfs else entry.oid}"',
        "Content-Type": "application/octet-stream" if entry.lfs else "text/plain; charset=utf-8",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}",
    }
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    # No X-Xet-Hash: with it the clients would look for a Xet server instead of reading this answer.
    return file_reply(repo.store.blob(entry.sha256), entry.size, request.headers.get("Range"), headers)


ROUTES = (
    whoami,
    agent_harnesses,
    list_repos,
    info,
    tree,
    paths_info,
    refs,
    commits,
    resolve,
)
