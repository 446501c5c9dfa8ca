"""A record of any form that people have, as training rows: from a JSON list, JSON lines, or a row of a table.

| form | fields |
|---|---|
| TRL's | `prompt` and `completion`: texts, or turns of role and content |
| messages | `messages`: turns of role and content |
| LLaVA's | `conversations`: turns of from and value (or role and content), an `<image>` in each picture's place |
| choices | `question`, `choices` and `answer` (`scienceqa`) |
| words | `question` and `answer` |
| captions | `answer` and a picture |

Pictures are in `image` or `images`: one or a list of paths, bytes or cells of `datasets`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_mistral.data.bad_samples import BadSamples, WrongForm, usable
from llava_mistral.data.columns import KNOWN, METADATA, UNUSED
from llava_mistral.data.problem import answered_problem, problem_row
from llava_mistral.data.turns import (
    FORM,
    IMAGE_TOKEN,
    each_answer,
    named_pictures,
    prompt_and_completion,
    read_turns,
    row_of,
)
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder
from llava_mistral.ground.strict_json import decoder

FORMS = {
    "trl": {"prompt", "completion"},
    "messages": {"messages"},
    "conversations": {"conversations"},
    "choices": {"question", "choices", "answer"},
    "words": {"question", "answer"},
    "captions": {"answer"},
}
WHOLE = ("whole", "answers")
NAMES = ("id", "pid", "__key__")
_PICTURE_NAME = re.compile(r"[^\n]{1,400}\.(jpe?g|png|webp|gif|bmp|tiff?|avif|jp2)", re.IGNORECASE)
# What a table such as a CSV may hold as JSON text, and what such a list holds.
_LISTS = dict.fromkeys(("messages", "conversations", "prompt", "completion"), dict)
_LISTS |= dict.fromkeys(("choices", "image", "images"), str)
Row = dict[str, Any]


def form_of(names: set[str], path: Path) -> str:
    """Return the form of a record or table with these fields.

    Raises:
        BadInput: they are of no form; the message names them.
    """
    for form, needed in FORMS.items():
        if needed <= names and (form != "captions" or names & {"image", "images"}):
            return form
    problem = f"has the columns {', '.join(sorted(map(str, names)))}"
    remedy = (
        "give prompt and completion, messages, conversations, or question and answer;"
        " --columns names those called otherwise"
    )
    raise BadInput(problem, remedy=remedy, file=path)


class RecordReader:
    """Makes rows of records, whose names it keeps apart.

    Args:
        path: the source, for errors.
        folders: what pictures that are named may lie below.
        bad: absent pictures are gathered in it, to be named together.
        conversations: "whole": one row, every answer learned; "answers": one row per answer.
        answer_style: of questions with choices (`scienceqa.answer_text`).
        split: of a table, for names that are made.

    Raises:
        BadInput: `conversations` is unknown.
    """

    def __init__(
        self,
        path: Path,
        folders: Sequence[PictureFolder],
        bad: BadSamples,
        *,
        conversations: str = "whole",
        answer_style: str = "letter",
        split: str | None = None,
    ):
        if conversations not in WHOLE:
            problem = f"{conversations!r} is unknown"
            raise BadInput(problem, remedy=f"use {' or '.join(WHOLE)}", field="conversations")
        self.path, self.folders, self.bad = path, folders, bad
        self.whole, self.style, self.split = conversations == "whole", answer_style, split
        self.names, self.made_names = RecordNames(path), 0

    def rows(self, record: Mapping[str, Any], index: int, form: str, name: str) -> list[Row]:
        """Return the rows of a record called `name`; none where a picture is absent, which `bad` gathers.

        Raises:
            BadInput: the record cannot be used.
        """
        if self.split:
            record = {key: _unpacked(value, _LISTS[key]) if key in _LISTS else value for key, value in record.items()}
        given = self.given_pictures(record, index)
        if form == "choices":
            rows = [self._problem(record, index, name)]
        elif form in ("words", "captions"):
            rows = [self._words(record, name, form)]
        else:
            rows, given = self._conversation(record, index, form, given)
        pictures = self.pictures(given, index)
        if pictures is None:
            return []
        counts = {len(row.get("images", pictures)) for row in rows}
        if max(counts) > len(pictures):
            raise self._wrong(index, "holds no picture for a token", "make tokens and pictures agree", field="images")
        rows = [row | {"images": pictures[: len(row.get("images", pictures))]} for row in rows]
        return self._named(rows, name, index)

    def _named(self, rows: list[Row], name: str, index: int) -> list[Row]:
        said = [[row["prompt"], row["completion"]] for row in rows]
        name = self.names.unique(name, [said, len(rows[0]["images"])], rows[-1]["images"], index)
        ids = [name, *(self.names.free(f"{name}#{number}", "~") for number in range(2, len(rows) + 1))]
        return [{"id": own} | row for own, row in zip(ids, rows, strict=True)]

    def name(self, record: Mapping[str, Any], index: int, form: str = "") -> str:
        """Return the record's id as text, or its number: in a table, and where no record before has had an id.

        Raises:
            WrongForm: other records of a file have ids, and this one has none.
        """
        given = next((record[key] for key in NAMES if record.get(key) is not None), None)
        if given is None and (self.split or self.made_names == index):
            self.made_names += 1
            return f"{self.split}-{index}" if form == "choices" and self.split else str(index)
        if not isinstance(given, str | int) or isinstance(given, bool) or given == "":
            raise WrongForm(
                "is missing or no text", remedy="give each record an id", file=self.path, record=index, field="id"
            )
        return str(given)

    def say_what_was_made(self) -> None:
        """Say that records without ids were named by their numbers, where there were any."""
        if self.made_names:
            self.bad.notice(f"{self.made_names:,} records without an id are named by their places", self.path)

    def _wrong(
        self, index: int | str, problem: str, remedy: str, *, field: str, kind: type[BadInput] = BadInput
    ) -> BadInput:
        return kind(problem, remedy=remedy, file=self.path, record=index, field=field)

    def given_pictures(self, record: Mapping[str, Any], index: int | str) -> list[Any]:
        """Return what `image` and `images` hold; refuse pictures in other fields, which nobody would look at."""
        given = [record[key] for key in ("image", "images") if record.get(key) not in (None, "", [], {})]
        if len(given) == 2:
            remedy = "give one of them, or leave one out with --columns unused=image"
            raise self._wrong(index, "has pictures in image and in images", remedy, field="images")
        others = () if given else [key for key in record if key not in KNOWN and holds_picture(record[key])]
        for key in others:
            remedy = f"map it with --columns images={key}, or leave it out with --columns {UNUSED}={key}"
            raise self._wrong(index, "carries pictures and is not used", remedy, field=str(key))
        return given

    def _conversation(self, record: Mapping[str, Any], index: int, form: str, given: list) -> tuple[list[Row], list]:
        field = form if form != "trl" else "prompt"

        def wrong(problem: str, remedy: str, field: str = field, kind: type[BadInput] = BadInput) -> BadInput:
            return self._wrong(index, problem, remedy, field=field, kind=kind)

        if form == "trl":
            turns, own = prompt_and_completion(record.get("prompt"), record.get("completion"), wrong)
        else:
            turns, own = read_turns(record.get(form), wrong)
        if own and given:
            raise wrong("holds pictures in its parts, and others beside it", "give them in one place")
        given = own or given
        count = sum(len(_listed(value)) for value in given)
        classic = form == "conversations" and not own and any(turn["speaker"] in ("human", "gpt") for turn in turns)
        whole = row_of(turns, count, wrong, tokens_needed=classic)
        if self.whole:
            return [whole], given
        rows = []
        for part in each_answer(turns):
            named = named_pictures(part) if named_pictures(turns) else count
            rows.append(row_of(part, named if count else 0, wrong) | {"images": [None] * (named if count else 0)})
        return rows, given

    def _words(self, record: Mapping[str, Any], index: str, form: str) -> Row:
        said, count = {}, sum(len(_listed(value)) for value in self.given_pictures(record, index))
        for field in ("question", "answer"):
            text = record.get(field)
            if isinstance(text, int | float) and not isinstance(text, bool):
                text = str(text)  # "how many?"
            if field == "question" and form == "captions":
                text = IMAGE_TOKEN * count or None
            if not isinstance(text, str) or not text.strip():
                remedy = "give a text, or name choices too"
                raise self._wrong(index, "is empty or no text", remedy, field=field)
            said[field] = text

        def wrong(problem: str, remedy: str, **_: Any) -> BadInput:
            return self._wrong(index, problem, remedy, field="question")

        turns = [("user", "question"), ("assistant", "answer")]
        turns = [{"role": role, "speaker": role, "content": said[field].strip()} for role, field in turns]
        return row_of(turns, count, wrong) | _labels(record)

    def _problem(self, record: Mapping[str, Any], index: int, name: str) -> Row:
        problem = answered_problem(record, name, self.split, self.path)
        count = sum(len(_listed(value)) for value in self.given_pictures(record, index))
        return problem_row(problem, self.style, count, source=self.path)

    def pictures(self, given: list[Any], index: int) -> list[dict[str, Any]] | None:
        """Return the cells of what `given_pictures` found; None where one is absent, which `bad` gathers."""
        try:
            return [picture for value in given for picture in self.cells(value, index)]
        except AbsentPicture as error:
            self.bad.gather(error)
            return None

    def cells(self, value: Any, index: int) -> list[dict[str, Any]]:
        """Return pictures as cells {"bytes", "path"} of `datasets`, of whatever `image` or `images` holds.

        Raises:
            AbsentPicture: a path leads to nothing below the folders.
            BadInput: something is no picture.
        """
        return [self._cell(one, index) for one in _listed(value)]

    def _cell(self, value: Any, index: int) -> dict[str, Any]:
        if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
            value = value.get("path") if value.get("bytes") is None else bytes(value["bytes"])
        if isinstance(value, bytes) and value:
            return {"bytes": value, "path": None}
        if not isinstance(value, str) or not value:
            raise self._wrong(index, "is not a path", "give a path below the image folder", field="image")
        return {"bytes": None, "path": str(find_picture(self.folders, value, file=self.path, record=index))}


class AbsentPicture(BadInput):
    """A picture that is named is not there: all of them are named together."""


def find_picture(folders: Sequence[PictureFolder], name: str, **place: Any) -> Path:
    """Return the picture's absolute path in the first of the folders that has it.

    A name may begin with its folder's own: many a file says "images/1.png" of the 1.png in `images` beside it.

    Raises:
        AbsentPicture: none has it, or it lies elsewhere.
    """
    for folder in folders:
        for tried in {name: None, name.removeprefix(f"{folder.root.name}/"): None}:
            with suppress(BadInput):
                return folder.find(tried, **place)
    try:
        return folders[0].find(name.removeprefix(f"{folders[0].root.name}/"), **place)
    except BadInput as error:
        raise AbsentPicture(error.problem, remedy=error.remedy, **place, field="image") from error


def holds_picture(value: Any) -> bool:
    """Whether a field seems to hold pictures: bytes or a cell of one, or the name of one; or a list of these."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(holds_picture, value))
    if isinstance(value, Mapping):
        return {"bytes", "path"} == set(value) and any(part is not None for part in value.values())
    if isinstance(value, bytes):
        return value.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF"))
    return isinstance(value, str) and bool(_PICTURE_NAME.fullmatch(value.strip()))


def _listed(value: Any) -> list[Any]:
    return [one for one in value if one is not None] if isinstance(value, list | tuple) else [value]


def _unpacked(value: Any, kind: type) -> Any:
    """Return the list of `kind` that a text holds as JSON, or the value as it is."""
    if isinstance(value, str) and value.startswith("[") and value.rstrip().endswith("]"):
        with suppress(ValueError, RecursionError):
            found = decoder().decode(value)
            return found if all(isinstance(one, kind) for one in found) else value
    return value


def _labels(record: Mapping[str, Any]) -> dict[str, str | None]:
    return {label: None if record.get(label) is None else str(record[label]) for label in METADATA}


class RecordNames:
    """Ids given to records. LLaVA-665k names its records after pictures, and asks several conversations about one
    picture under one id; the same words about the same picture twice are a fault. Some 200 bytes a record."""

    def __init__(self, path: Path):
        self.path = path
        self._taken: set[bytes] = set()
        self._said: set[bytes] = set()
        self._next: dict[str, int] = {}

    def unique(self, name: str, words: Any, pictures: list[dict[str, Any]], index: int) -> str:
        """Return `name`, numbered when it is not the first of its kind.

        Raises:
            BadInput: the same name, words and pictures were there before.
        """
        files = [cell["path"] or hashlib.sha256(cell["bytes"]).hexdigest() for cell in pictures]
        said = _short(json.dumps([name, words, files]).encode())
        if said in self._said:
            raise BadInput("is there twice", remedy="keep one of the two", file=self.path, record=index, field="id")
        self._said.add(said)
        return self.free(name, "~")

    def free(self, name: str, sign: str) -> str:
        """Return `name`, or the first of `name~2`, `name~3`, … that no record has."""
        own, number = name, self._next.get(name, 2)
        while (short := _short(own.encode())) in self._taken:
            own, number = f"{name}{sign}{number}", number + 1
            self._next[name] = number
        self._taken.add(short)
        return own


def _short(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def records_rows(
    records: Iterator[tuple[Any, int]], reader: RecordReader, form: str | None, advance: Any = None
) -> Iterator[Row]:
    """Yield the rows of records; returns their number. See `RecordReader`.

    Args:
        records: (record, bytes read so far).
        form: of `FORMS`; None: each record's own, which is known before anything of it is refused.
        advance: told the bytes read so far.

    Raises:
        BadInput: a record cannot be used, or too many cannot.
    """
    index = -1
    for index, (record, read) in enumerate(records):
        if advance:
            advance(read)

        def made(record: Any = record, index: int = index) -> list[Row]:
            if not isinstance(record, dict):
                raise WrongForm("is not an object", remedy=FORM, file=reader.path, record=index)
            name = reader.name(record, index, form or "")
            return reader.rows(record, index, form or _own_form(record, index, reader.path), name)

        yield from usable(reader.bad, made) or ()
    reader.say_what_was_made()
    reader.bad.close(index + 1)
    return index + 1


def _own_form(record: Mapping[str, Any], index: int, path: Path) -> str:
    try:
        return form_of(set(record), path)
    except BadInput as error:
        problem = "is missing, or has no question and answer"
        raise BadInput(problem, remedy=FORM, file=path, record=index, field="conversations") from error
