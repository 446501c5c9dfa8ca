"""The state of an output folder, empty, an interrupted run, a finished run or something else, and the lock on it."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput, check_folders_above
from llava_mistral.ground.whole_file import WITHOUT_LOCKS
from llava_mistral.training.processes import is_first_process
from llava_mistral.training.saving.whole_checkpoints import DAMAGED, PARTIAL

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
# A finished model, whole, and then its record, on their way into the output folder (`run_record.complete_run`).
FINISHED, RECORD = ".finished", ".run.json"
# What a killed run leaves: checkpoints, whole and damaged, what it was writing, its lock's file, its first record.
BEGUN = "run.partial.json"  # what is known of a run when it begins; `run.json` replaces it
LEFTOVERS = ("checkpoint-", DAMAGED, PARTIAL, LOCK, BEGUN, f".{BEGUN}", "skipped.json", "log.jsonl")


def check_output(output: Path) -> None:
    """Refuse an output folder that is a file, or holds a finished run or something else.

    Raises:
        BadInput: names it.
    """
    place = {"file": output, "field": "output_dir"}
    if output.exists() and not output.is_dir():
        raise BadInput("the output is a file", remedy="name a new folder", **place)
    check_folders_above(output, "output_dir")
    if record_of(output):
        remedy = "name a new folder or remove this one"
        raise BadInput("the folder holds a finished run", remedy=remedy, **place)
    if output.is_dir() and not _is_empty_or_interrupted(output):
        raise BadInput("the folder holds something else", remedy="name an empty or a new folder", **place)


def is_finished(output: Path, given: dict[str, Any]) -> bool:
    """Whether `output` holds the finished run of these very values; then there is nothing to learn."""
    record = record_of(output)
    try:
        return json.loads(record.read_text(encoding="utf-8"))["asked"] == json.loads(json.dumps(given, default=str))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def is_unfinished(folder: Path) -> bool:
    """Whether `folder` holds a run that was killed, and no model yet."""
    left = any((folder / name).exists() for name in (FINISHED, RECORD, PARTIAL))
    return left or (any(folder.glob("checkpoint-*")) and not (folder / "config.json").is_file())


def record_of(output: Path) -> Path | None:
    """The record of the finished run in `output`, though the run was killed while files were moved into place.

    Looked for in the order in which it moves, so that it is found while another process moves it.
    """
    places = (output / FINISHED / "run.json", output / RECORD, output / "run.json")
    return next((place for place in places if place.is_file()), None)


def _is_empty_or_interrupted(output: Path) -> bool:
    """An interrupted run leaves `LEFTOVERS`, and TRL's card, logs and sample answers beside them."""
    names = [entry.name for entry in output.iterdir()]
    left = LEFTOVERS + (("README.md", "runs", "samples") if any(name.startswith(LEFTOVERS) for name in names) else ())
    return all(name.startswith(left) for name in names)


@contextmanager
def output_lock(output: str | Path) -> Iterator[None]:
    """Hold the output folder for this process, and for the other ranks of its launch.

    A second trainer would remove the first one's checkpoints, and is refused. The kernel keeps the lock and drops it
    with the process, however that ends. The first rank alone takes it. Where the file system knows no locks, a line
    says so and the run goes on. A finished run that nobody can write to needs none.

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
