"""Column mappings for data sets with names of their own: `question=q,choices=c,answer=a,image=img`."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.ground.bad_input import BadInput

if TYPE_CHECKING:
    from datasets import Dataset

OF_PROBLEMS = ("question", "choices", "answer", "hint", "lecture", "solution")
OF_ROWS = ("id", "image", "images", "prompt", "completion", "messages", "conversations")
METADATA = ("subject", "topic", "category", "skill", "task", "grade", "split")
UNUSED = "unused"  # columns that are meant to be left out, `a+b`
KNOWN = (*OF_PROBLEMS, *OF_ROWS, *METADATA, UNUSED)


def parse_columns(text: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return {our name: the set's column} of `ours=theirs,…`.

    Raises:
        BadInput: it is not of that form, or a name is none of ours or occurs twice.
    """
    if isinstance(text, Mapping):
        pairs = [(str(name), str(column)) for name, column in text.items()]
    else:
        pairs = [
            tuple(part.strip() for part in pair.split("=", 1)) for pair in (text or "").split(",") if pair.strip()
        ]
    for pair in pairs:
        if len(pair) != 2 or not all(pair):
            remedy = "write question=their_column,answer=their_column"
            raise BadInput(f"{'='.join(pair)!r} is not of the form name=column", remedy=remedy, field="columns")
        if pair[0] not in KNOWN:
            raise BadInput(f"{pair[0]!r} is unknown", remedy=f"use {', '.join(KNOWN)}", field="columns")
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise BadInput("names one thing twice", remedy="give each name once", field="columns")
    return mapping


def renamed(table: "Dataset", columns: Mapping[str, str], path: str | Path) -> "Dataset":
    """Return the table with the mapped columns under our names; a column in the way of one is dropped.

    Raises:
        BadInput: a column is not there (those that are there are named), or stands for two things.
    """
    moved, dropped = _moves(columns, table.column_names, path)
    return table.remove_columns(dropped).rename_columns(moved)


def renamed_record(record: Any, columns: Mapping[str, str], path: Path) -> Any:
    """Return a record of a JSON file with the mapped keys under our names; one may lack some of them.

    Raises:
        BadInput: as `renamed`, but for keys that are not there.
    """
    if not columns or not isinstance(record, dict):
        return record
    there = [*record, *(name for name in source_columns(columns) if name not in record)]
    moved, dropped = _moves(columns, there, path)
    return {moved.get(key, key): value for key, value in record.items() if key not in dropped}


def check_there(columns: Mapping[str, str], there: Container[str], path: Path) -> None:
    """Refuse a mapping of keys that no record of a file has.

    Raises:
        BadInput: naming the first such key.
    """
    for name in source_columns(columns):
        if name not in there:
            problem = f"there is no column {name!r}"
            raise BadInput(problem, remedy="name a key of the records", file=path, field="columns")


def source_columns(columns: Mapping[str, str]) -> list[str]:
    """Return the names that a mapping takes from the data."""
    return [name for ours, theirs in columns.items() for name in (theirs.split("+") if ours == UNUSED else [theirs])]


def _moves(columns: Mapping[str, str], there: list[str], path: str | Path) -> tuple[dict[str, str], list[str]]:
    """Return {their name: ours} of what is renamed, and the names that go."""
    names = source_columns(columns)
    moved = {theirs: ours for ours, theirs in columns.items() if ours != UNUSED}
    for theirs in names:
        if theirs not in there:
            remedy = f"use one of {', '.join(there)}"
            raise BadInput(f"there is no column {theirs!r}", remedy=remedy, file=path, field="columns")
        if names.count(theirs) > 1:
            problem = f"the column {theirs!r} stands for two things"
            raise BadInput(problem, remedy="give each column once", file=path, field="columns")
    moved = {theirs: ours for theirs, ours in moved.items() if theirs != ours}
    in_the_way = [ours for ours in moved.values() if ours in there and ours not in moved]
    return moved, [*in_the_way, *(columns[UNUSED].split("+") if UNUSED in columns else ())]
