"""Data of every form this project learns from, as the one form it learns in.

A training row is {"id", "images": [picture, …], "prompt": [turn, …], "completion": [turn]}: what TRL's SFTTrainer
reads for a vision-language model. LLaVA-format JSON, ScienceQA problems and `datasets` rows become such rows. They lie
in a memory-mapped file, the pictures of a JSON file as paths; a picture is opened when its row is looked at.
"""

import hashlib
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples, usable
from llava_mistral.data.columns import METADATA, free_rows, parse_columns, renamed
from llava_mistral.data.json_records import first_sign
from llava_mistral.data.llava_json import FORM, conversation_rows, json_rows
from llava_mistral.data.row_store import stored_rows
from llava_mistral.data.scienceqa import Problem, answer_text, question_text, read_problems, table_problems
from llava_mistral.data.sources import (
    StoredPicture,
    decoded,
    find_picture,
    load_splits,
    picture_folders,
    stored_pictures,
    undecoded,
)
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json

if TYPE_CHECKING:
    from datasets import Dataset, Features


def read_rows(
    path: str | Path,
    *,
    image_folder: str | Path | None = None,
    split: str = "train",
    answer_style: str = "letter",
    columns: str | Mapping[str, str] | None = None,
    bad: BadSamples | None = None,
) -> "Dataset":
    """Return the training rows of the data at `path`, in its order.

    Args:
        path: a LLaVA-format JSON file, a ScienceQA folder or `problems.json`, a `datasets` folder (parquet, such as a
            pruned set, or `save_to_disk`) or a Hub id; `datasets` rows may be training rows, ScienceQA's columns,
            LLaVA's (`conversations`), or `question` and `answer` in words.
        image_folder: the folder that a JSON file's pictures lie below; by default `images` beside it, or its own
            folder. A name may begin with this folder's own.
        split: which split to read where the source has several; a source of one split is read whole.
        answer_style: "letter" or "explained" (`scienceqa.answer_text`), for ScienceQA.
        columns: of a `datasets` source, "question=their_column,…" (`columns.parse_columns`).
        bad: what becomes of samples that cannot be used; by default the first one is refused.

    Raises:
        BadInput: anything is missing or malformed, with file, record, field and remedy.
    """
    path, bad, mapping = Path(path), bad or BadSamples(), parse_columns(columns)
    is_table = not path.is_file() and path.name != "problems.json" and not (path / "problems.json").is_file()
    if mapping and not is_table:
        remedy = "leave it out, or give a `datasets` folder or Hub id"
        raise BadInput("has no columns to name", remedy=remedy, file=path, field="columns")
    if is_table:
        return _read_table(path, split, answer_style, mapping, bad)
    if path.is_file() and first_sign(path) == "[":
        return _read_json(path, image_folder, bad)
    if path.is_file() and not isinstance(read_json(path) or None, dict):
        raise BadInput("is not a list of records, or an empty one", remedy=FORM, file=path)
    return rows_of_problems(read_problems(path, split=split), answer_style, source=path)


def _read_json(path: Path, image_folder: str | Path | None, bad: BadSamples) -> "Dataset":
    if image_folder is not None and not Path(image_folder).is_dir():
        problem = "is a file, not a folder" if Path(image_folder).exists() else "no such folder"
        remedy = "name the folder of the pictures"
        raise BadInput(problem, remedy=remedy, file=image_folder, field="image_folder")
    folder = Path(image_folder) if image_folder else _default_images(path)
    with path.open("rb") as file:
        made_from = {"path": path, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    made_from["folder"] = folder.absolute()
    return stored_rows(made_from, row_features(), partial(json_rows, path, folder, bad), bad, source=path)


def _default_images(path: Path) -> Path:
    beside = path.parent / "images"
    return beside if beside.is_dir() else path.parent


def rows_of_problems(problems: Iterable[Problem], answer_style: str = "letter", *, source: str | Path) -> "Dataset":
    """Return one training row per problem, with the problem's metadata as further columns.

    Raises:
        BadInput: a problem has no answer, or a picture that is not at hand.
    """
    import datasets

    rows = [_problem_row(problem, answer_style, source) for problem in problems]
    columns = {name: [row[name] for row in rows] for name in ("id", "images", "prompt", "completion", *METADATA)}
    return datasets.Dataset.from_dict(columns, features=row_features(METADATA))


def _problem_row(problem: Problem, answer_style: str, source: str | Path) -> dict[str, Any]:
    image = problem.image
    if problem.has_image and image is None:
        remedy = f"put it at {Path(source).parent / 'images'}/{{split}}/{{pid}}/ or drop the record"
        place = {"file": source, "record": problem.pid, "field": "image"}
        raise BadInput("the picture is not at hand (there is no images folder)", remedy=remedy, **place)
    return {
        "id": problem.pid,
        "images": [] if image is None else [_cell(image)],
        "prompt": [{"role": "user", "content": question_text(problem)}],
        "completion": [{"role": "assistant", "content": answer_text(problem, answer_style, file=source)}],
        **{name: getattr(problem, name) for name in METADATA},
    }


def _cell(image: Any) -> Any:
    return image.cell() if isinstance(image, StoredPicture) else str(image) if isinstance(image, Path) else image


def _read_table(path: Path, split: str, answer_style: str, columns: Mapping[str, str], bad: BadSamples) -> "Dataset":
    splits = load_splits(path)
    if len(splits) > 1:
        splits = load_splits(path, split)
    name, table = next(iter(splits.items()))
    table = undecoded(renamed(table, columns, path))
    if not len(table):
        raise BadInput("is an empty data set", remedy="make it again from its source", file=path)
    there = set(table.column_names)
    made_from = {"path": path.absolute(), "table": table._fingerprint, "answers": answer_style, "columns": columns}
    made_from["split"] = name
    store = partial(stored_rows, bad=bad, source=path)
    if {"prompt", "completion"} <= there:
        return _training_rows(table, path)
    if {"question", "choices", "answer"} <= there:
        make = partial(_problem_rows, table, name, path, answer_style, bad)
        return store(made_from, row_features(METADATA), make)
    if "conversations" in there:
        return store(made_from, row_features(), partial(_conversation_rows, table, path, bad))
    if {"question", "answer"} <= there:
        return store(made_from, row_features(METADATA), partial(free_rows, table, path, bad))
    problem = f"has the columns {', '.join(sorted(there))}"
    remedy = (
        "give prompt and completion, conversations, or question and answer; --columns names those called otherwise"
    )
    raise BadInput(problem, remedy=remedy, file=path)


def _training_rows(table: "Dataset", path: Path) -> "Dataset":
    missing = {"id", "images"} - set(table.column_names)
    if missing:
        problem = f"has no column {', '.join(sorted(missing))}"
        raise BadInput(problem, remedy="give id, images, prompt and completion", file=path)
    if not _names_files(table):
        return decoded(table)
    folders = picture_folders(path)

    def found(row: dict[str, Any], index: int) -> dict[str, Any]:
        cells = row["images"] or []
        for cell in cells:
            if cell["bytes"] is None:
                cell["path"] = str(find_picture(folders, cell["path"], file=path, record=index))
        return {"images": cells}

    return decoded(undecoded(table).map(found, with_indices=True, load_from_cache_file=False))


def _names_files(table: "Dataset") -> bool:
    """Whether some picture is a path and not its bytes."""
    import pyarrow.compute as pc

    for batch in undecoded(table).select_columns("images").with_format("arrow").iter(1000):
        cells = pc.list_flatten(batch["images"])
        if len(cells) and not pc.all(pc.is_valid(pc.struct_field(cells, "bytes"))).as_py():
            return True
    return False


def _problem_rows(
    table: "Dataset", split: str, path: Path, answer_style: str, bad: BadSamples
) -> Generator[dict[str, Any], None, int]:
    for make in table_problems(table, split, path):
        row = usable(bad, lambda make=make: _problem_row(make(), answer_style, path))
        if row is not None:
            yield row
    bad.close(len(table))
    return len(table)


def _conversation_rows(table: "Dataset", path: Path, bad: BadSamples) -> Generator[dict[str, Any], None, int]:
    texts = table.remove_columns([name for name in ("image", "images") if name in table.column_names])
    for index, (record, picture) in enumerate(zip(texts, stored_pictures(table, path), strict=True)):
        images = [] if picture is None else [picture.cell()]
        name = str(record.get("id", index))
        rows = partial(conversation_rows, record["conversations"], images, name, index, path)
        yield from usable(bad, lambda rows=rows: list(rows())) or ()
    bad.close(len(table))
    return len(table)


def row_features(metadata: tuple[str, ...] = ()) -> "Features":
    """Return the types of a training row's columns; pictures are decoded when a row is looked at."""
    from datasets import Features, Image, List, Value

    turns = List({"role": Value("string"), "content": Value("string")})
    text = {name: Value("string") for name in metadata}
    return Features({"id": Value("string"), "images": List(Image()), "prompt": turns, "completion": turns, **text})
