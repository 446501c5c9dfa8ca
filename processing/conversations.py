"""Data of every form this project learns from, as the one form it learns in.

A training row is {"id", "images": [picture, …], "prompt": [turn, …], "completion": [turn]}: what TRL's SFTTrainer
reads for a vision-language model. LLaVA-format JSON, ScienceQA problems and `datasets` rows become such rows; pictures
stay files or bytes until a row is looked at.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bad_input import BadInput
from processing.scienceqa import Problem, answer_text, question_text, read_problems, row_problem
from processing.sources import confined, load_splits
from processing.strict_json import read_json

if TYPE_CHECKING:
    from datasets import Dataset, Features

IMAGE_TOKEN = "<image>"
METADATA = ("subject", "topic", "category", "skill", "task", "grade", "split")
_LONGEST_TEXT = 1_000_000  # characters; the longest conversation of a real set is a tenth of it
_ROLES = {"human": "user", "gpt": "assistant"}
_FORM = "use LLaVA's form: [{id, image?, conversations: [{from: human|gpt, value}, …]}, …]"


def read_rows(
    path: str | Path,
    *,
    image_folder: str | Path | None = None,
    split: str = "train",
    answer_style: str = "letter",
) -> "Dataset":
    """Return the training rows of the data at `path`, in its order.

    Args:
        path: a LLaVA-format JSON file, a ScienceQA folder or `problems.json`, a `datasets` folder (parquet, such as a
            pruned set, or `save_to_disk`) or a Hub id; `datasets` rows may be training rows, ScienceQA's columns or
            LLaVA's (`conversations`).
        image_folder: the folder that a JSON file's pictures lie below; by default `images` beside it, or its own
            folder.
        split: which split to read where the source has several; a source of one split is read whole.
        answer_style: "letter" or "explained" (`scienceqa.answer_text`), for ScienceQA.

    Raises:
        BadInput: anything is missing or malformed, with file, record, field and remedy.
    """
    path = Path(path)
    if (path / "problems.json").is_file() or path.name == "problems.json":
        return rows_of_problems(read_problems(path, split=split), answer_style, source=path)
    if path.is_file():
        records = read_json(path)
        if isinstance(records, dict):
            return rows_of_problems(read_problems(path, split=split), answer_style, source=path)
        return _dataset(_rows_of_json(records, path, image_folder))
    if path.is_dir() and not any(path.rglob("*.parquet")) and not any(path.rglob("*.arrow")):
        remedy = "name a folder that holds problems.json, parquet files or a saved data set"
        raise BadInput("holds no data set", remedy=remedy, file=path)
    splits = load_splits(path)
    if len(splits) > 1:
        splits = load_splits(path, split)
    return _rows_of_table(next(iter(splits.values())), path, answer_style)


def rows_of_problems(problems: Iterable[Problem], answer_style: str = "letter", *, source: str | Path) -> "Dataset":
    """Return one training row per problem, with the problem's metadata as further columns.

    Raises:
        BadInput: a problem has no answer, or a picture that is not at hand.
    """
    return _dataset([_problem_row(problem, problem.image, answer_style, source) for problem in problems], METADATA)


def _problem_row(problem: Problem, image: Any, answer_style: str, source: str | Path) -> dict[str, Any]:
    if problem.has_image and image is None:
        remedy = f"put it at {Path(source).parent / 'images'}/{{split}}/{{pid}}/ or drop the record"
        place = {"file": source, "record": problem.pid, "field": "image"}
        raise BadInput("the picture is not at hand (there is no images folder)", remedy=remedy, **place)
    return {
        "id": problem.pid,
        "images": [] if image is None else [str(image) if isinstance(image, Path) else image],
        "prompt": [{"role": "user", "content": question_text(problem)}],
        "completion": [{"role": "assistant", "content": answer_text(problem, answer_style)}],
        **{name: getattr(problem, name) for name in METADATA},
    }


def _rows_of_json(records: Any, path: Path, image_folder: str | Path | None) -> list[dict[str, Any]]:
    from tqdm import tqdm

    if not isinstance(records, list) or not records:
        raise BadInput("is not a list of records, or an empty one", remedy=_FORM, file=path)
    if image_folder is not None and not Path(image_folder).is_dir():
        raise BadInput("no such folder", remedy="name the folder of the pictures", file=image_folder)
    root = Path(image_folder) if image_folder else _default_images(path)
    bar = tqdm(records, desc=f"reading {path.name}", unit=" records", delay=2)
    rows, seen = [], {}
    for index, record in enumerate(bar):
        _check_record(record, index, path)
        names = _image_names(record, index, path)
        images = [str(confined(root / name, root, file=path, record=index)) for name in names]
        turns = record.get("conversations")
        name = _unique_id(str(record["id"]), turns, seen, index, path)
        rows.extend(_conversation_rows(turns, images, name, index, path))
    return rows


def _default_images(path: Path) -> Path:
    beside = path.parent / "images"
    return beside if beside.is_dir() else path.parent


def _check_record(record: Any, index: int, path: Path) -> None:
    if not isinstance(record, dict):
        raise BadInput("is not an object", remedy=_FORM, file=path, record=index)
    if not isinstance(record.get("id"), str | int) or isinstance(record["id"], bool) or record["id"] == "":
        raise BadInput("is missing or no text", remedy="give each record an id", file=path, record=index, field="id")


def _image_names(record: dict[str, Any], index: int, path: Path) -> list[str]:
    """Return the pictures of a record; LLaVA-Next files name several in a list."""
    value = record.get("image")
    names = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise BadInput(
            "is not a path", remedy="give a path below the image folder", file=path, record=index, field="image"
        )
    return names


def _unique_id(name: str, conversations: Any, seen: dict[str, list[int]], index: int, path: Path) -> str:
    """Return `name`, numbered when it is not the first of its kind.

    LLaVA-665k names its records after pictures, and asks several conversations about one picture under one id; the
    same conversation twice is a fault.
    """
    said = hash(repr(conversations))
    before = seen.setdefault(name, [])
    if said in before:
        raise BadInput("is there twice", remedy="keep one of the two", file=path, record=index, field="id")
    before.append(said)
    return name if len(before) == 1 else f"{name}~{len(before)}"


def _conversation_rows(
    turns: Any, images: list[Any], name: str, record: str | int, path: Path
) -> Iterator[dict[str, Any]]:
    """Yield one row per answer: the turns before it are the prompt, the pictures come first of all.

    A single answer's row keeps the record's id, further ones are numbered `id#2`, `id#3`, …
    """
    messages = _messages(turns, len(images), record, path)
    for end in range(1, len(messages), 2):
        row_id = name if end == 1 else f"{name}#{end // 2 + 1}"
        yield {"id": row_id, "images": images, "prompt": messages[:end], "completion": [messages[end]]}


def _messages(turns: Any, images: int, record: str | int, path: Path) -> list[dict[str, str]]:
    """Return the turns as messages without image tokens.

    Takes `<image>` out of the first question, as LLaVA's `preprocess_multimodal` does before it puts it first.
    """

    def wrong(problem: str, remedy: str = _FORM) -> BadInput:
        return BadInput(problem, remedy=remedy, file=path, record=record, field="conversations")

    if not isinstance(turns, list) or len(turns) < 2:
        raise wrong("is missing, or has no question and answer")
    messages = []
    for index, turn in enumerate(turns):
        role, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        expected = ("human", "gpt")[index % 2]
        if role != expected:
            raise wrong(f"turn {index} is from {str(role)[:20]!r}, not from {expected!r}")
        if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
            raise wrong(f"turn {index} is no text of at most {_LONGEST_TEXT:,} characters")
        tokens = text.count(IMAGE_TOKEN)
        if tokens != (images if index == 0 else 0):
            named = f"{images} pictures" if index == 0 else "pictures named in the first question only"
            raise wrong(
                f"turn {index} has {tokens} {IMAGE_TOKEN} tokens and {named}", "make tokens and pictures agree"
            )
        content = text.replace(IMAGE_TOKEN, "").strip()
        if not content and not (index == 0 and images):
            raise wrong(f"turn {index} is empty", "drop the turn or the record")
        messages.append({"role": _ROLES[role], "content": content})
    return messages


def _rows_of_table(table: "Dataset", path: Path, answer_style: str) -> "Dataset":
    """Return the rows of a `datasets` table whose columns are training rows', ScienceQA's or LLaVA's."""
    columns = set(table.column_names)
    if not len(table):
        raise BadInput("is an empty data set", remedy="make it again from its source", file=path)
    if {"prompt", "completion"} <= columns:
        missing = {"id", "images"} - columns
        if missing:
            problem = f"has no column {', '.join(sorted(missing))}"
            raise BadInput(problem, remedy="give id, images, prompt and completion", file=path)
        return table
    if {"question", "choices", "answer"} <= columns:
        split = None if table.split is None else str(table.split)
        problems = (row_problem(row, f"{split}-{index}", split, path) for index, row in enumerate(table))
        rows = [
            _problem_row(problem, row.get("image"), answer_style, path)
            for problem, row in zip(problems, table, strict=True)
        ]
        return _dataset(rows, METADATA)
    if "conversations" in columns:
        return _dataset([row for index, record in enumerate(table) for row in _hub_rows(record, index, path)])
    problem = f"has the columns {', '.join(sorted(columns))}"
    raise BadInput(problem, remedy="give prompt and completion, ScienceQA's columns or conversations", file=path)


def _hub_rows(record: dict[str, Any], index: int, path: Path) -> Iterator[dict[str, Any]]:
    image = record.get("image")
    images = [] if image is None else [image]
    return _conversation_rows(record["conversations"], images, str(record.get("id", index)), index, path)


def _dataset(rows: list[dict[str, Any]], metadata: tuple[str, ...] = ()) -> "Dataset":
    import datasets

    columns = {name: [row[name] for row in rows] for name in ("id", "images", "prompt", "completion", *metadata)}
    return datasets.Dataset.from_dict(columns, features=row_features(metadata))


def row_features(metadata: tuple[str, ...] = ()) -> "Features":
    """Return the types of a training row's columns; pictures are decoded when a row is looked at."""
    from datasets import Features, Image, List, Value

    turns = List({"role": Value("string"), "content": Value("string")})
    text = {name: Value("string") for name in metadata}
    return Features({"id": Value("string"), "images": List(Image()), "prompt": turns, "completion": turns, **text})
