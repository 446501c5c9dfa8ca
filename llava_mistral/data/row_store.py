"""Rows on disk: written once into the cache of `datasets`, memory-mapped ever after, by any number of processes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.whole_file import saving, write_whole

if TYPE_CHECKING:
    from datasets import Dataset, Features

_READERS = ("bad_samples", "columns", "conversations", "json_records", "llava_json", "scienceqa", "sources")
_BATCH = 100  # rows in memory at a time; those of a table carry their pictures


def stored_rows(
    made_from: dict[str, Any],
    features: "Features",
    rows: Callable[[], Iterator[dict[str, Any]]],
    bad: BadSamples,
    *,
    source: str | Path,
) -> "Dataset":
    """Return the rows that `rows` yields, from the cache when they were read from the same source before.

    The file appears whole or not at all. Of several processes the first writes, the others wait for it.

    Args:
        made_from: what tells this source and its options from all others.
        bad: what was left out is remembered with the rows.

    Raises:
        BadInput: what `rows` raises; an id that two rows share; no rows at all.
    """
    import datasets
    from filelock import FileLock

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "llava_mistral"
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = _digest(made_from | {"readers": _readers(), "features": str(features), "mode": bad.on_bad_sample})
    arrow, told = folder / f"{name}.arrow", folder / f"{name}.json"
    with FileLock(folder / f"{name}.lock"):
        known = _known(arrow, told)
        if known is None:
            for left in folder.glob(f"{name}.partial*"):  # of a run that was killed
                left.unlink()
            known = _write(folder / f"{name}.partial", arrow, told, features, rows(), bad)
            if not known["rows"]:
                arrow.unlink()
                raise BadInput("holds no row that can be used", remedy="make it again from its source", file=source)
            _check_ids(arrow, source)
            write_whole(told, json.dumps(known))
        else:
            bad.listed += known["skipped"]
            bad.close(known["samples"])
    return datasets.Dataset.from_file(str(arrow))


def _write(partial: Path, arrow: Path, told: Path, features: "Features", rows: Iterator, bad: BadSamples) -> dict:
    from datasets.arrow_writer import ArrowWriter

    before = len(bad.listed)
    try:
        with saving(arrow), ArrowWriter(features=features, path=str(partial), writer_batch_size=_BATCH) as writer:
            samples = _write_rows(writer, rows)
            count, _ = writer.finalize()
        os.replace(partial, arrow)
    finally:
        partial.unlink(missing_ok=True)
    size = arrow.stat().st_size
    return {"rows": count, "bytes": size, "samples": samples, "skipped": bad.listed[before:]}


def _write_rows(writer: Any, rows: Iterator[dict[str, Any]]) -> int:
    """Write every row and return what the generator returns at its end: how many samples it met."""
    while True:
        try:
            row = next(rows)
        except StopIteration as end:
            return end.value or 0
        writer.write(row)


def _known(arrow: Path, told: Path) -> dict[str, Any] | None:
    """Return what is told of a file that is there as it was written, else None."""
    try:
        known = json.loads(told.read_text(encoding="utf-8"))
        return known if arrow.stat().st_size == known["bytes"] else None
    except (OSError, ValueError):
        return None


def _check_ids(arrow: Path, source: str | Path) -> None:
    """Refuse an id that two rows share; eight bytes a row in memory."""
    import datasets
    import numpy as np

    ids = datasets.Dataset.from_file(str(arrow)).select_columns("id").with_format("arrow")
    seen = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _BATCH):
        names = ids[start : start + _BATCH]["id"].to_pylist()
        seen[start : start + len(names)] = [_short(name) for name in names]
    values, counts = np.unique(seen, return_counts=True)
    twice = set(values[counts > 1].tolist())
    met: set[str] = set()
    for start in range(0, len(ids) if twice else 0, _BATCH):
        for name in ids[start : start + _BATCH]["id"].to_pylist():
            if name in met:
                remedy = "give every sample an id of its own"
                arrow.unlink()
                raise BadInput("is there twice", remedy=remedy, file=source, record=name, field="id")
            if _short(name) in twice:
                met.add(name)


def _short(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _readers() -> str:
    """Return a hash of the code that words rows: other code, other rows."""
    digest = hashlib.sha256()
    for name in _READERS:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()
