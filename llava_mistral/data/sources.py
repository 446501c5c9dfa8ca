"""Where data comes from: `datasets` folders and Hub ids, with their pictures as they are stored."""

import glob
import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.as_written import load
from llava_mistral.data.confined import check_confined
from llava_mistral.data.splits import HELD_OUT, files_by_split
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.hub_access import reach_hub
from llava_mistral.ground.pictures import PictureFolder, bytes_of

if TYPE_CHECKING:
    from datasets import Dataset

# `datasets` would unpack them into its cache, whatever their size.
_ARCHIVES = {".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".rar"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

ImageFolder = str | Path | Sequence[str | Path] | None
# What reads which table; a tar file is one of a WebDataset, read where it lies.
_TABLES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".tar": "webdataset"}
_TABLES |= dict.fromkeys((".json", ".jsonl", ".ndjson"), "json")
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


@dataclass(frozen=True)
class StoredPicture:
    """A picture of one row of a memory-mapped table: read when it is looked at, so that 558,000 take no memory."""

    rows: "Dataset"  # of one column, undecoded
    index: int
    cells: Callable[[Any, int], list[dict[str, Any]]]  # makes the cells of a column's value
    place: int = 0  # among the row's pictures

    def cell(self) -> dict[str, Any]:
        """Return {"bytes", "path"}, as a `datasets` column of pictures takes it."""
        (value,) = self.rows[self.index].values()
        return self.cells(value, self.index)[self.place]

    def read_bytes(self) -> bytes:
        """Return the bytes of the picture's file."""
        return bytes_of(self.cell())


def picture_folders(path: Path, image_folder: ImageFolder = None) -> list[PictureFolder]:
    """Return where the pictures may lie that rows of `path` name instead of holding: its own folder, and those named.

    Rows from the Hub may name what `datasets` fetched with them, and nothing else of this machine.

    Raises:
        BadInput: a folder that was named is none.
    """
    named = image_folders(image_folder)
    if path.exists():
        roots = [*named, path if path.is_dir() else path.parent]
    else:
        import datasets
        from huggingface_hub import constants

        roots = [*named, Path(constants.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)]
    return [PictureFolder(Path(root).absolute(), roots) for root in roots]


def image_folders(given: ImageFolder) -> list[Path]:
    """Return the folders of `--image_folder`: one, several, or several in one text with `:` between them.

    Raises:
        BadInput: one of them is no folder.
    """
    given = [] if given is None else [given] if isinstance(given, str | Path) else list(given)
    parts = [[one] if Path(one).exists() else str(one).split(os.pathsep) for one in given]
    folders = [Path(one).expanduser() for part in parts for one in part]
    for folder in folders:
        if not folder.is_dir():
            problem = "is a file, not a folder" if folder.exists() else "no such folder"
            raise BadInput(problem, remedy="name the folder of the pictures", file=folder, field="image_folder")
    return folders


def is_table(path: Path) -> bool:
    """Whether `path` is for `datasets` to read: a table's file, a folder without problems.json, or a Hub id."""
    if path.is_file():
        return path.suffix.lower() in (".parquet", ".csv", ".tsv", ".tar")
    return path.suffix.lower() != ".json" and not (path / "problems.json").is_file()


def load_splits(path: str | Path, split: str | None = None, *, config: str | None = None) -> "dict[str, Any]":
    """Return {split name: `datasets.Dataset`}, pictures undecoded, of a folder, a table's file or a Hub id.

    "val" and "validation" name the same split.

    Args:
        config: the configuration of a set that has several.

    Raises:
        BadInput: there is no such folder, it holds no data, it has no such split, or the Hub has no such set.
    """
    path = Path(path)
    dataset = _loaded(path, config)
    by_name = dict(dataset) if isinstance(dataset, dict) else {str(dataset.split or "train"): dataset}
    if split is not None:
        name = named_split(list(by_name), split, path)
        by_name = {name: by_name[name]}
    return {name: undecoded(rows) for name, rows in by_name.items()}


def named_split(names: list[str], split: str, path: Path) -> str:
    """Return the one of `names` that `split` means.

    Raises:
        BadInput: there is none.
    """
    for name in names:
        if name == split or {name, split} == {"val", "validation"}:
            return name
    raise BadInput(f"has no split {split!r}", remedy=f"use one of {', '.join(names)}", file=path, field="split")


def chosen_split(names: list[str], split: str | None, path: Path, *, held_out: bool = False) -> str:
    """Return the split to read: the one that was asked for, which must exist; else the usual one, or the only one.

    Raises:
        BadInput: the source has several splits, and neither is asked for nor usual.
    """
    if split is not None:
        return named_split(names, split, path)
    usual = [name for name in (HELD_OUT if held_out else ("train",)) if name in names]
    if usual or len(names) == 1:
        return [*usual, *names][0]
    problem = f"has the splits {', '.join(names)}"
    raise BadInput(problem, remedy=f"name one of them with --{'eval' if held_out else 'dataset'}_split", file=path)


def _loaded(path: Path, config: str | None) -> Any:
    _check_loadable(path)
    import datasets

    datasets.config.USE_PARQUET_EXPORT = False  # it would take the token to another host, datasets-server.…
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if config and (saved or path.is_file()):
        raise BadInput("has no configurations", remedy="leave it out", file=path, field="dataset_config")
    try:
        if saved:
            return datasets.load_from_disk(str(path.absolute()))
        if not path.exists():
            return load(str(path), name=config)
        # The library tells files by time alone; what is copied over another of the same time would be overlooked.
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "llava_mistral" / f"written-{state_of(path)}"
        cache = {"cache_dir": str(folder)}
        builder, options = (None, {}) if path.is_dir() and config else _builder(path)
        if builder is None:
            return load(str(path.absolute()), name=config, **cache)
        return load(builder, **options, **cache)
    except BadInput:
        raise
    except Exception as error:  # datasets has no common error; each of its many means: not a set that loads
        text = " ".join(str(error).split())
        if "Config name is missing" in text or "BuilderConfig" in text and "not found" in text:
            remedy = "name one of its configurations with --dataset_config"
            raise BadInput(text[:400], remedy=remedy, file=path, field="dataset_config") from error
        said = (
            f"{type(error).__name__}: {next((line for line in str(error).splitlines() if line.strip()), 'no message')}"
        )
        raise BadInput(
            f"does not load as a data set ({said})", remedy="check the path or the id", file=path
        ) from error


def _builder(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Return what of `datasets` reads a local file or folder, and its options; None: it finds out by itself.

    By itself it takes a folder of pictures beside one JSON file for pictures alone, and labels them by their folders.
    """
    if path.is_file():
        more = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
        return _TABLES[path.suffix.lower()], {"data_files": {"train": [glob.escape(str(path.absolute()))]}, **more}
    card = path / "README.md"
    if card.is_file() and "configs" in card.read_text(encoding="utf-8", errors="replace").split("\n---")[0]:
        return None, {}  # it says itself what belongs to what
    files = _files_of(path)
    if named := [file for file in files if file.name in _METADATA]:  # which name the pictures
        return "imagefolder", {"data_files": files_by_split(named, path)}
    for suffixes in ((".parquet", ".arrow"), (".jsonl", ".ndjson"), (".json",), (".csv",), (".tsv",), (".tar",)):
        mine = [file for file in files if file.suffix.lower() in suffixes]
        if mine and suffixes[0] == ".parquet":
            return None, {}
        if mine:
            more = {"sep": "\t"} if suffixes[0] == ".tsv" else {}
            return _TABLES[suffixes[0]], {"data_files": files_by_split(mine, path), **more}
    return None, {}


def _files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def state_of(path: Path) -> str:
    """Return the state of the data files below `path`, which changes when they do: place, size and times of each.

    A file changed within the last two seconds counts by its content too, for it may change again at the same time.
    """
    digest = hashlib.sha256(os.path.realpath(path).encode())
    for file in [path] if path.is_file() else _files_of(path):
        digest.update(f"{file.relative_to(path)} {file_state(file)}\n".encode())
        if file.suffix.lower() in (*_TABLES, ".arrow") and is_fresh(file):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:32]


def file_state(file: str | Path) -> str:
    """Return a file's size, mtime and ctime in nanoseconds, and inode, links followed."""
    state = os.stat(file)
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"


def is_fresh(file: str | Path) -> bool:
    """Whether a file was changed within the last two seconds: on some disks it may change again unnoticed."""
    state = os.stat(file)
    return time.time() - max(state.st_mtime, state.st_ctime) < 2


def _check_loadable(path: Path) -> None:
    """Refuse what can be no data set before `datasets` is imported, which takes seconds."""
    if path.is_file():
        check_confined(path)
        return
    if path.is_dir():
        for packed in sorted(file for file in path.rglob("*") if file.suffix.lower() in _ARCHIVES):
            remedy = "unpack it yourself, look at it, and name what was in it"
            raise BadInput(f"holds the archive {packed.relative_to(path)}", remedy=remedy, file=path)
        if not any(file.suffix.lower() in (*_TABLES, ".arrow") for file in _files_of(path)):
            remedy = "name a folder that holds problems.json, parquet, CSV or JSONL files, pictures with"
            remedy += " metadata.jsonl, or a saved data set"
            raise BadInput("holds no data set", remedy=remedy, file=path)
    elif path.parent.is_dir() and str(path.parent) != "." or not _HUB_ID.fullmatch(str(path)):
        raise BadInput("no such file, folder or Hub id (owner/name)", remedy="check the path", file=path)
    reach_hub(path, "dataset")
    check_confined(path)


def undecoded(rows: "Dataset") -> "Dataset":
    """Return the rows with pictures as {"bytes", "path"}, so that looking at a row decodes nothing."""
    return _typed(rows, decode=False)


def decoded(rows: "Dataset") -> "Dataset":
    """Return the rows with pictures that are decoded when a row is looked at."""
    return _typed(rows, decode=True)


def _typed(rows: "Dataset", *, decode: bool) -> "Dataset":
    """`cast_column` of a list of pictures copies the whole table, 558,000 rows of it; the bytes stay what they are."""
    from datasets import Dataset, Features

    features = Features({name: _retyped(kind, decode) for name, kind in rows.features.items()})
    if features == rows.features:
        return rows
    info = rows.info.copy()
    info.features = features
    options = {"split": rows.split, "indices_table": rows._indices, "fingerprint": f"{rows._fingerprint}-{decode}"}
    return Dataset(rows.data.cast(features.arrow_schema), info=info, **options)


def _retyped(kind: Any, decode: bool) -> Any:
    """Return the type of a column with all pictures in it decoded, or not, when it is looked at."""
    from datasets import Image, Json, LargeList, List

    # Sound, films and PDF would be opened wherever they lie, and are of no use here.
    if hasattr(kind, "decode") and not isinstance(kind, Json):
        return replace(kind, decode=decode and isinstance(kind, Image))
    if isinstance(kind, dict):
        return {name: _retyped(part, decode) for name, part in kind.items()}
    if isinstance(kind, LargeList):
        return LargeList(_retyped(kind.feature, decode))
    return List(_retyped(kind.feature, decode), length=kind.length) if isinstance(kind, List) else kind


def list_lengths(rows: "Dataset", name: str) -> list[int]:
    """Return how many items each row's list has, 0 where there is none; no picture is read."""
    import pyarrow.compute as pc

    batches = rows.select_columns(name).with_format("arrow").iter(10_000)
    return [count for batch in batches for count in pc.fill_null(pc.list_value_length(batch[name]), 0).to_pylist()]
