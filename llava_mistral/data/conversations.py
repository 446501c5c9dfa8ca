"""Convert data of every supported form into the one form of training rows.

A training row is {"id", "images": [picture, …], "prompt": [turn, …], "completion": [turn, …]}: what TRL's SFTTrainer
reads for a vision-language model (`turns`). LLaVA-format JSON, ScienceQA problems and tables become such rows. They
lie in a memory-mapped file, the pictures of a JSON file as paths; a picture is opened when its row is looked at.
"""

import hashlib
import os
import sys
from collections.abc import Collection, Generator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples, usable
from llava_mistral.data.columns import METADATA, parse_columns
from llava_mistral.data.json_records import first_sign, is_lines
from llava_mistral.data.llava_json import first_form, json_rows
from llava_mistral.data.problem import Problem, problem_row
from llava_mistral.data.records import RecordReader, form_of, records_rows
from llava_mistral.data.row_store import stored_rows
from llava_mistral.data.scienceqa import read_problems
from llava_mistral.data.sources import (
    ImageFolder,
    StoredPicture,
    chosen_split,
    image_folders,
    is_table,
    list_lengths,
    load_splits,
    picture_folders,
    state_of,
)
from llava_mistral.data.tables import as_they_are, plain_records, prepared
from llava_mistral.data.turns import FORM
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder
from llava_mistral.ground.strict_json import read_json
from llava_mistral.ground.whole_file import sha256_of

if TYPE_CHECKING:
    from datasets import Dataset, Features

PROBLEM = ("question", "choices", "hint", "answer")


def read_rows(
    path: str | Path,
    *,
    image_folder: ImageFolder = None,
    split: str | None = None,
    answer_style: str = "letter",
    columns: str | Mapping[str, str] | None = None,
    bad: BadSamples | None = None,
    dataset_config: str | None = None,
    conversations: str = "whole",
    held_out_of: str | Path | None = None,
) -> "Dataset":
    """Return the training rows of the data at `path`, in its order.

    Args:
        path: JSON records (a list, such as LLaVA's, or JSON lines), a ScienceQA folder or `problems.json`, a table
            that `datasets` reads (a folder of parquet, CSV, JSON lines, pictures with metadata or WebDataset shards,
            `save_to_disk`, a single file) or a Hub id. For the forms of a record see `records`.
        image_folder: the folders that pictures lie below; by default, of a JSON file, `images` beside it or its own
            folder, and always a table's own folder. A name may begin with the folder's own.
        split: which split to read, which must exist; None: train, or the only one.
        answer_style: "letter" or "explained" (`problem.answer_text`), of questions with choices.
        columns: "question=their_column,…" (`columns.parse_columns`).
        bad: what becomes of samples that cannot be used; by default the first one is refused.
        dataset_config: the configuration of a set that has several.
        conversations: "whole": one row, every answer learned; "answers": one row per answer.
        held_out_of: the source of the training; `split` None is then the validation or test split.

    Raises:
        BadInput: anything is missing or malformed, with file, record, field and remedy.
    """
    path, bad, mapping = Path(path), bad or BadSamples(), parse_columns(columns)
    wording = {"answer_style": answer_style, "conversations": conversations}
    if _is_records(path):
        if split not in (None, "train"):
            raise BadInput(f"has no split {split!r}", remedy="leave it out", file=path, field="split")
        return _read_json(path, image_folder, mapping, wording, bad)
    if is_table(path):
        return _read_table(path, split, mapping, wording, bad, image_folder, dataset_config, held_out_of)
    if path.is_file() and not isinstance(read_json(path) or None, dict):
        raise BadInput("is not a list of records, or an empty one", remedy=FORM, file=path)
    split = split or ("val" if held_out_of else "train")
    where = {"image_folder": image_folder, "columns": mapping, "dataset_config": dataset_config}
    problems = read_problems(path, split=split, bad=bad, **where)
    return rows_of_problems(problems, answer_style, source=path, bad=bad)


def _is_records(path: Path) -> bool:
    """Whether `path` is a file of JSON records; one that is a table's, or absent, is none."""
    return path.is_file() and not is_table(path) and (first_sign(path) == "[" or is_lines(path))


def _read_json(
    path: Path, given: ImageFolder, columns: Mapping[str, str], wording: dict[str, str], bad: BadSamples
) -> "Dataset":
    roots = [folder.absolute() for folder in image_folders(given)] or [_default_images(path)]
    folders = [PictureFolder(root, roots) for root in roots]
    made_from = {"path": path.absolute(), "sha256": sha256_of(path)}
    # Where links lead, and whether a name may mean a folder of the same name inside, decides what is read.
    made_from |= {"folders": [(root, os.path.realpath(root), (root / root.name).is_dir()) for root in roots]}
    made_from |= wording | {"columns": columns, "names": [_names_below(root) for root in roots[:-1]]}
    rows = partial(json_rows, path, folders, bad, columns, **wording)
    return stored_rows(made_from, rows, bad, source=path, metadata=_columns_beside(first_form(path, columns), ()))


def _names_below(folder: Path) -> str:
    """Return a hash of the names in a folder: what comes into an earlier one hides what a later one has."""
    digest = hashlib.sha256()
    for place, below, files in os.walk(folder):
        below.sort()
        digest.update("\0".join([place, *sorted(files)]).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _default_images(path: Path) -> Path:
    beside = path.absolute().parent / "images"
    return beside if beside.is_dir() else path.absolute().parent


def rows_of_problems(
    problems: Iterable[Problem], answer_style: str = "letter", *, source: str | Path, bad: BadSamples | None = None
) -> "Dataset":
    """Return one training row per problem, with the problem's fields and metadata as further columns.

    Raises:
        BadInput: a problem has no answer, or a picture that is not at hand.
    """
    import datasets

    bad = bad or BadSamples()
    problem_rows = (usable(bad, partial(_problem_row, problem, answer_style, source)) for problem in problems)
    rows = [row for row in problem_rows if row is not None]
    bad.close(len(rows) + len(bad.listed))
    features = row_features((*METADATA, *PROBLEM))
    return datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def _problem_row(problem: Problem, answer_style: str, source: str | Path) -> dict[str, Any]:
    image = problem.image
    if problem.has_image and image is None:
        remedy = f"put it at {Path(source).parent / 'images'}/{{split}}/{{pid}}/ or drop the record"
        place = {"file": source, "record": problem.pid, "field": "image"}
        raise BadInput("the picture is not at hand (there is no images folder)", remedy=remedy, **place)
    images = [one.cell() if isinstance(one, StoredPicture) else str(one) for one in problem.images]
    return {"id": problem.pid, "images": images} | problem_row(problem, answer_style, len(images), source=source)


def _read_table(
    path: Path,
    split: str | None,
    columns: Mapping[str, str],
    wording: dict[str, str],
    bad: BadSamples,
    image_folder: ImageFolder,
    config: str | None,
    held_out_of: str | Path | None,
) -> "Dataset":
    splits = load_splits(path, config=config)
    folders = picture_folders(path, image_folder)
    name = chosen_split(list(splits), split, path, held_out=held_out_of is not None)
    if held_out_of is not None and split is None and name not in ("validation", "val", "valid", "dev", "test"):
        if os.path.realpath(held_out_of) == os.path.realpath(path):
            remedy = "name another with --eval_split or --eval_dataset"
            raise BadInput(
                f"its only split is {name}, which is trained on", remedy=remedy, file=path, field="eval_split"
            )
        print(f"{path}: has no validation split; its only one, {name}, is the held-out data", file=sys.stderr)
    table, fields = prepared(splits[name], columns, path)
    if not len(table):
        raise BadInput("is an empty data set", remedy="make it again from its source", file=path)
    form = form_of(fields, path)
    as_is = as_they_are(table, path) if form == "trl" and wording["conversations"] == "whole" else None
    if as_is is not None:
        return as_is
    state = state_of(path) if path.exists() else table._fingerprint
    made_from = {"path": path.absolute(), "state": state, "columns": columns, "split": name, "config": config}
    made_from |= wording | {"folders": [(folder.root, os.path.realpath(folder.root)) for folder in folders]}
    made_from["names"] = [_names_below(folder.root) for folder in folders[:-1]] if path.exists() else []
    rows = partial(_table_rows, table, path, folders, form, name, wording, bad)
    return stored_rows(made_from, rows, bad, source=path, metadata=_columns_beside(form, fields))


def _columns_beside(form: str | None, fields: Collection[str]) -> tuple[str, ...]:
    """Return the columns that rows of a form have beside those of every row; `fields` are those of a table."""
    asked = form in ("choices", "words", "captions")
    return tuple(label for label in METADATA if asked or label in fields) + (PROBLEM if form == "choices" else ())


def _table_rows(
    table: "Dataset", path: Path, folders: list[PictureFolder], form: str, split: str, wording: dict, bad: BadSamples
) -> Generator[dict[str, Any], None, int]:
    reader = RecordReader(path, folders, bad, split=split, **wording)
    records = ((record, index) for index, record in enumerate(plain_records(table)))
    return (yield from records_rows(records, reader, form))


def row_features(metadata: tuple[str, ...] = (), *, loss: bool = False) -> "Features":
    """Return the types of a training row's columns; pictures are decoded when a row is looked at.

    Args:
        metadata: further columns.
        loss: turns of a completion say whether they are learned.
    """
    from datasets import Features, Image, List, Value

    turn = {"role": Value("string"), "content": Value("string")}
    kinds = {"choices": List(Value("string")), "answer": Value("int64")}
    text = {name: kinds.get(name, Value("string")) for name in metadata}
    completion = turn | ({"loss": Value("bool")} if loss else {})
    return Features(
        {"id": Value("string"), "images": List(Image()), "prompt": List(turn), "completion": List(completion), **text}
    )


def count_pictures(rows: "Dataset") -> dict[str, int]:
    """Return {"pictures", "rows_without_picture"} of training rows; no picture is opened."""
    counts = list_lengths(rows, "images")
    return {"pictures": sum(counts), "rows_without_picture": counts.count(0)}
