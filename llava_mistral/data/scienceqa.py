"""Read ScienceQA problems from any of the forms they are stored in.

The four forms read here: the folder of the authors (`problems.json`, `pid_splits.json` and
`images/{split}/{pid}/{image}`; Lu et al., NeurIPS 2022), `problems.json` alone, LLaVA's `llava_test_CQM-A.json`, and
the columns of `derek-thomas/ScienceQA` as a `datasets` folder or a Hub id.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llava_mistral.data.bad_samples import BadSamples, usable
from llava_mistral.data.columns import check_there, parse_columns, renamed_record
from llava_mistral.data.cqm import read_cqm
from llava_mistral.data.json_records import is_lines
from llava_mistral.data.problem import (
    INSTRUCTION,
    LETTERS,
    Problem,
    answer_text,
    asked_turns,
    checked_fields,
    letters,
    question_text,
    quoted,
    text_of,
)
from llava_mistral.data.sources import ImageFolder, chosen_split, is_table, load_splits, picture_folders
from llava_mistral.data.splits import SPLITS, check_ids_known, home_split, read_pid_splits
from llava_mistral.data.tables import prepared, table_problems
from llava_mistral.data.unused_fields import record_beside
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder
from llava_mistral.ground.strict_json import read_json

# The columns of ScienceQA's table: subjects, what the question has beside its text, grades.
COLUMNS = ("ALL", "NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")


def read_problems(
    path: str | Path,
    *,
    split: str | None = None,
    pid_splits: str | Path | None = None,
    image_folder: ImageFolder = None,
    columns: str | Mapping[str, str] | None = None,
    dataset_config: str | None = None,
    bad: BadSamples | None = None,
) -> list[Problem]:
    """Return the problems at `path`, those of `split` only when it is given, in the order of the source.

    Args:
        path: a ScienceQA folder, a `problems.json`, LLaVA's `llava_test_CQM-A.json`, a `datasets` folder
            (`save_to_disk` or parquet) or a Hub id ("derek-thomas/ScienceQA").
        split: a key of `pid_splits`, or train, val or test by the problems' own `split` field.
        pid_splits: the file of ids by split; a folder's own `pid_splits.json` is used when this is not given.
        image_folder: where the pictures lie; by default `images` beside problems.json, or a table's own folder.
        columns: "question=their_column,…" (`columns.parse_columns`), of a table or of the records of a file.
        dataset_config: the configuration of a table that has several.
        bad: what becomes of problems that cannot be used; by default the first one is refused.

    Raises:
        BadInput: anything is missing, malformed or contradictory; the message names file, record, field and remedy.
    """
    path = Path(path)
    if path.is_dir() and (path / "problems.json").is_file():
        beside = path / "pid_splits.json"
        pid_splits = pid_splits or (beside if beside.is_file() else None)
        path = path / "problems.json"
    bad = bad or BadSamples()
    if not is_table(path) and not (path.is_file() and is_lines(path)):
        if dataset_config:
            raise BadInput("has no configurations", remedy="leave it out", file=path, field="dataset_config")
        problems = _read_file(path, split, pid_splits, image_folder, parse_columns(columns), bad)
    else:
        problems = _read_datasets(path, split, columns, dataset_config, image_folder, bad)
        if pid_splits is not None:
            problems = _of_split(problems, split, pid_splits, path)
    if not problems:
        where = f"no problem of split {split!r}" if split else "no problem"
        raise BadInput(f"holds {where}", remedy="name another split or another source", file=path, field="split")
    return problems


def _read_file(
    path: Path,
    split: str | None,
    pid_splits: str | Path | None,
    image_folder: ImageFolder,
    columns: Mapping[str, str],
    bad: BadSamples,
) -> list[Problem]:
    data = read_json(path)
    records = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    check_there(columns, {key for record in records if isinstance(record, dict) for key in record}, path)
    if isinstance(data, list) and path.name == "problems.json":
        raise BadInput("is a list", remedy="give an object of problems by their numeric id", file=path)
    if isinstance(data, list):
        problems = [Problem(**fields) for fields in read_cqm(path, data, columns, bad)]
        return _of_split(problems, split, pid_splits, path)
    if not isinstance(data, dict):
        raise BadInput("is neither problems.json nor CQM-A", remedy="give an object of problems by id", file=path)
    for pid in data:
        _check_pid(pid, path)
    data = {pid: renamed_record(record, columns, path) for pid, record in data.items()}
    unused: dict[str, None] = {}
    made = (usable(bad, partial(_problem, pid, record, path, unused)) for pid, record in data.items())
    problems = [problem for problem in made if problem is not None]
    bad.notice_unused(unused, path)
    _warn_of_equal_choices(problems, path)
    left_out = {one["record"] for one in bad.listed}
    chosen = _of_split(problems, split, pid_splits, path, left_out)
    folders = picture_folders(path, image_folder)[:-1] or [PictureFolder((path.parent / "images").absolute())]
    return list(_with_images(chosen, data, path, folders[0], bad))


def _check_pid(pid: str, file: Path) -> None:
    if not re.fullmatch(r"[0-9]{1,18}", pid):
        remedy = "key the problems by their numeric id, or put LLaVA's records into a list"
        raise BadInput(f"key {pid[:40]!r} is not a number", remedy=remedy, file=file)


def _problem(pid: str, record: Any, file: Path, unused: dict[str, None]) -> Problem:
    """Check one record of problems.json and return it without its image; `unused` collects fields it does not use."""
    if not isinstance(record, dict):
        raise BadInput("is not an object", remedy="give the problem's fields by name", file=file, record=pid)
    split = text_of(record, "split", file, pid)
    if split is not None and split not in SPLITS:
        raise BadInput(
            f"{quoted(split)} is unknown", remedy="use train, val or test", file=file, record=pid, field="split"
        )
    image = text_of(record, "image", file, pid)
    problem = Problem(pid=pid, has_image=bool(image), split=split, **checked_fields(record, file, pid))
    beside = record_beside(record, "choices", asked_turns(problem), [image] if image else [], file, pid)
    unused |= dict.fromkeys(beside)
    return problem


def _warn_of_equal_choices(problems: Iterable[Problem], file: Path) -> None:
    twins = [problem.pid for problem in problems if len(set(problem.choices)) < len(problem.choices)]
    if twins:
        print(f"{file}: {len(twins)} problems have two equal choices (first: {twins[0]})", file=sys.stderr)


def _of_split(
    problems: list[Problem], split: str | None, pid_splits: str | Path | None, file: Path, left_out: set = frozenset()
) -> list[Problem]:
    """Return the problems of `split`, by `pid_splits` when it is given, else by the problems' own field."""
    if pid_splits is not None:
        splits = read_pid_splits(pid_splits)
        known = {problem.pid for problem in problems} | left_out
        check_ids_known(splits, known, split, splits_file=pid_splits, file=file)
        homes = home_split(splits)
        problems = [_at_home(problem, homes.get(problem.pid), file) for problem in problems]
        chosen = set(splits[split]) if split else None
        return [problem for problem in problems if chosen is None or problem.pid in chosen]
    if problems and split is not None and all(problem.split is None for problem in problems):
        raise BadInput("no problem names its split", remedy="give pid_splits.json too", file=file, field="split")
    return [problem for problem in problems if split in (None, problem.split)]


def _at_home(problem: Problem, home: str | None, file: Path) -> Problem:
    if problem.split is None or home in (None, problem.split):
        return replace(problem, split=problem.split or home)
    wrong = f"{problem.split!r} contradicts pid_splits ({home})"
    raise BadInput(wrong, remedy="make the two agree", file=file, record=problem.pid, field="split")


def _with_images(
    problems: list[Problem], data: Mapping[str, Any], file: Path, folder: PictureFolder, bad: BadSamples
) -> Iterator[Problem]:
    """Yield the problems with their pictures; those that are absent are named together at the end."""
    for problem in problems:
        try:
            yield _with_image(problem, data[problem.pid].get("image"), file, folder)
        except BadInput as error:
            bad.gather(error)
    bad.close(len(problems) + len(bad.listed))


def _with_image(problem: Problem, name: str | None, file: Path, folder: PictureFolder) -> Problem:
    """Return the problem with the path of its picture, which must exist when there is an images folder at all."""
    if not problem.has_image or not folder.root.is_dir():
        return problem
    if problem.split is None:
        place = {"file": file, "record": problem.pid, "field": "split"}
        raise BadInput("is missing, and the picture lies under it", remedy="name the split", **place)
    image = Path(problem.split, problem.pid, name)
    return replace(problem, image=folder.find(image, file=file, record=problem.pid))


def _read_datasets(
    path: Path, split: str | None, columns: Any, config: str | None, image_folder: ImageFolder, bad: BadSamples
) -> list[Problem]:
    mapping, problems = parse_columns(columns), []
    splits = load_splits(path, config=config)
    chosen = list(splits) if split is None else [chosen_split(list(splits), split, path)]
    for name in chosen:
        rows, fields = prepared(splits[name], mapping, path)
        missing = {"question", "choices", "answer"} - fields
        if missing:
            problem = f"has no column {', '.join(sorted(missing))}"
            raise BadInput(problem, remedy="give a set with the columns of derek-thomas/ScienceQA", file=path)
        problems += table_problems(rows, name, path, image_folder, bad)
    return problems


__all__ = ["COLUMNS", "INSTRUCTION", "LETTERS", "Problem", "answer_text", "letters", "question_text", "read_problems"]
