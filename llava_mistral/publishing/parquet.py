"""The rows of a pruned dataset as they leave: parquet with every picture decoded and encoded anew.

Decoding to pixels and writing them again is what strips EXIF, GPS, comments and trailing bytes, and proves that
each picture is one. PNG keeps the pixels exactly, so what a stranger loads equals what was selected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder, open_picture, png_bytes

# https://huggingface.co/docs/hub/datasets-image recommends row groups this small for rows with pictures.
ROWS_PER_GROUP = 100
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


def write_shard(source: Path, target: Path, image_root: Path, advance: Callable[[int], object]) -> Shard:
    """Copy a parquet file with every picture re-encoded as PNG without metadata; the schema stays what it was.

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
        BadInput: it is no picture that can be read; `place` names it.
    """
    picture = open_picture(source, rgb=False, **place)
    if picture.mode not in PNG_MODES:
        picture = picture.convert("RGBA" if "a" in picture.mode else "RGB")
    if picture.mode not in ("P", "L", "RGB", "1"):
        picture.info = {}
    return png_bytes(picture)
