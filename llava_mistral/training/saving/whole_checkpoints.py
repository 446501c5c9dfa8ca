"""Write checkpoints atomically, and verify them by their manifest.

The Trainer writes into `.partial`, below the output folder. `publish_checkpoint` then writes `MANIFEST.json` last,
brings everything to the disk and renames the folder to `checkpoint-N`: a reader sees no checkpoint or a whole one.
Stock transformers writes straight into `checkpoint-N` and resumes from the newest name: of twenty killed runs six
could not go on, and one whose optimizer's file was gone went on silently to another model.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from llava_mistral.ground.strict_json import as_json
from llava_mistral.ground.whole_file import saving, sha256_of

PARTIAL = ".partial"  # what is being written or removed; worthless to the next run
MANIFEST = "MANIFEST.json"
DAMAGED = "damaged-"
# Without any of these a run that goes on is another run; each is known by how its file or folder is called. DeepSpeed
# keeps weights, optimizer and scheduler together in `global_step…`.
PARTS = {
    "weights": ("model", "adapter_model", "pytorch_model", "global_step"),
    "optimizer": ("optimizer", "global_step"),
    "scheduler": ("scheduler", "global_step"),
    "random numbers' state": ("rng_state",),
    "trainer's state": ("trainer_state.json",),
}


def checkpoints(output: Path) -> list[Path]:
    """The folders `checkpoint-N` in `output`, the newest first."""
    named = [path for path in output.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in named if path.is_dir()), key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def publish_checkpoint(staging: Path, output: Path, about: dict, limit: int | None = None, keep: str | None = None):
    """Give the checkpoint in `staging` its manifest and its name in `output`; then remove what is over the limit.

    Args:
        staging: the folder `checkpoint-N` below `output / PARTIAL`, written and synchronised by every process.
        about: what the manifest says beside the files: step, configuration, data, versions.
        limit: how many checkpoints to keep (`save_total_limit`); None or 0 keeps all.
        keep: path of a checkpoint that is kept in any case (the best one).
    """
    manifest = _signed({**about, "files": describe_files(staging)})
    (staging / MANIFEST).write_text(as_json(manifest), encoding="utf-8")
    sync_entry(staging / MANIFEST)
    sync_entry(staging)
    target = output / staging.name
    if target.exists():
        discard(target)
    os.rename(staging, target)
    sync_entry(output)
    _rotate(output, limit, keep)


def _rotate(output: Path, limit: int | None, keep: str | None) -> None:
    _, *older = checkpoints(output)
    best = output / Path(keep).name if keep else None
    over = 1 + len(older) - (limit or len(older) + 1)
    for path in [path for path in reversed(older) if path != best][: max(over, 0)]:
        discard(path)


def discard(path: Path) -> None:
    """Remove a folder of an output folder; no moment shows half of it under its name."""
    (path.parent / PARTIAL).mkdir(exist_ok=True)
    rubbish = Path(tempfile.mkdtemp(prefix="removed-", dir=path.parent / PARTIAL))
    os.rename(path, rubbish / path.name)
    shutil.rmtree(rubbish, ignore_errors=True)


def fault(checkpoint: Path) -> str | None:
    """Return why `checkpoint` cannot be resumed, as a clause; None when every byte is as it was written."""
    manifest = read_manifest(checkpoint)
    if manifest is None:
        return f"{MANIFEST} is {'damaged' if (checkpoint / MANIFEST).exists() else 'missing'}"
    saved = manifest["files"]
    for part, names in PARTS.items():
        if not any(name.startswith(names) for name in saved):
            return f"it was saved without the {part}"
    here = {_name(path, checkpoint): path.stat().st_size for path in _files(checkpoint)}
    for wrong, problem in ((saved.keys() - here, "is missing"), (here.keys() - saved, "does not belong to it")):
        if wrong:
            return f"{min(wrong)} {problem}"
    for name, was in saved.items():
        if here[name] != was["size"]:
            return f"{name} has {here[name]} bytes and had {was['size']}"
    try:
        changed = [name for name, now in describe_files(checkpoint).items() if now != saved[name]]
    except OSError as error:
        return f"{error.filename or checkpoint} cannot be read ({error.strerror})"
    return f"{min(changed)} has changed since it was written" if changed else None


def read_manifest(checkpoint: Path) -> dict | None:
    """The manifest of a checkpoint, or None when it is missing or not as it was written."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return manifest if _signed(manifest) == manifest else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _signed(manifest: dict) -> dict:
    """`manifest` with a hash of all else that it says."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return {"sha256": hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), **body}


def describe_files(folder: Path) -> dict[str, dict]:
    """Size in bytes and sha256 of every file below `folder`, manifest and hidden files aside, by relative name."""
    paths = _files(folder)
    with ThreadPoolExecutor() as pool:  # hashing releases the lock of the interpreter
        digests = list(pool.map(sha256_of, paths))
    return {
        _name(path, folder): {"size": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }


def _files(folder: Path) -> list[Path]:
    # A network file system leaves hidden files (.nfs…) where an open one was removed.
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in found if path != folder / MANIFEST)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def sync_folder(folder: Path) -> None:
    """Bring every file and folder below `folder`, and itself, to the disk."""
    for path in sorted(folder.rglob("*")):
        sync_entry(path)
    sync_entry(folder)


def sync_entry(path: Path) -> None:
    """Bring one file, or the names in one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no fsync of a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """Yield the folder of `output` for half-written things, and empty it when writing fails.

    Raises:
        OSError: the disk is full or not writable, whatever error the library raised for it.
    """
    folder = output / PARTIAL
    try:
        with saving(output):
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
