"""Hold rows out of training for evaluation, chosen by a hash of the picture: the same rows in every run.

Rows about one picture stay together, for a held-out question about a picture that was trained on would measure memory.
"""

import hashlib
import json
from typing import Any

from llava_mistral.ground.bad_input import BadInput

MOST = 500  # rows that a share may come to: more make an evaluation slow and its mean hardly surer


def set_aside(rows: Any, amount: float, source: str) -> tuple[Any, Any]:
    """Split training rows into (those to train on, those held out), both in the data's order.

    Args:
        rows: a `datasets.Dataset` of training rows; no picture is decoded.
        amount: how many to hold out; below 1 a share of all rows, at least one and at most `MOST`. A few more where
            the last one's picture has more rows.
        source: what the rows were read from, for errors.

    Raises:
        BadInput: nothing would be left to train on.
    """
    wanted = int(amount) if amount >= 1 else min(MOST, max(1, round(amount * len(rows))))
    keys = _keys(rows)
    chosen: set[int] = set()
    last = None
    for key, index in sorted((key, index) for index, key in enumerate(keys)):
        if len(chosen) >= wanted and key != last:
            break
        chosen.add(index)
        last = key
    if len(chosen) == len(rows):
        problem = f"{amount:g} of {len(rows):,} rows leaves nothing to train on"
        remedy = "hold out fewer, or none with --held_out 0"
        raise BadInput(problem, remedy=remedy, file=source, field="held_out")
    return rows.select([index for index in range(len(rows)) if index not in chosen]), rows.select(sorted(chosen))


def _keys(rows: Any) -> list[bytes]:
    """A hash of each row's first picture, by bytes or name; of its words where it has none."""
    batches = rows.select_columns(["images", "prompt"]).with_format("arrow").iter(1000)
    return [_key(row) for batch in batches for row in batch.to_pylist()]


def _key(row: dict) -> bytes:
    for picture in row["images"] or ():
        content = picture["bytes"] if picture["bytes"] is not None else str(picture["path"]).encode()
        return hashlib.sha256(content).digest()
    return hashlib.sha256(json.dumps(row["prompt"], sort_keys=True).encode()).digest()
