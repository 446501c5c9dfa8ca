"""Data sets with columns of their own: `question=q,choices=c,answer=a,image=img` says what is what."""

from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples, usable
from llava_mistral.ground.bad_input import BadInput

if TYPE_CHECKING:
    from datasets import Dataset

OF_PROBLEMS = ("question", "choices", "answer", "hint", "lecture", "solution")
OF_ROWS = ("id", "image", "images", "prompt", "completion", "conversations")
METADATA = ("subject", "topic", "category", "skill", "task", "grade", "split")
KNOWN = (*OF_PROBLEMS, *OF_ROWS, *METADATA)


def parse_columns(text: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return {our name: the set's column} of `ours=theirs,…`.

    Raises:
        BadInput: it is not of that form, or a name is none of ours or is there twice.
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
            raise BadInput(f"{'='.join(pair)!r} is no pair", remedy=remedy, field="columns")
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
    for theirs in columns.values():
        if theirs not in table.column_names:
            remedy = f"use one of {', '.join(table.column_names)}"
            raise BadInput(f"there is no column {theirs!r}", remedy=remedy, file=path, field="columns")
        if list(columns.values()).count(theirs) > 1:
            problem = f"the column {theirs!r} stands for two things"
            raise BadInput(problem, remedy="give each column once", file=path, field="columns")
    moved = {theirs: ours for ours, theirs in columns.items() if ours != theirs}
    in_the_way = [ours for ours in moved.values() if ours in table.column_names and ours not in moved]
    return table.remove_columns(in_the_way).rename_columns(moved)


def free_rows(table: "Dataset", path: Path, bad: BadSamples) -> Generator[dict[str, Any], None, int]:
    """Yield the rows of a table of questions and answers in words, without choices; returns their number.

    Raises:
        BadInput: a question or an answer is empty or no text.
    """
    from llava_mistral.data.sources import stored_pictures

    texts = table.remove_columns([name for name in ("image", "images") if name in table.column_names])
    index = -1
    for index, (row, picture) in enumerate(zip(texts, stored_pictures(table, path), strict=True)):
        made = usable(bad, partial(_free_row, row, picture, index, path))
        if made is not None:
            yield made
    bad.close(index + 1)
    return index + 1


def _free_row(row: Mapping[str, Any], picture: Any, index: int, path: Path) -> dict[str, Any]:
    name = str(index if row.get("id") is None else row["id"])
    said = {}
    for field in ("question", "answer"):
        said[field] = row[field]
        if not isinstance(said[field], str) or not said[field].strip():
            remedy = "give a text, or name choices too"
            raise BadInput("is empty or no text", remedy=remedy, file=path, record=name, field=field)
    return {
        "id": name,
        "images": [] if picture is None else [picture.cell()],
        "prompt": [{"role": "user", "content": said["question"].strip()}],
        "completion": [{"role": "assistant", "content": said["answer"].strip()}],
        **{label: None if row.get(label) is None else str(row[label]) for label in METADATA},
    }
