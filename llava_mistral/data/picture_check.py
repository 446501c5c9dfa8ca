"""Open every picture of a data set once before it is used, so that a corrupt one is reported before hours of work."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.sources import file_state, is_fresh, undecoded
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import check_header, open_picture
from llava_mistral.ground.whole_file import one_at_a_time, sha256_of, write_whole

if TYPE_CHECKING:
    from datasets import Dataset

Pictured = Iterable[tuple[str, list[Any]]]  # id and pictures of each sample
DEPTHS = ("full", "header", "none")
_BATCH, _AHEAD = 100, 64  # rows in memory at a time; samples being opened, per thread


def checked(
    rows: "Dataset", depth: str, bad: BadSamples, *, source: str | Path, by_first: Callable = lambda look: look()
) -> "Dataset":
    """Return the rows whose pictures all open (`wrong_pictures`), with pictures undecoded.

    Args:
        by_first: gives what one of several processes found to all of them.
    """
    rows = undecoded(rows)
    wrong, bad.listed = by_first(
        lambda: (wrong_pictures(lambda: _pictured(rows), len(rows), depth, bad, source=source), bad.listed)
    )
    return rows.select([i for i in range(len(rows)) if i not in wrong]) if wrong else rows


def _pictured(rows: "Dataset") -> Pictured:
    for batch in rows.select_columns(["id", "images"]).with_format("arrow").iter(_BATCH):
        yield from zip(batch["id"].to_pylist(), batch["images"].to_pylist(), strict=True)


def wrong_pictures(
    pictured: Callable[[], Pictured], count: int, depth: str, bad: BadSamples, *, source: str | Path
) -> set[int]:
    """Open the pictures of all samples; returns the indices of samples to leave out.

    What was found is remembered in the cache of `datasets`, by size and time of each file, and none is opened again.

    Args:
        pictured: begins anew at every call.
        depth: "full" decodes every picture; "header" looks at format and size only, and misses files that are cut
            short; "none" looks at nothing.
        bad: what becomes of samples with a bad picture; all are met before the first is named.

    Raises:
        BadInput: an unknown depth; a bad picture in "error" mode; too many in "skip" mode.
    """
    if depth not in DEPTHS:
        raise BadInput(f"{depth!r} is unknown", remedy=f"use {', '.join(DEPTHS)}", field="check_pictures")
    if depth == "none":
        return set()
    found, before = _found_before(pictured(), depth), len(bad.listed)
    records_read = count + before  # the reader left those out, and a share of the rest would be another limit
    with one_at_a_time(found.with_name(f"{found.name}.lock")):
        known = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else None
        if known and _hashes(known["fresh"]) == known["fresh"]:
            bad.listed += [one | {"file": str(source)} for one in known["listed"]]
            bad.close(records_read)
            return set(known["wrong"])
        wrong = _open_all(pictured(), count, depth, bad, source)
        bad.close(records_read)
        # On some disks a file that was just written may change again without another time: its content tells.
        fresh = _hashes(path for path in _paths(pictured()) if is_fresh(path))
        write_whole(found, json.dumps({"wrong": wrong, "listed": bad.listed[before:], "fresh": fresh}))
    return set(wrong)


def _paths(pictured: Pictured) -> Iterator[str]:
    for _, own in pictured:
        for picture in own:
            path = picture["path"] if isinstance(picture, dict) and picture["bytes"] is None else picture
            if isinstance(path, str | Path) and os.path.exists(path):
                yield str(path)


def _hashes(paths: Iterable[str]) -> dict[str, str]:
    """Return {path: sha256 of its content} of the files that are there."""
    found = {}
    for path in set(paths):
        with suppress(OSError):
            found[path] = sha256_of(Path(path))
    return found


def _open_all(pictured: Pictured, count: int, depth: str, bad: BadSamples, source: str | Path) -> list[int]:
    from tqdm import tqdm

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wrong, bar = [], tqdm(total=count, desc="opening pictures", unit=" samples", delay=2)
    with bar, ThreadPoolExecutor(cores) as pool:  # Pillow decodes without the interpreter's lock
        for index, future in enumerate(_futures(pool, pictured, depth, source, cores * _AHEAD)):
            error = future.result()
            if error is not None:
                bad.gather(error)
                wrong.append(index)
            bar.update()
    return wrong


def _futures(
    pool: Executor, pictured: Pictured, depth: str, source: str | Path, ahead: int
) -> "Iterator[Future[BadInput | None]]":
    samples = iter(pictured)
    while part := [pool.submit(_fault, *sample, depth, source) for sample in islice(samples, ahead)]:
        yield from part


def _fault(name: str, pictures: list[Any], depth: str, source: str | Path) -> BadInput | None:
    look = open_picture if depth == "full" else check_header
    try:
        for picture in pictures:
            look(picture, file=source, record=name, field="image")
    except BadInput as error:
        return error
    return None


def _found_before(pictured: Pictured, depth: str) -> Path:
    """Return the file that holds what was found in these very pictures, at this depth, by this decoder."""
    import datasets

    from llava_mistral.ground import pictures

    folder = Path(datasets.config.HF_DATASETS_CACHE).absolute() / "llava_mistral"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(depth.encode() + Path(pictures.__file__).read_bytes())
    for name, own in pictured:
        digest.update(f"{name} {len(own)}\n".encode())
        for picture in own:
            digest.update(_identity(picture))
    return folder / f"{digest.hexdigest()[:32]}.pictures"


def _identity(picture: Any) -> bytes:
    if isinstance(picture, dict):
        picture = picture["path"] if picture["bytes"] is None else picture["bytes"]
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).digest()
    if not isinstance(picture, str | Path):
        return hashlib.sha256(picture.read_bytes()).digest()
    try:
        return f"{os.path.abspath(picture)} {file_state(picture)}\n".encode()
    except OSError:
        return f"{picture} absent\n".encode()
