"""Where data comes from: files confined to their folder, and `datasets` folders or Hub ids with undecoded pictures."""

import re
from pathlib import Path
from typing import Any

from bad_input import BadInput

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def confined(image: Path, root: Path, *, file: str | Path, record: str | int) -> Path:
    """Return `image` if it is an existing file that lies, links followed, below `root`.

    Raises:
        BadInput: it is absent, no regular file, or outside of `root`.
    """
    place = {"file": file, "record": record, "field": "image"}
    try:
        inside = "\0" not in str(image) and image.resolve().is_relative_to(root.resolve())
        there = inside and image.is_file()
    except OSError as error:  # a name too long, or a loop of links
        wrong = f"{str(image)[:200]!r} is no path ({error.strerror})"
        raise BadInput(wrong, remedy="name a picture below the image folder", **place) from error
    if not inside:
        wrong = f"{str(image)[:200]!r} is outside of {root}"
        raise BadInput(wrong, remedy="keep pictures below the image folder", **place)
    if not there:
        raise BadInput(f"{image} does not exist", remedy="fetch the picture or drop the record", **place)
    return image


def load_splits(path: str | Path, split: str | None = None) -> "dict[str, Any]":
    """Return {split name: `datasets.Dataset`}, pictures undecoded, of a `datasets` folder or a Hub id.

    "val" and "validation" name the same split.

    Raises:
        BadInput: there is no such folder, it holds no data, it has no such split, or the Hub has no such set.
    """
    path = Path(path)
    _check_loadable(path)
    import datasets

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
    return {name: _undecoded(rows) for name, rows in by_name.items()}


def _check_loadable(path: Path) -> None:
    """Refuse what can be no data set before `datasets` is imported, which takes seconds."""
    if path.is_dir():
        if not any(path.iterdir()):
            raise BadInput("is an empty folder", remedy="name a folder that holds a data set", file=path)
    elif path.parent.is_dir() and str(path.parent) != "." or not _HUB_ID.fullmatch(str(path)):
        raise BadInput("no such file, folder or Hub id (owner/name)", remedy="check the path", file=path)


def _undecoded(rows: Any) -> Any:
    import datasets

    if isinstance(rows.features.get("image"), datasets.Image):
        return rows.cast_column("image", datasets.Image(decode=False))
    return rows
