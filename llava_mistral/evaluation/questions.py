"""The questions of an evaluation: lettered (`Problem`), or rows of any data with an answer in words (`Question`)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.data.columns import METADATA, parse_columns
from llava_mistral.data.conversations import read_rows
from llava_mistral.data.cqm import read_cqm
from llava_mistral.data.json_records import first_sign, is_lines
from llava_mistral.data.records import FORMS, form_of
from llava_mistral.data.scienceqa import Problem, read_problems
from llava_mistral.data.sources import load_splits, undecoded
from llava_mistral.data.tables import prepared
from llava_mistral.data.turns import chat_of
from llava_mistral.evaluation.matching import Match, check_answer
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json

LETTERED = "letters"


@dataclass(frozen=True)
class Question:
    """One row's question: the turns before an answer, their pictures, and the answer in words.

    `asking` puts it as it puts a `Problem`; it has no choices.
    """

    pid: str
    chat: tuple[dict[str, Any], ...]  # the turns before the answer, as a chat template takes them (`chat_of`)
    images: tuple[Any, ...]  # what `open_picture` takes
    answer: str
    group: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def has_image(self) -> bool:
        return bool(self.images)

    @property
    def question(self) -> str:
        """The words of the last turn, which is answered."""
        return "".join(self.texts)

    @property
    def texts(self) -> list[str]:
        """The same words, parted where pictures stand among them."""
        content = self.chat[-1]["content"]
        return [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def read_questions(
    path: str | Path,
    *,
    split: str | None = None,
    match: str | None = None,
    columns: str | None = None,
    group_by: str | None = None,
    image_folder: Sequence[str] | None = None,
    dataset_config: str | None = None,
    pid_splits: str | Path | None = None,
) -> tuple[list[Problem] | list[Question], dict[str, str] | None]:
    """Return (questions, {pid: group}) of data in any form that training takes; no groups where none are asked for.

    Data with choices, and LLaVA's CQM-A file, are lettered questions unless `match` is a rule for words; all else is
    questions with an answer in words.

    Args:
        split: which split to ask; by default every lettered question of the source, and of others the training's.
        match: `matching.Match`'s name, "letters", or None: letters where the data has choices.
        group_by: a column of the data, or one of `METADATA`.

    Raises:
        BadInput: anything is missing or malformed.
    """
    mapping = parse_columns(columns)
    label = group_by
    if group_by is not None and group_by not in METADATA:  # the readers keep these columns, and no others
        label = next(name for name in ("skill", *METADATA) if name not in mapping)
        mapping = mapping | {label: group_by}
    path, words = Path(path), match not in (None, LETTERED)
    where = {"image_folder": image_folder, "dataset_config": dataset_config}
    if not words and _has_choices(path, mapping, dataset_config):
        problems = read_problems(path, split=split, pid_splits=pid_splits, columns=mapping, **where)
        return problems, _groups(problems, group_by, label, path)
    rows = undecoded(read_rows(path, split=split, columns=mapping, conversations="answers", **where))
    if not words and "choices" in rows.column_names and all(row["choices"] for row in rows.select_columns("choices")):
        problems = list(map(_row_problem, rows))
        return problems, _groups(problems, group_by, label, path)
    if match == LETTERED:
        raise BadInput("has no choices", remedy="name their column (--columns choices=…) or a --match", file=path)
    asked = [_row_question(row, label) for row in rows]
    return asked, _groups(asked, group_by, "group", path)


def held_out_split(path: str | Path, config: str | None = None) -> str | None:
    """Return the split that a checkpoint is asked by default; records in a file have none.

    Raises:
        BadInput: there are several, and none is a test or validation split.
    """
    path = Path(path)
    if (path / "problems.json").is_file() or _is_absent_json(path):
        return "test"
    if path.suffix.lower() == ".json" or (path.is_file() and is_lines(path)):
        return None if is_lines(path) or first_sign(path) == "[" else "test"
    names = list(load_splits(path, config=config))
    for name in ("test", "validation", "val", "valid", "dev"):
        if name in names:
            return name
    if len(names) > 1:
        problem = f"has the splits {', '.join(names)}, and none is called test"
        raise BadInput(problem, remedy="name one with --split", file=path, field="split")
    return names[0]


def _is_absent_json(path: Path) -> bool:
    """Whether a JSON file is named that is not there; `read_problems` has the better error for it."""
    return path.suffix.lower() == ".json" and not path.is_file()


def _has_choices(path: Path, mapping: Mapping[str, str], config: str | None) -> bool:
    """Whether `read_problems` reads the source: problems.json, LLaVA's CQM-A form, or a table with choices.

    Of a list of records the first one tells; a later one in another form is refused by name.
    """
    if (path / "problems.json").is_file() or _is_absent_json(path):
        return True
    if path.is_file() and is_lines(path):
        return False
    if path.suffix.lower() == ".json":
        if first_sign(path) != "[":
            return True
        with suppress(BadInput):
            return bool(read_cqm(path, read_json(path)[:1], mapping))
        return False
    tables = load_splits(path, config=config)
    return all(_is_lettered(*prepared(table, mapping, path), path) for table in tables.values())


def _is_lettered(table: Any, fields: set[str], path: Path) -> bool:
    """Whether a table's rows have choices; a pruned set has them beside the prompts that were made of them."""
    if form_of(fields, path) == "choices":
        return True
    return FORMS["choices"] <= fields and all(row["choices"] for row in table.select_columns("choices"))


def _groups(
    questions: Sequence[Problem | Question], by: str | None, label: str | None, path: Path
) -> dict[str, str] | None:
    if by is None:
        return None
    values = {one.pid: getattr(one, label) for one in questions}
    if all(value is None for value in values.values()):
        raise BadInput(f"no question has a {by}", remedy="name a column of the data", file=path, field="group_by")
    return {pid: "(none)" if value is None else value for pid, value in values.items()}


def _row_problem(row: Mapping[str, Any]) -> Problem:
    """Return a row of `read_rows` that has choices as the question behind it."""
    image, *more = row["images"] or [None]
    metadata = {name: row.get(name) for name in METADATA}
    fields = {"question": row["question"], "choices": tuple(row["choices"]), "answer": row["answer"]}
    return Problem(
        row["id"],
        **fields,
        hint=row.get("hint"),
        image=image,
        more_images=tuple(more),
        has_image=image is not None,
        **metadata,
    )


def _row_question(row: Mapping[str, Any], label: str | None) -> Question:
    """Return a row of one answer as a question in words."""
    *before, last = [*row["prompt"], *row["completion"]]
    own = {"images": row["images"], "prompt": before, "completion": [last]}
    chat = tuple(chat_of(own, answered=False))
    return Question(row["id"], chat, tuple(row["images"] or ()), last["content"], row.get(label) if label else None)


def check_questions(questions: Sequence[Question], match: Match, path: str | Path) -> None:
    """Refuse right answers that the rule cannot find, and ids that come twice."""
    seen: set[str] = set()
    for question in questions:
        check_answer(match, question.answer, file=path, record=question.pid)
        if question.pid in seen:
            raise BadInput("occurs twice", remedy="give ids of their own", file=path, record=question.pid, field="id")
        seen.add(question.pid)


def words_hash(questions: Sequence[Question]) -> str:
    """Return the SHA-256 of the questions: ids, turns, right answers, and numbers of pictures."""
    records = sorted(([q.pid, list(q.chat), q.answer] for q in questions), key=lambda one: one[0])
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()
