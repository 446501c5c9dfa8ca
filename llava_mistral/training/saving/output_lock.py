"""A lock on the output folder: a second trainer would remove the first one's checkpoints, and is refused."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.whole_file import WITHOUT_LOCKS
from llava_mistral.training.processes import is_first_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"


@contextmanager
def output_lock(output: str | Path) -> Iterator[None]:
    """Hold the output folder for this process, and for the other ranks of its launch.

    The kernel keeps the lock and drops it with the process, however that ends. The first rank alone takes it. Where
    the file system knows no locks, that is said and the run goes on. A finished run that nobody can write to needs
    none.

    Raises:
        BadInput: another process holds it.
    """
    output = Path(output)
    archived = (output / "run.json").is_file() and not os.access(output, os.W_OK)
    if archived or not is_first_process():
        yield
        return
    output.mkdir(parents=True, exist_ok=True)
    descriptor = _take(output)
    try:
        yield
    finally:
        (output / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):
            output.rmdir()  # refused before anything was written


def _take(output: Path) -> int:
    while True:
        descriptor = os.open(output / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BadInput(
                "another process trains into this folder",
                remedy="wait for it to end, stop it, or name another folder",
                file=output,
                field="output_dir",
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            print(f"{output}: this file system has no locks; start no second run on the folder", file=sys.stderr)
            return descriptor
        if _is_current(descriptor, output / LOCK):
            return descriptor
        os.close(descriptor)  # the last holder removed the file between the two calls


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
