"""Guess the columns of a data set from their names and from the first record."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_mistral.data.columns import renamed_record
from llava_mistral.data.json_records import first_sign, is_lines, read_lines, read_records
from llava_mistral.data.picture_cells import holds_picture, listed
from llava_mistral.data.records import FORMS, form_of
from llava_mistral.data.sources import chosen_split, is_table, load_splits
from llava_mistral.ground.bad_input import BadInput

# Names that others use. A column of pictures is recognised by its values.
CALLED = {
    "question": ("ask", "query", "q", "problem", "instruction", "input", "human"),
    "answer": ("reply", "response", "a", "label", "output", "target", "caption", "text", "gpt"),
    "choices": ("options", "candidates", "answers"),
}
FIXED = frozenset(name for fields in FORMS.values() for name in fields) | {"image", "images", "id", "split"}
CONVERSATIONS = ("messages", "conversations", "prompt")
WORDS = {
    "trl": "prompts and completions",
    "messages": "conversations of roles and content",
    "conversations": "LLaVA's conversations",
    "choices": "questions with choices",
    "words": "questions and answers",
    "captions": "captions",
}


def first_record(path: str | Path, split: str | None = None, config: str | None = None) -> dict[str, Any] | None:
    """Return the first record of a table or a JSON file, pictures undecoded; None of a ScienceQA folder.

    Raises:
        BadInput: there is no such data, or it is empty.
    """
    path = Path(path)
    if is_table(path):
        splits = load_splits(path, config=config)
        table = splits[chosen_split(list(splits), split, path)]
        if not len(table):
            raise BadInput("is an empty data set", remedy="give one with at least one row", file=path)
        return dict(table[0])
    if path.is_file() and (lines := is_lines(path)) | (first_sign(path) == "["):
        record, _ = next((read_lines if lines else read_records)(path), (None, 0))
        if not isinstance(record, dict):
            raise BadInput("holds no records", remedy="give a list of objects", file=path)
        return record
    return None


def guess_columns(record: Mapping[str, Any]) -> dict[str, str]:
    """Return {our name: the data's} of what is called otherwise; nothing that a record has by our own name.

    Where two columns could be meant, neither is: the user has to say which.
    """
    columns: dict[str, str] = {}
    has_conversation = any(name in record for name in CONVERSATIONS)
    for name in ("image",) if has_conversation else ("question", "answer", "choices", "image"):
        if name in record or (name == "image" and "images" in record):
            continue
        free = {column.lower(): column for column in record if column not in (*columns.values(), *FIXED)}
        called = [free[other] for other in CALLED.get(name, ()) if other in free]
        if name == "image":
            called = [column for column in free.values() if holds_picture(record[column])]
        if len(called) == 1:
            columns[name] = called[0]
    return columns


def form_words(record: Mapping[str, Any], columns: Mapping[str, str], path: Path) -> str:
    """Return how such records are read, in words.

    Raises:
        BadInput: their columns are of no form; names them and `--columns`.
    """
    names = set(renamed_record(dict(record), columns, path))
    with suppress(BadInput):
        return WORDS[form_of(names, path)]
    problem = f"has the columns {', '.join(sorted(map(str, record)))}, and it is not plain which is what"
    raise BadInput(
        problem, remedy="say it: --columns question=NAME,answer=NAME,image=NAME", file=path, field="columns"
    )


def guess_folder(record: Mapping[str, Any], columns: Mapping[str, str], path: Path) -> Path | None:
    """Return the folder beside the data in which the first record's picture lies; None where none is needed."""
    names = renamed_record(dict(record), columns, path)
    pictures = [one for one in listed(names.get("images", names.get("image"))) if isinstance(one, str)]
    home = path if path.is_dir() else path.parent
    if not pictures or not home.is_dir() or (home / pictures[0]).is_file():
        return None
    beside = sorted(folder for folder in home.iterdir() if folder.is_dir())
    if not is_table(path) and (home / "images" / pictures[0]).is_file():
        return None
    return next((folder for folder in beside if (folder / pictures[0]).is_file()), None)
