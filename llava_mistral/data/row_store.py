"""Rows on disk: written once into the cache of `datasets`, then memory-mapped by any number of processes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.ground import pictures, strict_json
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.whole_file import one_at_a_time, saving, write_whole

if TYPE_CHECKING:
    from datasets import Dataset, Features

_READERS = (Path(__file__).parent, Path(pictures.__file__), Path(strict_json.__file__))
_BATCH = 100  # rows in memory at a time; those of a table carry their pictures


def stored_rows(
    made_from: dict[str, Any],
    rows: Callable[[], Iterator[dict[str, Any]]],
    bad: BadSamples,
    *,
    source: str | Path,
    metadata: tuple[str, ...] = (),
) -> "Dataset":
    """Return the rows that `rows` yields, from the cache when they were read from the same source before.

    The file appears whole or not at all. Of several processes the first writes, the others wait for it.

    Args:
        made_from: what tells this source and its options from all others.
        rows: begins anew at every call; its rows have ids of their own.
        bad: what was left out is remembered with the rows.
        metadata: columns beside those of every row (`conversations.row_features`).

    Raises:
        BadInput: what `rows` raises; no rows at all.
    """
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE).absolute() / "llava_mistral"
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = _digest(made_from | {"readers": _readers(), "metadata": metadata, "mode": bad.on_bad_sample})
    arrow, metadata_file = folder / f"{name}.arrow", folder / f"{name}.json"
    with one_at_a_time(folder / f"{name}.lock"):
        known = _known(arrow, metadata_file)
        if known is None:
            for left in folder.glob(f"{name}.partial*"):  # of a run that was killed
                left.unlink()
            known = _written(folder / f"{name}.partial", arrow, metadata, rows, bad)
            if not known["rows"]:
                arrow.unlink()
                raise BadInput("holds no row that can be used", remedy="make it again from its source", file=source)
            write_whole(metadata_file, json.dumps(known))
        else:
            bad.listed += [one | {"file": str(source)} for one in known["skipped"]]
            bad.close(known["samples"])
            bad.counted = known["counted"]
            for line in known["notices"]:
                bad.notice(line, source)
    return datasets.Dataset.from_file(str(arrow))


class _Marked(Exception):
    """A turn says whether it is learned, and the file has no room for that."""


def _written(partial: Path, arrow: Path, metadata: tuple[str, ...], rows: Callable, bad: BadSamples) -> dict[str, Any]:
    from llava_mistral.data.conversations import row_features

    before = len(bad.listed)
    try:
        return _write(partial, arrow, row_features(metadata), rows(), bad)
    except _Marked:
        del bad.listed[before:]
        return _write(partial, arrow, row_features(metadata, loss=True), rows(), bad)


def _write(partial: Path, arrow: Path, features: "Features", rows: Iterator, bad: BadSamples) -> dict[str, Any]:
    from datasets.arrow_writer import ArrowWriter

    before, heard = len(bad.listed), len(bad.notices)
    try:
        with saving(arrow), ArrowWriter(features=features, path=str(partial), writer_batch_size=_BATCH) as writer:
            samples = _write_rows(writer, rows, features)
            count, _ = writer.finalize()
        os.replace(partial, arrow)
    finally:
        partial.unlink(missing_ok=True)
    size = arrow.stat().st_size
    return {
        "rows": count,
        "bytes": size,
        "samples": samples,
        "skipped": bad.listed[before:],
        "notices": bad.notices[heard:],
        "counted": bad.counted,
    }


def _write_rows(writer: Any, rows: Iterator[dict[str, Any]], features: "Features") -> int:
    """Write every row and return what the generator returns at its end: how many samples it met."""
    room = "loss" in features["completion"].feature
    while True:
        try:
            row = next(rows)
        except StopIteration as end:
            return end.value or 0
        if not room and any("loss" in turn for turn in row["completion"]):
            raise _Marked
        writer.write({name: row.get(name) for name in features})


def _known(arrow: Path, metadata_file: Path) -> dict[str, Any] | None:
    """Return the metadata of a cached file that is as it was written, else None.

    Pictures that were absent may have come since, and samples without them are read again.
    """
    try:
        known = json.loads(metadata_file.read_text(encoding="utf-8"))
        absent = any(one["field"] in ("image", "images") for one in known["skipped"])
        return known if arrow.stat().st_size == known["bytes"] and not absent else None
    except (OSError, ValueError):
        return None


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _readers() -> str:
    """Return a hash of the code that words rows and decides what is refused: other code, other rows."""
    digest = hashlib.sha256()
    for place in _READERS:
        for file in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()
