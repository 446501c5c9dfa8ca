"""The published rows of a pruned dataset: its own parquet file, or one with every picture re-encoded.

A file leaves as it is when its manifest has its hash and it is shown to hold nothing but rows whose pictures are bare
PNG (`own_shard`), which is what `llava-mistral prune` writes. Pictures of any other file are decoded to pixels and
written again: this strips EXIF, GPS, comments and trailing bytes, and proves that each picture is one.
"""

import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder, open_picture, png_bytes

# https://huggingface.co/docs/hub/datasets-image recommends row groups this small for rows with pictures.
ROWS_PER_GROUP = 100
# What a PNG of pixels alone consists of (https://www.w3.org/TR/png-3, section 11.2); others carry words, times, EXIF.
PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
PARQUET_ENDS = 12  # bytes: the magic number at both ends, and the length of the footer
PNG_MODES = {"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"}


@dataclass(frozen=True)
class Shard:
    """One published parquet file: its rows and its size in bytes on disk and as Arrow."""

    path: Path
    rows: int
    bytes: int
    arrow_bytes: int


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of a dataset folder by split: `data/train-00000-of-00001.parquet` belongs to `train`.

    Raises:
        BadInput: there are none.
    """
    splits: dict[str, list[Path]] = {}
    for path in sorted((folder / "data").glob("*.parquet")):
        splits.setdefault(path.name.split("-")[0].removesuffix(".parquet"), []).append(path)
    if not splits:
        raise BadInput("holds no data/*.parquet", remedy="give an output of llava-mistral prune", file=folder)
    return splits


def own_shard(source: Path, target: Path, advance: Callable[[int], object]) -> Shard | None:
    """Copy a parquet file byte for byte, or return None when it may hold anything but its rows and their pixels.

    Looked at: that pyarrow wrote it, with no notes of anybody's and no bytes outside of its columns, and that every
    picture decodes, is a PNG of pixels alone and is named by a number or not at all.
    """
    import pyarrow.parquet as pq

    rows = arrow_bytes = 0
    with pq.ParquetFile(source) as file:
        meta = file.metadata
        groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
        columns = sum(group.column(i).total_compressed_size for group in groups for i in range(group.num_columns))
        whole = columns + meta.serialized_size + PARQUET_ENDS == source.stat().st_size
        if not (whole and set(meta.metadata or ()) <= {b"ARROW:schema", b"huggingface"}):
            return None
        pictures = [field.name for field in file.schema_arrow if _holds_images(field.type)]
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
            if not all(_is_bare(cell) for name in pictures for cell in batch.column(name).to_pylist()):
                return None
            rows, arrow_bytes = rows + batch.num_rows, arrow_bytes + batch.nbytes
            advance(batch.num_rows)
    shutil.copyfile(source, target)
    return Shard(target, rows, target.stat().st_size, arrow_bytes)


def _is_bare(cell: Any) -> bool:
    """Whether the pictures of a cell are PNG of pixels alone, as `png_bytes` writes them."""
    if cell is None or isinstance(cell, list):
        return all(map(_is_bare, cell or ()))
    data, place = cell["bytes"] or b"", 8
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or not re.fullmatch(r"(\d+\.png)?", cell["path"] or ""):
        return False
    kind = b""
    while place + 12 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        if kind not in PIXEL_CHUNKS:
            return False
    try:
        open_picture(data, rgb=False)
    except BadInput:
        return False  # the file is written again, which names the row
    return kind == b"IEND" and place == len(data)


def write_shard(source: Path, target: Path, image_root: Path, advance: Callable[[int], object]) -> Shard:
    """Copy a parquet file with every picture re-encoded as PNG without metadata; the columns keep their types.

    Args:
        image_root: the folder a row's picture must lie in when the row holds its path and not its bytes.
        advance: called with the number of rows after each group (a progress bar's `update`).

    Raises:
        BadInput: naming the row whose picture cannot be read or lies elsewhere.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    images, rows, arrow_bytes = PictureFolder(image_root), 0, 0
    with pq.ParquetFile(source) as file:
        schema = file.schema_arrow
        kept = {name: text for name, text in (schema.metadata or {}).items() if name == b"huggingface"}
        schema = schema.with_metadata(kept or None)  # anybody's further notes stay here
        pictures = {field.name for field in schema if _holds_images(field.type)}
        with pq.ParquetWriter(target, schema) as writer:
            for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
                columns = []
                for field in schema:
                    column = batch.column(field.name)
                    if field.name in pictures:
                        clean = [
                            _reencode(cell, images, source, rows + i, field.name)
                            for i, cell in enumerate(column.to_pylist())
                        ]
                        column = pa.array(clean, type=field.type)
                    columns.append(column)
                group = pa.RecordBatch.from_arrays(columns, schema=schema)
                writer.write_batch(group)
                rows, arrow_bytes = rows + group.num_rows, arrow_bytes + group.nbytes
                advance(group.num_rows)
    return Shard(target, rows, target.stat().st_size, arrow_bytes)


def dataset_features(path: Path) -> list[dict]:
    """The columns of a parquet file as a dataset card's `dataset_info.features` has them."""
    from datasets import DatasetInfo, Features
    from pyarrow.parquet import read_schema

    return DatasetInfo(features=Features.from_arrow_schema(read_schema(path)))._to_yaml_dict()["features"]


def _holds_images(kind) -> bool:
    """Whether an Arrow type is that of `datasets.Image`, or a list of it."""
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        return _holds_images(kind.value_type)
    return types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def _reencode(cell, images: PictureFolder, source: Path, row: int, column: str):
    if cell is None:
        return None
    if isinstance(cell, list):
        return [_reencode(item, images, source, row, column) for item in cell]
    if cell["bytes"] is None:
        if not cell["path"]:
            problem = "the row has neither its bytes nor its path"
            raise BadInput(problem, remedy="prune again from its source", file=source, record=row, field=column)
        images.find(cell["path"], file=source, record=row)
        cell = {"bytes": None, "path": images.root / cell["path"]}
    return {"bytes": clean_png(cell, file=source, record=row, field=column), "path": None}


def clean_png(source: Any, **place: Any) -> bytes:
    """Decode a picture (`pictures.open_picture`) and encode its upright pixels as PNG, in its own mode.

    Raises:
        BadInput: it is not a picture that can be read; `place` names it.
    """
    picture = open_picture(source, rgb=False, **place)
    if picture.mode not in PNG_MODES:
        picture = picture.convert("RGBA" if "a" in picture.mode else "RGB")
    if picture.mode not in ("P", "L", "RGB", "1"):
        picture.info = {}
    return png_bytes(picture)
