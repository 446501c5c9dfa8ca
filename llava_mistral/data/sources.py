"""Where data comes from: `datasets` folders and Hub ids, with their pictures as they are stored."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.confined import check_confined
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder, bytes_of

if TYPE_CHECKING:
    from datasets import Dataset

# `datasets` would unpack them into its cache, whatever their size.
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".rar"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class StoredPicture:
    """The picture of one row of a memory-mapped table: read when it is looked at, so that 558,000 take no memory."""

    rows: "Dataset"  # of one column, `image`, undecoded
    index: int
    folder: Path  # what a path is relative to

    def cell(self) -> dict[str, Any]:
        """Return {"bytes", "path"}, as a `datasets` column of pictures takes it."""
        cell = self.rows[self.index]["image"]
        if cell["bytes"] is not None:
            return cell
        return {"bytes": None, "path": str(self.folder / cell["path"])}

    def read_bytes(self) -> bytes:
        """Return the bytes of the picture's file."""
        return bytes_of(self.cell())


def stored_pictures(rows: "Dataset", path: Path) -> "Iterator[StoredPicture | None]":
    """Yield the picture of each row's column `image`; None where a row has none.

    Raises:
        BadInput: a picture is a path outside of the folder `path`, or to nothing.
    """
    import pyarrow.compute as pc

    if "image" not in rows.column_names:
        yield from [None] * len(rows)
        return
    pictures = rows.select_columns("image")
    folders = picture_folders(path)
    for start in range(0, len(rows), 1000):
        cells = pictures.with_format("arrow")[start : start + 1000]["image"]
        kept = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
        names = pc.struct_field(cells, "path").to_pylist()
        for place, (has_bytes, name) in enumerate(zip(kept, names, strict=True)):
            if not has_bytes and name is not None:
                find_picture(folders, name, file=path, record=start + place)
            there = has_bytes or name is not None
            yield StoredPicture(pictures, start + place, folders[0].root) if there else None


def picture_folders(path: Path) -> list[PictureFolder]:
    """Return where the pictures may lie that rows of `path` name instead of holding: its own folder.

    Rows from the Hub may name what `datasets` fetched with them, and nothing else of this machine.
    """
    if path.is_dir():
        return [PictureFolder(path)]
    import datasets
    from huggingface_hub import constants

    return [PictureFolder(cache) for cache in (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)]


def find_picture(folders: list[PictureFolder], name: str, **place: Any) -> Path:
    """Return the picture's path in the first of the folders that has it.

    Raises:
        BadInput: none has it, or it lies elsewhere.
    """
    for folder in folders[1:]:
        with suppress(BadInput):
            return folder.find(name, **place)
    return folders[0].find(name, **place)


def load_splits(path: str | Path, split: str | None = None) -> "dict[str, Any]":
    """Return {split name: `datasets.Dataset`}, pictures undecoded, of a `datasets` folder or a Hub id.

    "val" and "validation" name the same split.

    Raises:
        BadInput: there is no such folder, it holds no data, it has no such split, or the Hub has no such set.
    """
    path = Path(path)
    _check_loadable(path)
    import datasets

    datasets.config.USE_PARQUET_EXPORT = False  # it would take the token to another host, datasets-server.…
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        found = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path))
    except Exception as error:  # datasets has no common error; each of its many means: not a set that loads
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        raise BadInput(
            f"does not load as a data set ({said})", remedy="check the path or the id", file=path
        ) from error
    by_name = dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}
    if split is not None:
        names = [name for name in by_name if name == split or {name, split} == {"val", "validation"}]
        if not names:
            remedy = f"use one of {', '.join(by_name)}"
            raise BadInput(f"has no split {split!r}", remedy=remedy, file=path, field="split")
        by_name = {name: by_name[name] for name in names}
    return {name: undecoded(rows) for name, rows in by_name.items()}


def _check_loadable(path: Path) -> None:
    """Refuse what can be no data set before `datasets` is imported, which takes seconds."""
    if path.is_dir():
        for packed in sorted(file for file in path.rglob("*") if file.suffix.lower() in _ARCHIVES):
            remedy = "unpack it yourself, look at it, and name what was in it"
            raise BadInput(f"holds the archive {packed.relative_to(path)}", remedy=remedy, file=path)
        if not any(path.rglob("*.parquet")) and not any(path.rglob("*.arrow")):
            remedy = "name a folder that holds problems.json, parquet files or a saved data set"
            raise BadInput("holds no data set", remedy=remedy, file=path)
    elif path.parent.is_dir() and str(path.parent) != "." or not _HUB_ID.fullmatch(str(path)):
        raise BadInput("no such file, folder or Hub id (owner/name)", remedy="check the path", file=path)
    check_confined(path)


def undecoded(rows: "Dataset") -> "Dataset":
    """Return the rows with pictures as {"bytes", "path"}, so that looking at a row decodes nothing."""
    return _typed(rows, decode=False)


def decoded(rows: "Dataset") -> "Dataset":
    """Return the rows with pictures that are decoded when a row is looked at."""
    return _typed(rows, decode=True)


def _typed(rows: "Dataset", *, decode: bool) -> "Dataset":
    """`cast_column` of a list of pictures copies the whole table, 558,000 rows of it; the bytes stay what they are."""
    from datasets import Dataset, Image, List

    features = rows.features.copy()
    for name in features.keys() & {"image", "images"}:
        if isinstance(features[name], Image):
            features[name] = Image(decode=decode)
        elif isinstance(getattr(features[name], "feature", None), Image):
            features[name] = List(Image(decode=decode))
    if features == rows.features:
        return rows
    info = rows.info.copy()
    info.features = features
    options = {"split": rows.split, "indices_table": rows._indices, "fingerprint": f"{rows._fingerprint}-{decode}"}
    return Dataset(rows.data.cast(features.arrow_schema), info=info, **options)
