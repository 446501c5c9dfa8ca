"""Tables, as `datasets` reads them, as training rows or as problems: parquet, CSV, JSON lines, WebDataset."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples, usable
from llava_mistral.data.columns import KNOWN, UNUSED, renamed
from llava_mistral.data.problem import CellText, Problem, answered_problem, asked_turns
from llava_mistral.data.records import RecordReader
from llava_mistral.data.sources import ImageFolder, StoredPicture, decoded, picture_folders, undecoded
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import decoder

if TYPE_CHECKING:
    from datasets import Dataset

_SHARD_PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_KEY, _JSON = "__key__", "json"  # of a sample of a WebDataset: its name, and its fields

# What a table such as a CSV may hold as JSON text, and what such a list holds.
_LISTS = dict.fromkeys(("messages", "conversations", "prompt", "completion"), dict)
_LISTS |= dict.fromkeys(("choices", "image", "images"), str)


def prepared(table: "Dataset", columns: Mapping[str, str], path: Path) -> tuple["Dataset", set[str]]:
    """Return the table with its columns under our names, pictures undecoded; and the fields that its records have.

    Raises:
        BadInput: a column that is named is not there, or one carries pictures that would be ignored.
    """
    from datasets import Image

    table = undecoded(renamed(table, columns, path))
    if _KEY in table.column_names:
        table = _of_shards(table)
    for name, feature in table.features.items():
        kind = getattr(feature, "feature", feature)
        if isinstance(kind, Image) and name not in ("image", "images"):
            remedy = f"map it with --columns images={name}, or leave it out with --columns {UNUSED}={name}"
            raise BadInput("carries pictures and is not used", remedy=remedy, file=path, field=name)
    fields = set(table.column_names)
    if _KEY in fields and isinstance(table.features.get(_JSON), dict):
        fields |= set(table.features[_JSON])
    return table, fields


def _of_shards(table: "Dataset") -> "Dataset":
    """Return a WebDataset's table with its one picture as `image`, and its text as the answer."""
    there = table.column_names
    pictures = [name for name in _SHARD_PICTURES if name in there]
    moved = {pictures[0]: "image"} if len(pictures) == 1 and "image" not in there else {}
    moved |= {"txt": "answer"} if "txt" in there and not {_JSON, "answer"} & set(there) else {}
    return table.rename_columns(moved)


def plain_records(table: "Dataset") -> Iterator[dict[str, Any]]:
    """Yield the rows; labels that are kept as numbers by the names they stand for, a shard's fields side by side."""
    from datasets import ClassLabel

    of_words = table.info.builder_name == "csv"  # all of which is text
    labels = {name: kind.names for name, kind in table.features.items() if isinstance(kind, ClassLabel)}
    for record in table:
        for name, names in labels.items():
            record[name] = _label(record, name, names)
        if _KEY in record and isinstance(record.get(_JSON), Mapping):
            record = {**record.pop(_JSON), **record}
        record = {name: _unpacked(value, _LISTS[name]) if name in _LISTS else value for name, value in record.items()}
        if of_words and isinstance(record.get("choices"), list) and isinstance(record.get("answer"), str):
            record["answer"] = CellText(record["answer"])
        yield record


def _label(record: Mapping[str, Any], name: str, names: list[str]) -> Any:
    value = record[name]
    if value is None or not 0 <= value < len(names):
        return None
    choices = record.get("choices")
    if name == "answer" and isinstance(choices, list):  # names of the choices, their letters, or neither
        letter = len(names[value]) == 1 and 0 <= ord(names[value]) - ord("A") < len(choices)
        return names[value] if names[value] in choices or letter else value
    return names[value]


def _unpacked(value: Any, kind: type) -> Any:
    """Return the list of `kind` that a text holds as JSON, or the value as it is."""
    if isinstance(value, str) and value.startswith("[") and value.rstrip().endswith("]"):
        with suppress(ValueError, RecursionError):
            parsed = decoder().decode(value)
            return parsed if all(isinstance(one, kind) for one in parsed) else value
    return value


def _cells(reader: RecordReader, value: Any, index: int) -> list[dict[str, Any]]:
    return reader.cells(_unpacked(value, _LISTS["images"]), index)


def table_problems(
    rows: "Dataset", split: str, path: Path, image_folder: ImageFolder, bad: BadSamples
) -> Iterator[Problem]:
    """Yield the problems of a table with `derek-thomas/ScienceQA`'s columns (pictures undecoded).

    A row without a `pid` or `id` of its own is named `{split}-{index}`. A picture is read when it is looked at.

    Raises:
        BadInput: a row is malformed.
    """
    reader = RecordReader(path, picture_folders(path, image_folder), bad, split=split)
    columns = {name: rows.select_columns(name) for name in ("image", "images") if name in rows.column_names}

    def problem(record: Mapping[str, Any], index: int) -> Problem | None:
        given = reader.name(record, index, "choices")
        if not reader.is_learned(record, index):
            return None
        own = answered_problem(record, given, "val" if split == "validation" else split, path)
        cells = reader.pictures(reader.given_pictures(record, index), index)
        reader.note_unused(record, index, "choices", asked_turns(own))
        if cells is None:
            return None
        column = next((columns[name] for name in columns if record[name]), None)
        pid = reader.names.unique(given, [own.question, own.choices, own.answer], cells, index)
        stored = [StoredPicture(column, index, partial(_cells, reader), place) for place in range(len(cells))]
        first, *more = stored or [None]
        return replace(own, pid=pid, image=first, more_images=tuple(more), has_image=bool(cells))

    index = -1
    for index, record in enumerate(plain_records(rows)):
        made = usable(bad, partial(problem, record, index))
        if made is not None:
            yield made
    bad.close(index + 1)
    reader.report_notices()


def as_they_are(table: "Dataset", path: Path) -> "Dataset | None":
    """Return a table that holds training rows already, such as a pruned set, pictures decoded when a row is looked at.

    Nothing is copied. None: some row has to be made another one, left out or refused.
    """
    import pyarrow.compute as pc
    from datasets import Image, List, Value

    turns = List({"role": Value("string"), "content": Value("string")})
    marked = List({"role": Value("string"), "content": Value("string"), "loss": Value("bool")})
    kinds = {"id": [Value("string")], "images": [List(Image(decode=False))]}
    kinds |= {"prompt": [turns], "completion": [turns, marked]}
    if "image" in table.column_names or set(table.column_names) - set(KNOWN):
        return None  # another column may hold pictures
    if any(table.features.get(name) not in kinds[name] for name in kinds):
        return None
    reader = RecordReader(path, [], BadSamples())
    names = [name for name in table.column_names if name != "images"]
    for batch in table.with_format("arrow").iter(1000):
        cells = pc.list_flatten(batch["images"])
        if batch["images"].null_count or len(cells) and not _whole(pc.struct_field(cells, "bytes")):
            return None
        counts = pc.list_value_length(batch["images"]).to_pylist()
        for record, count in zip(batch.select(names).to_pylist(), counts, strict=True):
            if not _is_training_row(reader, record, count):
                return None
    return decoded(table)


def _whole(column: Any) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.greater(pc.binary_length(column), 0), skip_nulls=False).as_py())


def _is_training_row(reader: RecordReader, record: dict[str, Any], pictures: int) -> bool:
    """Whether reading the row as a record gives the same row, and its id is the first of its name."""
    try:
        (made,) = reader.rows({**record, "images": [b"?"] * pictures}, 0, "trl", record["id"] or "")
    except BadInput:
        return False
    for turn in record["completion"]:
        if turn.get("loss", 0) is None:
            del turn["loss"]
    return bool(record["id"]) and all(made[key] == record[key] for key in ("id", "prompt", "completion"))
