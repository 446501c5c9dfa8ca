"""A disk cache of picture features, so that a frozen tower reads each picture once for all epochs and runs.

One safetensors file per picture, `<folder>/<tower>/<first two digits>/<picture>.safetensors`. `<tower>` is a hash of
everything that the features depend on besides the picture (`vision_features.tower_key`), `<picture>` the sha256 of the
encoded picture (`picture_key`). Files are memory-mapped when they are read and carry a checksum; a damaged one is
thrown away and computed again. A file appears by rename, so a killed run leaves no half of one, and several runs, or
the processes of one, may share the folder.
"""

import hashlib
import os
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    import torch

GB = 10**9
ABANDONED = 3600  # seconds after which a file that was never renamed is known to have lost its writer
TICK = 1  # seconds by which the clock that files are dated by may lag
COUNTED_AGAIN = 64  # what others write is seen after this share of the bound


def picture_key(picture: Any) -> bytes:
    """sha256 of a picture as a row holds it: `{"bytes": …, "path": …}` (encoded) or a decoded PIL image."""
    if not isinstance(picture, dict):
        return hashlib.sha256(f"{picture.mode} {picture.size} ".encode() + picture.tobytes()).digest()
    if picture["bytes"] is not None:
        return hashlib.sha256(picture["bytes"]).digest()
    with open(picture["path"], "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class VisionCache:
    """The features that one tower made of pictures, in a folder of bounded size.

    Args:
        folder: shared by all towers; made when the first picture is stored.
        tower: hash of what the features depend on besides the picture.
        gigabytes: most that all files below `folder` may take. When they do, those of earlier runs that this one has
            not used go first, the longest unused before the others; when only this run's are left, no more are
            stored. Epochs read in circles: to drop this run's own would drop each just before it is needed.
    """

    def __init__(self, folder: str | Path, tower: str, gigabytes: float):
        self.folder, self.own = Path(folder), Path(folder) / tower
        self.limit, self.begun = int(gigabytes * GB), time.time() - TICK
        self.full = False
        self._taken, self._added = 0, self.limit  # so that the first picture makes it count

    def get(self, key: bytes) -> "tuple[torch.Tensor, tuple[int, int]] | None":
        """Return features `(tiles, patches, width)` and the picture's `(height, width)` in pixels, if stored whole."""
        from safetensors import SafetensorError, safe_open

        file = self._file(key)
        try:
            with safe_open(file, "pt") as stored:
                features, metadata = stored.get_tensor("features"), stored.metadata()
            size = int(metadata["height"]), int(metadata["width"])
            whole = int(metadata["crc32"]) == _checksum(features)
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, ValueError, TypeError, OSError):
            whole = False
        with suppress(OSError):  # a folder that this user may only read serves, too
            if whole:
                os.utime(file)  # in use: not to be dropped
            else:
                file.unlink()
        return (features, size) if whole else None

    def put(self, key: bytes, features: "torch.Tensor", size: tuple[int, int]) -> bool:
        """Store features `(tiles, patches, width)` of a picture of `size` (height, width); whether there was room."""
        from safetensors.torch import save_file

        if self.full:
            return False
        file, features = self._file(key), features.cpu().contiguous()
        metadata = {"crc32": str(_checksum(features)), "height": str(size[0]), "width": str(size[1])}
        partial = file.with_suffix(f".{uuid4().hex}.partial")
        try:
            if not self._has_room(features.nbytes):
                return False
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"features": features}, partial, metadata)
            partial.replace(file)
        except Exception as error:  # a full disk or a lost one: the run goes on without
            with suppress(OSError):
                partial.unlink()
            self._stop(str(error))
            return False
        self._added += features.nbytes
        return True

    def _file(self, key: bytes) -> Path:
        return self.own / key.hex()[:2] / f"{key.hex()}.safetensors"

    def _has_room(self, size: int) -> bool:
        if self._added > self.limit // COUNTED_AGAIN:
            self._count()
        if self._taken + self._added + size > self.limit:
            self._drop(self._taken + self._added + size - self.limit)
        if self._taken + self._added + size > self.limit:
            self._stop(f"{self.limit / GB:g} GB are taken, see --vision_cache_gb")
            return False
        return True

    def _count(self) -> None:
        self._taken, self._added = 0, 0
        for entry in _files(self.folder):
            with suppress(OSError):  # another run was faster, or it is another user's
                self._taken += entry.stat().st_size
                if entry.name.endswith(".partial") and time.time() - entry.stat().st_mtime > ABANDONED:
                    os.unlink(entry)
                    self._taken -= entry.stat().st_size

    def _drop(self, size: int) -> None:
        """Remove files that this run has not used, until `size` bytes and a counting's worth more are free."""
        size += self.limit // COUNTED_AGAIN
        unused = []
        for entry in _files(self.folder):
            with suppress(OSError):
                if entry.stat().st_mtime < self.begun:
                    unused.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        for _, taken, path in sorted(unused):
            if size <= 0:
                return
            with suppress(OSError):
                os.unlink(path)
                size -= taken
                self._taken -= taken

    def _stop(self, cause: str) -> None:
        self.full = True
        message = f"{self.folder}: no more pictures are stored ({cause}); the tower reads the others in each epoch"
        warnings.warn(message, stacklevel=4)


def _checksum(features: "torch.Tensor") -> int:
    import torch

    return zlib.crc32(features.contiguous().view(torch.uint8).numpy())


def _files(folder: Path) -> Iterator[os.DirEntry]:
    """The stored files, and those being written, of all towers."""
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.name.endswith((".safetensors", ".partial")):
            yield entry
