"""What is asked: lettered questions (`Problem`), or rows of any data with an answer in words (`Question`)."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.data.columns import METADATA, parse_columns, renamed
from llava_mistral.data.conversations import read_rows
from llava_mistral.data.cqm import read_cqm
from llava_mistral.data.json_records import first_sign
from llava_mistral.data.scienceqa import Problem, read_problems, table_problems
from llava_mistral.data.sources import load_splits, undecoded
from llava_mistral.evaluation.matching import Match, check_answer
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json

LETTERED = "letters"
IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Question:
    """One row's question: the turns before an answer, their pictures, and the answer in words.

    `asking` puts it as it puts a `Problem`; it has no choices.
    """

    pid: str
    turns: tuple[tuple[str, str], ...]  # (role, text); a picture's place is an `<image>`, or before the first words
    images: tuple[Any, ...]  # what `open_picture` takes
    answer: str
    group: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def has_image(self) -> bool:
        return bool(self.images)

    @property
    def question(self) -> str:
        """The last turn, which is answered."""
        return self.turns[-1][1]

    def chat(self) -> list[dict[str, Any]]:
        """Return the turns as a chat template takes them, pictures in their places."""
        placed = sum(text.count(IMAGE_TOKEN) for _, text in self.turns) == len(self.images)
        ahead = 0 if placed else len(self.images)
        chat = []
        for role, text in self.turns:
            parts = [{"type": "image"}] * ahead if role == "user" else []
            ahead = 0 if role == "user" else ahead
            for place, words in enumerate(text.split(IMAGE_TOKEN) if placed and self.images else [text]):
                parts = (
                    parts + [{"type": "image"}] * (place > 0) + ([{"type": "text", "text": words}] if words else [])
                )
            chat.append({"role": role, "content": parts})
        return chat


def read_asked(
    path: str | Path,
    *,
    split: str | None = None,
    match: str | None = None,
    columns: str | None = None,
    group_by: str | None = None,
    image_folder: str | None = None,
    pid_splits: str | None = None,
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
    problems = None if words else _problems(path, split, mapping, pid_splits)
    if problems is None and match == LETTERED:
        raise BadInput("has no choices", remedy="name their column (--columns choices=…) or a --match", file=path)
    if problems is None:
        rows = read_rows(path, image_folder=image_folder, columns=mapping, **({"split": split} if split else {}))
        asked = [question for row in undecoded(rows) for question in _row_questions(row, label)]
        return asked, _groups(asked, group_by, [question.group for question in asked], path)
    return problems, _groups(problems, group_by, [getattr(problem, label or "skill") for problem in problems], path)


def held_out_split(path: str | Path) -> str | None:
    """Return the split that a checkpoint is asked by default; a list of records has none.

    Raises:
        BadInput: there are several, and none is a test or validation split.
    """
    path = Path(path)
    if path.name == "problems.json" or (path / "problems.json").is_file():
        return "test"
    if path.is_file():
        return None if first_sign(path) == "[" else "test"
    names = list(load_splits(path))
    for name in ("test", "validation", "val", "valid", "dev"):
        if name in names:
            return name
    if len(names) > 1:
        problem = f"has the splits {', '.join(names)}, and none is called test"
        raise BadInput(problem, remedy="name one with --split", file=path, field="split")
    return names[0]


def _groups(
    asked: Sequence[Problem | Question], by: str | None, values: Sequence[str | None], path: str | Path
) -> dict[str, str] | None:
    if by is None:
        return None
    if not any(value is not None for value in values):
        raise BadInput(f"no question has a {by}", remedy="name a column of the data", file=path, field="group_by")
    return {one.pid: "(none)" if value is None else value for one, value in zip(asked, values, strict=True)}


def _problems(
    path: Path, split: str | None, mapping: Mapping[str, str], pid_splits: str | None
) -> list[Problem] | None:
    """Return the lettered questions of a source, None where its rows have no choices."""
    if path.is_file() or (path / "problems.json").is_file():
        if path.is_file() and first_sign(path) == "[" and not _is_cqm(path):
            return None
        if mapping:
            raise BadInput("has no columns to name", remedy="leave out --columns", file=path, field="columns")
        return read_problems(path, split=split, pid_splits=pid_splits)
    splits = load_splits(path, split)
    tables = {name: undecoded(renamed(table, mapping, path)) for name, table in splits.items()}
    if not all({"question", "choices", "answer"} <= set(table.column_names) for table in tables.values()):
        return None
    return [make() for name, table in tables.items() for make in table_problems(table, name, path)]


def _is_cqm(path: Path) -> bool:
    """Whether the first record is LLaVA's form of a lettered question; a later one that is not is refused by name."""
    data = read_json(path)
    with suppress(BadInput):
        return bool(read_cqm(path, data[:1]))
    return False


def _row_questions(row: Mapping[str, Any], label: str | None) -> Iterator[Question]:
    """Yield one question for each answer of a row that is to be learned."""
    turns = [(turn["role"], turn["content"]) for turn in row["prompt"]]
    group = row.get(label) if label else None
    number = 0
    for turn in row["completion"]:
        if turn["role"] == "assistant" and turn.get("loss") is not False:
            number += 1
            name = row["id"] if number == 1 else f"{row['id']}#{number}"
            yield Question(name, tuple(turns), tuple(row["images"] or ()), turn["content"], group)
        turns.append((turn["role"], turn["content"]))


def check_questions(questions: Sequence[Question], match: Match, path: str | Path) -> None:
    """Refuse right answers that the rule cannot find, and ids that come twice."""
    seen: set[str] = set()
    for question in questions:
        check_answer(match, question.answer, file=path, record=question.pid)
        if question.pid in seen:
            raise BadInput(
                "is there twice", remedy="give ids of their own", file=path, record=question.pid, field="id"
            )
        seen.add(question.pid)


def words_hash(questions: Sequence[Question]) -> str:
    """Return the SHA-256 of what was asked: ids, turns, right answers, and numbers of pictures."""
    asked = sorted((q.pid, [list(turn) for turn in q.turns], q.answer, len(q.images)) for q in questions)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
