"""Atomic writes of files and folders, and disk errors that name the file."""

import ctypes
import errno
import glob
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput

try:
    import fcntl
except ImportError:  # Windows: what a killed run left beside an output stays there
    fcntl = None

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}
OF_THE_DISK |= {errno.EMFILE, errno.ENFILE}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux' fcntl.h and fs.h


def write_whole(path: Path, content: str | bytes) -> None:
    """Write bytes, or text as UTF-8; a reader of `path` sees what was there before, or all of it.

    Raises:
        OSError: the disk is full or has no rights; it names `path`, and leaves nothing beside it.
    """
    partial = path.with_name(f".{path.name}.partial")
    with saving(path):
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def sha256_of(content: Path | bytes) -> str:
    """Return the sha256 of a file or of bytes, in hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


WITHOUT_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)  # what file systems without locks say


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file `path` across processes and machines; without file locks, go on unlocked.

    For what appears by rename and is the same whoever makes it: without locks it is made twice, and never torn.
    """
    from filelock import FileLock

    lock = FileLock(path)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter is what filelock makes of ENOSYS
        if getattr(error, "errno", errno.ENOSYS) not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def is_partial(path: Path) -> bool:
    """Whether this is an unfinished file or folder of a killed run, which may be removed."""
    return path.name.startswith(".") and ".partial" in path.name


@contextmanager
def whole_folder_at(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends well, and vanishes otherwise.

    On Linux the two change places in one step, so that a reader, and a kill, find the old folder or the new one.
    What killed runs left beside `path` is removed; a living one holds a lock on what it writes.

    Raises:
        OSError: the disk is full or not writable, whatever error the library raised for it.
    """
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        staging = path.parent / f".{path.name}.partial-{os.getpid()}"
        staging.mkdir()
    lock = None
    try:
        with saving(path):
            lock = _lock(staging)
        with saving(path):
            yield staging
            _take_place(staging, path)
    finally:
        if lock is not None:
            os.close(lock)
        _remove(staging)


def _remove(folder: Path) -> None:
    """As `shutil.rmtree`, with one open file at a time and not two at each depth: there may be no more."""
    with suppress(OSError):
        for root, folders, files in os.walk(folder, topdown=False):
            for name in files:
                os.unlink(os.path.join(root, name))
            for name in folders:
                path = os.path.join(root, name)
                os.unlink(path) if os.path.islink(path) else os.rmdir(path)
        os.rmdir(folder)


def _take_place(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
    elif not _exchange(staging, path):
        old = _aside(path)
        path.rename(old)  # a kill after this line: the next run puts it back
        staging.rename(path)
        _remove(old)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.replaced-by-llava-mistral"


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where kernel or file system cannot.

    Python has no name for it, and two renames leave a moment with no output at all, in which a kill can fall.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return rename is not None and rename(*names, _RENAME_EXCHANGE) == 0


def _clear(path: Path) -> None:
    old = _aside(path)
    if old.is_dir():
        _remove(old) if path.exists() else old.rename(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        with suppress(OSError):
            if (lock := _lock(left)) is not None:
                _remove(left)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Hold `folder` until the descriptor is closed, as the end of the process does; None where another does."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another holds it, or the file system knows no locks
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def saving(target: Path) -> Iterator[None]:
    """Re-raise disk errors as an OSError that names `target`; other errors pass through.

    Raises:
        OSError: with the disk's own number and words: safetensors, torch and pyarrow put it into words of theirs.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            named = [name for name in (error.filename, error.filename2) if name is not None]  # a copy's source, target
            elsewhere = named and not any(_is_at(name, target) for name in named)
            number = None if elsewhere or error.errno not in OF_THE_DISK else error.errno
        else:
            number = fault_of_disk(target)
        if number is None:
            raise
        raise OSError(number, f"cannot save: {os.strerror(number)}", str(target)) from error


def _is_at(file, target: Path) -> bool:
    """Whether `file` is `target`, above or below it, or beside it where it is not whole yet."""
    if not isinstance(file, str | bytes | os.PathLike):
        return False
    file, target = (Path(os.path.abspath(os.fsdecode(path))) for path in (file, target))
    beside = f"{target.parent / f'.{target.name}.'}"
    return target.is_relative_to(file) or file.is_relative_to(target) or str(file).startswith(beside)


def fault_of_disk(target: Path) -> int | None:
    """Ask the disk by writing a mebibyte beside `target`.

    Libraries keep the disk's error to themselves: torch reports a full one as `unexpected pos 64 vs 0`.
    """
    folder = target if target.is_dir() else target.parent
    probe = folder / f".probe.partial-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno if error.errno in OF_THE_DISK else None
    finally:
        with suppress(OSError):
            probe.unlink()
    return None
