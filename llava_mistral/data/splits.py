"""Which file and which problem belongs to which split: by names of files, and by ScienceQA's `pid_splits.json`."""

import glob
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json

SPLITS = ("train", "val", "test")
HELD_OUT = ("validation", "val", "valid", "dev", "test")


def files_by_split(files: Sequence[Path], folder: Path) -> dict[str, list[str]]:
    """Return {split: files} for `datasets`, by the names of files and folders below `folder`; "train" where none says.

    Its own guess looks at the names of pictures, too, and takes a `*` in a name for any text.
    """
    splits: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[^a-z0-9]+", file.relative_to(folder).as_posix().lower())
        found = next((word for word in words if word in (*HELD_OUT, "train")), "train")
        found = "validation" if found in ("val", "valid", "dev") else found
        splits.setdefault(found, []).append(glob.escape(str(file.absolute())))
    return splits


def read_pid_splits(path: str | Path) -> dict[str, list[str]]:
    """Return the ids of each split; train, val and test are disjoint, others (trainval, minitest) may overlap them.

    Raises:
        BadInput: not an object of lists of ids, or one id is in two of train, val and test.
    """
    splits = read_json(path)
    if not isinstance(splits, dict):
        raise BadInput("is not an object", remedy="give lists of ids by split", file=path)
    for name, pids in splits.items():
        if not isinstance(pids, list) or not all(isinstance(pid, str) for pid in pids):
            raise BadInput("is not a list of ids", remedy="give the ids as texts", file=path, field=name)
    home: dict[str, str] = {}
    for name in SPLITS:
        for pid in splits.get(name, ()):
            if home.setdefault(pid, name) != name:
                problem = f"is in both {home[pid]} and {name}"
                raise BadInput(problem, remedy="keep it in one of them", file=path, record=pid)
    return splits


def home_split(splits: dict[str, list[str]]) -> dict[str, str]:
    """Return {id: the one of train, val and test that holds it}."""
    return {pid: name for name in SPLITS for pid in splits.get(name, ())}


def check_ids_known(
    splits: dict[str, list[str]], known: set[str], split: str | None, *, splits_file: str | Path, file: str | Path
) -> None:
    """Refuse an unknown split, and ids that no problem has.

    Where more than half of the ids are absent, `file` is plainly an extract: that is said on standard error, and no
    fault. With `split` only its own ids are looked at, so that a file of one split (CQM-A) is measured by that split.
    """
    if split is not None and split not in splits:
        names = ", ".join(splits)
        raise BadInput(f"has no split {split!r}", remedy=f"use one of {names}", file=splits_file, field="split")
    named = set(splits[split]) if split else {pid for pids in splits.values() for pid in pids}
    absent = named - known
    if len(absent) * 2 > len(named):
        line = f"notice: {file} is an extract: {len(absent)} of the {len(named)} ids in {splits_file} are absent"
        print(line, file=sys.stderr)
    elif absent:
        first = ", ".join(sorted(absent, key=lambda pid: (len(pid), pid))[:5])
        problem = f"names {len(absent)} ids that are absent from {file} (first: {first})"
        raise BadInput(problem, remedy="use the two files of one release", file=splits_file, field=split)
