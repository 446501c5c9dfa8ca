"""One repository: its commits, its refs, and the one way to change it."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from llava_mistral.local_hub.blobs import Blobs
from llava_mistral.local_hub.messages import HubError

COMMIT_ID = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Entry:
    """A file of a commit: the sha256 and size in bytes of its content, its git id, and whether it is an LFS file."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @classmethod
    def regular(cls, content: bytes) -> "Entry":
        return cls(hashlib.sha256(content).hexdigest(), len(content), git_id(content), False)

    @classmethod
    def large(cls, sha256: str, size: int) -> "Entry":
        return cls(sha256, size, git_id(pointer(sha256, size)), True)


def git_id(content: bytes) -> str:
    """Return the sha1 by which git names a blob of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """Return the text that stands in git for an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Repo:
    """A repository in `folder`, whose blobs are in `store`."""

    def __init__(self, store: Blobs, kind: str, repo_id: str, folder: Path):
        self.store, self.kind, self.id, self.folder = store, kind, repo_id, folder

    @property
    def settings(self) -> dict:
        """`private`, `gated` (False, "auto" or "manual") and `created`."""
        return {"gated": False, **json.loads((self.folder / "repo.json").read_bytes())}

    def change_settings(self, **changes) -> None:
        """Change some of the settings; call it with the store's lock held."""
        self.store.write(self.folder / "repo.json", json.dumps({**self.settings, **changes}).encode())

    def refs(self, kind: str) -> dict[str, str]:
        """Return {name: commit id} of the `heads` or the `tags`."""
        folder = self.folder / "refs" / kind
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return {unquote(name): (folder / name).read_text() for name in names}

    def set_ref(self, kind: str, name: str, commit_id: str) -> None:
        self.store.write(self.folder / "refs" / kind / quote(name, safe=""), commit_id.encode())

    def delete_ref(self, kind: str, name: str) -> None:
        with suppress(FileNotFoundError):
            (self.folder / "refs" / kind / quote(name, safe="")).unlink()

    def resolve(self, revision: str) -> str:
        """Return the commit id that a branch, a tag, a full ref or (the start of) a commit id names.

        Raises:
            HubError: RevisionNotFound.
        """
        if COMMIT_ID.fullmatch(revision) and (self.folder / "commits" / f"{revision}.json").exists():
            return revision
        for kind in ("heads", "tags"):
            if commit_id := self.refs(kind).get(revision.removeprefix(f"refs/{kind}/")):
                return commit_id
        if re.fullmatch(r"[0-9a-f]{7,39}", revision):
            for path in (self.folder / "commits").glob(f"{revision}*.json"):
                return path.stem
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, commit_id: str) -> dict:
        return json.loads((self.folder / "commits" / f"{commit_id}.json").read_bytes())

    def files(self, commit_id: str) -> dict[str, Entry]:
        """Return {path: Entry} of a commit, ordered by path."""
        return {path: Entry(**entry) for path, entry in sorted(self.commit(commit_id)["files"].items())}

    def history(self, commit_id: str | None) -> Iterator[tuple[str, dict]]:
        """Yield (commit id, commit) from this commit back to the first."""
        while commit_id:
            commit = self.commit(commit_id)
            yield commit_id, commit
            commit_id = commit["parent"]

    def write_commit(self, parent: str | None, files: dict[str, Entry], title: str, message: str) -> str:
        """Store a commit and return its id; no ref moves."""
        entries = {path: asdict(entry) for path, entry in files.items()}
        commit = {"parent": parent, "title": title, "message": message, "date": now(), "files": entries}
        content = json.dumps(commit, indent=1).encode()
        commit_id = hashlib.sha1(content).hexdigest()
        self.store.write(self.folder / "commits" / f"{commit_id}.json", content)
        return commit_id

    def advance(
        self,
        branch: str,
        change: Callable[[dict[str, Entry]], dict[str, Entry]],
        title: str,
        message: str,
        parent: str | None,
    ) -> str:
        """Put one commit on a branch: `change` gets the files at its head and returns the new ones.

        Args:
            parent: the commit id (or the start of one) that must be the head, or None for whatever the head is.

        Returns: the id of the commit.

        Raises:
            HubError: no such branch; the head is another commit (412); or what `change` raises.
        """
        with self.store.lock:
            head = self.refs("heads").get(branch.removeprefix("refs/heads/"))
            if head is None:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            if parent and not (len(parent) >= 7 and head.startswith(parent)):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            commit_id = self.write_commit(head, change(self.files(head)), title, message)
            self.set_ref("heads", branch.removeprefix("refs/heads/"), commit_id)
        return commit_id
