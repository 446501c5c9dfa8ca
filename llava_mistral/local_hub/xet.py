"""Uploads through Xet, without a Xet server.

huggingface_hub 2.4 sends large files through hf-xet wherever it is installed, and has no way back to LFS. But hf-xet
takes `local:///folder` for a server's address (its setting `data.local_cas_scheme`) and then writes its chunks and
shards there itself. Each write token names a folder of its own, because the client holds a database in it locked; the
commit afterwards names only sha256s, and the shards say which Xet file is which.
"""

import os
import secrets
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from llava_mistral.local_hub.blobs import Blobs, file_size
from llava_mistral.local_hub.repository import Repo

FOREVER = 4102444800  # 2100-01-01: a renewed token would name another folder in the middle of an upload
_RECORD = 48  # bytes; a shard is a row of these (Xet protocol specification, "Shard format")
_END = b"\xff" * 32
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


def grant(repo: Repo) -> dict:
    """Return the answer to a request for a write token: a new folder for one upload to this repository."""
    for earlier in _uploads(repo).glob("*"):  # an upload that changed nothing is followed by no commit
        stored = [_is_stored(repo.store, sha256, size) for sha256, _, size in _files_in(earlier)]
        if stored and all(stored):
            shutil.rmtree(earlier, ignore_errors=True)
    token = secrets.token_hex(16)
    folder = _uploads(repo) / token
    folder.mkdir(parents=True)
    return {"casUrl": f"local://{folder}", "accessToken": token, "exp": FOREVER}


def receive(repo: Repo, oids: set[str]) -> None:
    """Make ordinary blobs of those `wanted` sha256s that were uploaded to this repository through Xet.

    What was not uploaded is left to the caller to miss; the store checks each file against its sha256.
    """
    with repo.store.receiving:
        for folder in sorted(_uploads(repo).glob("*")):
            found = {
                sha256: file for sha256, *file in _files_in(folder) if not _is_stored(repo.store, sha256, file[1])
            }
            if oids & found.keys():
                # All of it, wanted or not: one upload may be followed by several commits.
                _materialise(repo.store, folder, found)
                shutil.rmtree(folder, ignore_errors=True)


def forget_old_uploads(store: Blobs, age: float = 86400) -> None:
    """Remove uploads that no commit has asked for within `age` seconds."""
    for folder in (store.root / "xet").glob("*/*"):
        if folder.stat().st_mtime < time.time() - age:
            shutil.rmtree(folder, ignore_errors=True)


def _is_stored(store: Blobs, sha256: str, size: int) -> bool:
    return file_size(store.blob(sha256)) == size


def _uploads(repo: Repo) -> Path:
    return repo.store.root / "xet" / f"{repo.kind}--{repo.id.replace('/', '--')}"


def _files_in(folder: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (sha256, Xet hash, size in bytes) of every file that the shards of an upload describe."""
    for path in sorted(folder.glob("xet/xorbs/shards/*.mdb")):
        # A shard may end early (its client was killed) or be gone (another request has just taken the upload in).
        with suppress(struct.error, FileNotFoundError):
            yield from _files_of(path.read_bytes())


def _files_of(shard: bytes) -> Iterator[tuple[str, str, int]]:
    at = _RECORD
    while shard[at : at + 32] != _END:
        flags, count = struct.unpack_from("<2I", shard, at + 32)
        segments = range(at + _RECORD, at + _RECORD * (count + 1), _RECORD)
        size = sum(struct.unpack_from("<I", shard, segment + 36)[0] for segment in segments)
        after = at + _RECORD * (1 + count * (2 if flags & _VERIFIED else 1))
        if flags & _WITH_SHA256:
            yield _hash_at(shard, after), _hash_at(shard, at), size
        at = after + (_RECORD if flags & _WITH_SHA256 else 0)


def _hash_at(shard: bytes, at: int) -> str:
    """Hashes are kept as four little-endian integers and written as those integers in hexadecimal."""
    return "".join(f"{part:016x}" for part in struct.unpack_from("<4Q", shard, at))


def _materialise(store: Blobs, folder: Path, files: dict[str, list]) -> None:
    from hf_xet import XetFileInfo, XetSession

    with tempfile.TemporaryDirectory(dir=store.incoming) as scratch:
        _copy_unlocked(folder, Path(scratch) / "upload")
        with XetSession().new_file_download_group(endpoint=f"local://{scratch}/upload") as group:
            for sha256, (xet_hash, size) in files.items():
                group.start_download_file(XetFileInfo(xet_hash, size), f"{scratch}/{sha256}")
        for sha256, (_, size) in files.items():
            store.adopt_blob(Path(scratch) / sha256, sha256, size)


def _copy_unlocked(folder: Path, copy: Path) -> None:
    """Copy an upload so that it can be opened while the client still holds it; the bulk is linked, not copied."""
    for path in sorted(folder.glob("xet/xorbs/**/*")):
        place = copy / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.name.startswith("default.") and path.suffix != ".tagset":
            os.link(path, place)
        elif path.is_file():
            shutil.copyfile(path, place)
