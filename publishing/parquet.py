"""The rows of a pruned dataset as they leave: parquet with every picture decoded and encoded anew.

Decoding to pixels and writing them again is what strips EXIF, GPS, comments and trailing bytes, and proves that
each picture is one. PNG keeps the pixels exactly, so what a stranger loads equals what was selected.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bad_input import BadInput

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
        raise BadInput("holds no data/*.parquet", remedy="give an output of prune_dataset.py", file=folder)
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

    rows = arrow_bytes = 0
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
                            _reencode(cell, image_root, source, rows + i, field.name)
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


def _reencode(cell, image_root: Path, source: Path, row: int, column: str):
    if cell is None:
        return None
    if isinstance(cell, list):
        return [_reencode(item, image_root, source, row, column) for item in cell]
    try:
        data = cell["bytes"] if cell["bytes"] is not None else _read_inside(cell["path"], image_root)
        return {"bytes": clean_png(data), "path": None}
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a broken or a boundless picture
        raise BadInput(
            f"the picture cannot be read ({' '.join(str(error).split())})",
            remedy="prune again from a source whose pictures all open",
            file=source,
            record=row,
            field=column,
        ) from None


def clean_png(data: bytes) -> bytes:
    """Decode a picture the way `datasets.Image` does (EXIF orientation applied) and encode its pixels as PNG."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as picture:
        if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode not in PNG_MODES:
            picture = picture.convert("RGBA" if "a" in picture.mode else "RGB")
        transparency = picture.info.get("transparency") if picture.mode in ("P", "L", "RGB", "1") else None
        picture.info = {}
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", **({} if transparency is None else {"transparency": transparency}))
    return buffer.getvalue()


def _read_inside(path: str | None, image_root: Path) -> bytes:
    if not path:
        raise ValueError("the row has neither its bytes nor its path")
    place = (image_root / path).resolve()
    if not place.is_relative_to(image_root.resolve()):
        raise ValueError(f"{Path(path).name} lies outside the dataset's folder")
    return place.read_bytes()
