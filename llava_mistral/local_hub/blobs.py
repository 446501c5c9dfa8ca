"""Storage of the Hub: blobs named by their sha256, atomic files, and one server at a time."""

import hashlib
import os
import re
import secrets
import shutil
import threading
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.local_hub.messages import HubError

SHA256 = re.compile(r"[0-9a-f]{64}")


def file_size(path: Path) -> int | None:
    """Return a file's size in bytes, or None if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


class Blobs:
    """The whole folder; one process at a time may serve it.

    Raises:
        BadInput: the folder cannot be made, or another process serves it.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).resolve()
        self.incoming = self.root / "incoming"
        self.lock = threading.RLock()  # held to move a ref
        self.receiving = threading.Lock()  # held to take Xet uploads in
        try:
            if self.root.is_dir() and any(self.root.iterdir()) and not (self.root / "repos").is_dir():
                remedy = "name an empty or a new folder, or one that a Local Hub made"
                raise BadInput("the folder holds something else", remedy=remedy, file=root, field="root")
            for name in ("blobs", "repos", "xet"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            self._claim = FileLock(self.root / "serving", blocking=False)  # held until close()
            self._claim.acquire()
        except Timeout as error:
            remedy = "end the other Local Hub or name another folder"
            raise BadInput("another Local Hub serves this folder", remedy=remedy, file=root, field="root") from error
        except OSError as error:
            raise BadInput(str(error.strerror), remedy="name a folder that can be written", file=root) from error
        shutil.rmtree(self.incoming, ignore_errors=True)
        self.incoming.mkdir()
        self.secret = self._read_secret()

    def close(self) -> None:
        self._claim.release()

    def _read_secret(self) -> bytes:
        """Return the key that signs upload addresses; it outlives a restart so that an upload in hand does too."""
        path = self.root / "secret"
        if not path.exists():
            self.write(path, secrets.token_bytes(32))
            path.chmod(0o600)
        return path.read_bytes()

    def write(self, path: Path, content: bytes) -> None:
        """Write a file that is whole or absent whenever the process or the machine stops."""
        with self.staged() as (part, file):
            file.write(content)
            self.settle(file, part, path)

    def staged(self) -> "Staged":
        """Return a context giving (path, open binary file) in `incoming`; gone at its end unless settled."""
        return Staged(self.incoming / secrets.token_hex(8))

    def settle(self, file: BinaryIO, part: Path, path: Path) -> None:
        """Move the staged file to its place, durably."""
        file.flush()
        os.fsync(file.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        part.rename(path)
        sync_folder(path.parent)

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256[:2] / sha256

    def add_blob(self, content: BinaryIO, sha256: str | None = None, size: int | None = None) -> str:
        """Store a stream's bytes and return their sha256.

        Raises:
            HubError: they are not the bytes that `sha256` and `size` promised; nothing is stored.
        """
        with self.staged() as (part, file):
            digest, count = hashlib.sha256(), 0
            while piece := content.read(1 << 20):
                digest.update(piece)
                count += file.write(piece)
                if size is not None and count > size:
                    break
            if sha256 is not None and (sha256 != digest.hexdigest() or size not in (None, count)):
                received = f"{count} bytes of sha256 {digest.hexdigest()}"
                raise HubError(400, f"the uploaded bytes are not object {sha256}: got {received}")
            place = self.blob(digest.hexdigest())
            if file_size(place) != count:  # it may be here already; syncing it once more would cost milliseconds
                self.settle(file, part, place)
        return place.name

    def adopt_blob(self, part: Path, sha256: str, size: int) -> None:
        """Move a finished file of this disk in among the blobs.

        Raises:
            HubError: it is not the object that `sha256` and `size` promised; it stays where it is.
        """
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if (digest, part.stat().st_size) != (sha256, size):
                raise HubError(400, f"the uploaded bytes are not object {sha256}: got sha256 {digest}")
            self.settle(file, part, self.blob(sha256))


class Staged:
    """A file being received."""

    def __init__(self, part: Path):
        self._part = part

    def __enter__(self) -> tuple[Path, BinaryIO]:
        self._file = open(self._part, "wb")
        return self._part, self._file

    def __exit__(self, *_) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
