"""A folder of repositories that survives `kill -9`.

    blobs/ab/abcdef…             the bytes of a file under their sha256; written once, never changed
    repos/models/owner/name/
        repo.json                {"private": …, "gated": …, "created": …}
        commits/<id>.json        {"parent", "title", "message", "date", "files": {path: Entry}}
        refs/heads/main          the id of a commit; names are percent-encoded
    incoming/                    what is half received; emptied at start
    xet/                         where Xet clients leave their uploads (`xet.py`)

Every file is written beside its place, fsynced and renamed into it, and a ref is moved only after the commit and the
blobs it needs are on disk: whoever reads sees the old state or the new one.
"""

import json
import re
import secrets
import shutil
from collections.abc import Iterator

from llava_mistral.local_hub.blobs import Blobs, sync_folder
from llava_mistral.local_hub.messages import HubError
from llava_mistral.local_hub.repository import Entry, Repo, now

REPO_KINDS = ("models", "datasets", "spaces")
_NAME = r"\w(?:[\w.-]{0,94}\w)?"
REPO_ID = re.compile(rf"(?!.*(?:--|\.\.)){_NAME}/{_NAME}(?<!\.git)", re.ASCII)


class Store(Blobs):
    """The whole folder: repositories, and below them the blobs that they share."""

    def create(self, kind: str, repo_id: str, private: bool, files: dict[str, Entry]) -> bool:
        """Create a repository with an initial commit of `files`; return False if there is one of that name.

        Raises:
            HubError: the name breaks the Hub's rules.
        """
        if not REPO_ID.fullmatch(repo_id):
            raise HubError(400, f"Invalid repo name: {repo_id}")
        folder = self.root / "repos" / kind / repo_id
        with self.lock:
            if folder.exists():
                return False
            repo = Repo(self, kind, repo_id, self.incoming / secrets.token_hex(8))
            self.write(repo.folder / "repo.json", json.dumps({"private": private, "created": now()}).encode())
            repo.set_ref("heads", "main", repo.write_commit(None, files, "initial commit", ""))
            folder.parent.mkdir(parents=True, exist_ok=True)
            repo.folder.rename(folder)
            sync_folder(folder.parent)
        return True

    def delete(self, repo: Repo) -> None:
        """Remove a repository at one stroke; blobs stay, other repositories may share them."""
        with self.lock:
            gone = self.incoming / secrets.token_hex(8)
            repo.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def repo(self, kind: str, repo_id: str) -> Repo | None:
        folder = self.root / "repos" / kind / repo_id
        return Repo(self, kind, repo_id, folder) if REPO_ID.fullmatch(repo_id) and folder.is_dir() else None

    def repos(self, kind: str) -> Iterator[Repo]:
        for folder in sorted((self.root / "repos" / kind).glob("*/*")):
            yield Repo(self, kind, f"{folder.parent.name}/{folder.name}", folder)
