"""Sending files to a Hub as one commit onto the head they were made for.

`create_commit` fails at once on a 5xx, a cut connection or a 412, and a lost answer looks like a lost commit: so the
head is read again before anything is sent again, and nothing is committed that is there already.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.whole_file import sha256_of
from llava_mistral.publishing.connection import (
    FAILING_SECONDS,
    HubError,
    TryAgain,
    call,
    explained,
    is_conflict,
    once,
    wait,
)

MAX_ATTEMPTS = 30  # others' commits and passing failures that may come before ours


@dataclass(frozen=True)
class Publication:
    """What is on the Hub now.

    Attributes:
        commit: the commit that holds the files, 40 hexadecimal digits.
        files: path in the repository -> sha256 of what was published there.
        changed: False when the Hub already held every file and no commit was made.
    """

    repo_id: str
    repo_type: str
    commit: str
    files: dict[str, str]
    changed: bool


def check_repo_id(repo_id: str) -> str:
    """Refuse a repository name that the Hub would refuse, without asking it."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise BadInput(f"{repo_id!r} is not a repository name ({error})", remedy="use OWNER/NAME") from None
    if "/" not in repo_id:  # the Hub would put its owner in front, and the card would name another repository
        raise BadInput(f"{repo_id!r} names no owner", remedy="use OWNER/NAME")
    return repo_id


def publish(
    api,
    repo_id: str,
    repo_type: str,
    compose: Callable[[str | None], dict[str, Path | bytes]],
    *,
    message: str,
    owns: Callable[[str], bool] = lambda path: False,
    private: bool = False,
) -> Publication:
    """Bring a repository to hold exactly the composed files, in one commit onto the head they were composed for.

    Args:
        repo_type: "model", "dataset" or "space".
        compose: head commit (None in an empty repository) -> {path in the repository: file or bytes}. Called again
            when somebody else committed meanwhile, so that a card that lists all configs loses none.
        message: the commit's summary.
        owns: whether a file on the Hub is ours to delete when it is not among the composed ones.
        private: create the repository private; an existing public one is refused.

    Raises:
        BadInput: the Hub refuses the token, the repository or the files.
        HubError: it kept failing.
    """
    if card := compose(None).get("README.md"):
        call(partial(_validate_card, api, card, repo_type), repo_id)
    repo_id = _create(api, repo_id, repo_type, private)
    started, last = time.monotonic(), None
    for attempt in range(MAX_ATTEMPTS):
        head, there = call(lambda: _head(api, repo_id, repo_type), repo_id)
        files = compose(head)
        sums = {path: sha256_of(content) for path, content in files.items()}
        changes = {path: content for path, content in files.items() if not _same(there.get(path), content, sums[path])}
        stale = [path for path in there if path not in files and owns(path)]
        if not changes and not stale:  # after a failed attempt: its commit was made and only the answer got lost
            return Publication(repo_id, repo_type, head, sums, changed=attempt > 0)
        try:
            commit = once(partial(_commit, api, repo_id, repo_type, changes, stale, head, message), repo_id, attempt)
        except TryAgain as again:
            last = again.__cause__
            if not is_conflict(last) and time.monotonic() - started > 3 * FAILING_SECONDS:
                break
            wait(again)
        else:
            return Publication(repo_id, repo_type, commit, sums, changed=True)
    if is_conflict(last):
        raise HubError(f"others kept committing to {repo_id}; run the same command again")
    raise explained(last, repo_id) from last


def tag(api, publication: Publication, name: str) -> None:
    """Name the publication's commit; a tag that is there already names the same content and stays."""
    call(
        lambda: api.create_tag(
            publication.repo_id,
            tag=name,
            revision=publication.commit,
            repo_type=publication.repo_type,
            exist_ok=True,
        ),
        publication.repo_id,
    )


def read_remote(api, repo_id: str, repo_type: str, path: str, revision: str) -> bytes:
    """One small file of a repository at a commit, as it is there now (not from a cache)."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    def read() -> bytes:
        url = hf_hub_url(repo_id, path, repo_type=repo_type, revision=revision)
        response = get_session().get(url, headers=build_hf_headers())
        hf_raise_for_status(response)
        return response.content

    return call(read, repo_id)


def list_remote(api, repo_id: str, repo_type: str, revision: str) -> dict[str, str]:
    """The files of a repository at a commit: path -> sha256 of a large file, git's own hash of a small one."""
    entries = call(lambda: list(_tree(api, repo_id, repo_type, revision)), repo_id)
    return {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in entries}


def content_tag(prefix: str, sums: dict[str, str]) -> str:
    """A tag that names a set of files by their content, known before the commit that will hold them."""
    lines = "".join(f"{sums[path]}  {path}\n" for path in sorted(sums))
    return f"{prefix}-{hashlib.sha256(lines.encode()).hexdigest()[:12]}"


def _validate_card(api, card: bytes, repo_type: str) -> None:
    """Let the Hub judge the card before anything is written there: `create_commit` asks too late for that."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    response = get_session().post(
        f"{api.endpoint}/api/validate-yaml",
        json={"content": card.decode(), "repoType": repo_type},
        headers=build_hf_headers(),
    )
    if response.status_code == 400:
        messages = "; ".join(error.get("message", "") for error in response.json().get("errors", []))
        raise BadInput(f"the Hub refuses the card ({messages})", remedy="correct the field it names")
    hf_raise_for_status(response)


def _create(api, repo_id: str, repo_type: str, private: bool) -> str:
    options = {"private": private or None, "space_sdk": "gradio" if repo_type == "space" else None}
    url = call(lambda: api.create_repo(repo_id, repo_type=repo_type, exist_ok=True, **options), repo_id)
    if private and not call(lambda: api.repo_info(url.repo_id, repo_type=repo_type).private, repo_id):
        raise BadInput(
            f"{url.repo_id} exists and is public",
            remedy="leave --private out, or make the repository private on the Hub first",
        )
    return url.repo_id


def _head(api, repo_id: str, repo_type: str) -> tuple[str | None, dict[str, Any]]:
    head = api.repo_info(repo_id, repo_type=repo_type, revision="main").sha
    return head, ({file.path: file for file in _tree(api, repo_id, repo_type, head)} if head else {})


def _tree(api, repo_id: str, repo_type: str, revision: str) -> Iterator:
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
    return (entry for entry in entries if isinstance(entry, RepoFile))


def _same(remote, content: Path | bytes, sha256: str) -> bool:
    if remote is None:
        return False
    if remote.lfs is not None:
        return remote.lfs.sha256 == sha256
    data = content if isinstance(content, bytes) else content.read_bytes()
    return remote.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _commit(api, repo_id: str, repo_type: str, files: dict, stale: list[str], head: str | None, message: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    # New objects each time: create_commit writes its findings into them and refuses used ones.
    contents = {path: content if isinstance(content, bytes) else str(content) for path, content in files.items()}
    operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
    operations += [CommitOperationDelete(path) for path in stale]
    return api.create_commit(
        repo_id, operations, commit_message=message, repo_type=repo_type, revision="main", parent_commit=head
    ).oid
