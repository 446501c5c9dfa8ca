"""Training rows from records of any supported form: a JSON list, JSON lines, or a row of a table.

| form | fields |
|---|---|
| TRL's | `prompt` and `completion`: texts, or turns of role and content |
| messages | `messages`: turns of role and content |
| LLaVA's | `conversations`: turns of from and value (or role and content), an `<image>` in each picture's place |
| choices | `question`, `choices` and `answer` (`scienceqa`) |
| words | `question` and `answer`, and the `hint` or context that the question needs |
| captions | `answer` and a picture |

Pictures are in `image` or `images`: one or a list of paths, bytes or cells of `datasets`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from llava_mistral.data.bad_samples import BadSamples, WrongForm, usable
from llava_mistral.data.columns import KNOWN, METADATA, UNUSED
from llava_mistral.data.picture_cells import AbsentPicture, cell_of, listed, unused_pictures
from llava_mistral.data.problem import answered_problem, problem_row, with_context
from llava_mistral.data.record_names import RecordNames
from llava_mistral.data.turns import (
    FORM,
    IMAGE_TOKEN,
    each_answer,
    named_pictures,
    prompt_and_completion,
    read_turns,
    row_of,
)
from llava_mistral.data.unused_fields import NAMES, is_empty, is_learned, unused_fields
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder

FORMS = {
    "trl": {"prompt", "completion"},
    "messages": {"messages"},
    "conversations": {"conversations"},
    "choices": {"question", "choices", "answer"},
    "words": {"question", "answer"},
    "captions": {"answer"},
}
WHOLE = ("whole", "answers")
_CONVERSATIONS = ("prompt", "completion", "messages", "conversations")
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
    """Makes training rows from records and gives each a unique id.

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
        self.names, self.made_names, self.unlearned = RecordNames(path), 0, 0
        self.unused: dict[str, None] = {}  # fields that no row uses, in order of first occurrence

    def rows(self, record: Mapping[str, Any], index: int, form: str, name: str) -> list[Row]:
        """Return the rows of a record called `name`: none where it is marked not to be learned, or where a picture is
        absent, which `bad` gathers.

        Raises:
            BadInput: the record cannot be used.
        """
        given = self.given_pictures(record, index)
        if not self.is_learned(record, index):
            return []
        if form == "choices":
            rows = [self._problem(record, index, name)]
        elif form in ("words", "captions"):
            rows = [self._words(record, name, form)]
        else:
            rows, given = self._conversation(record, index, form, given)
        self.note_unused(record, index, form, rows[-1])
        pictures = self.pictures(given, index)
        if pictures is None:
            return []
        counts = {len(row.get("images", pictures)) for row in rows}
        if max(counts) > len(pictures):
            raise self._wrong(index, "holds no picture for a token", "make tokens and pictures agree", field="images")
        rows = [row | {"images": pictures[: len(row.get("images", pictures))]} for row in rows]
        return self._named(rows, name, index)

    def _named(self, rows: list[Row], name: str, index: int) -> list[Row]:
        texts = [[row["prompt"], row["completion"]] for row in rows]
        name = self.names.unique(name, [texts, len(rows[0]["images"])], rows[-1]["images"], index)
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
                "is missing or is not text", remedy="give each record an id", file=self.path, record=index, field="id"
            )
        return str(given)

    def report_notices(self) -> None:
        """Report the records that were named by their numbers or left out, and the fields that no row uses."""
        if self.made_names:
            self.bad.notice(f"{self.made_names:,} records without an id are named by their places", self.path)
        self.bad.counted["not_learned"] = self.unlearned
        if self.unlearned:
            self.bad.notice(f"{self.unlearned:,} records with a loss or weight of 0 are left out", self.path)
        self.bad.notice_unused(self.unused, self.path)

    def is_learned(self, record: Mapping[str, Any], index: int) -> bool:
        """Whether a record is not marked as one that is not learned; counts those that are.

        Raises:
            BadInput: its mark is neither 0 nor 1.
        """
        self.unlearned += not (learned := is_learned(record, partial(self._wrong, index)))
        return learned

    def note_unused(self, record: Mapping[str, Any], index: int, form: str, row: Mapping[str, Any]) -> None:
        """Remember the fields that a row does not use; `unused_fields` decides which are refused."""
        self.unused |= dict.fromkeys(unused_fields(record, form, row, partial(self._wrong, index)))

    def _wrong(
        self, index: int | str, problem: str, remedy: str, *, field: str, kind: type[BadInput] = BadInput
    ) -> BadInput:
        return kind(problem, remedy=remedy, file=self.path, record=index, field=field)

    def given_pictures(self, record: Mapping[str, Any], index: int | str) -> list[Any]:
        """Return the values of `image` and `images`; refuse pictures in other fields, which would be ignored."""
        given = [record[key] for key in ("image", "images") if record.get(key) not in (None, "", [], {})]
        if len(given) == 2:
            remedy = "give one of them, or leave one out with --columns unused=image"
            raise self._wrong(index, "has pictures in image and in images", remedy, field="images")
        key = unused_pictures(record, KNOWN, given, folders=self.folders, file=self.path, record=index)
        if key is not None:
            remedy = f"map it with --columns images={key}, or leave it out with --columns {UNUSED}={key}"
            raise self._wrong(index, "carries pictures and is not used", remedy, field=str(key))
        return given

    def _conversation(self, record: Mapping[str, Any], index: int, form: str, given: list) -> tuple[list[Row], list]:
        field = form if form != "trl" else "prompt"

        def wrong(problem: str, remedy: str, field: str = field, kind: type[BadInput] = BadInput) -> BadInput:
            kind = BadInput if self.split else kind  # a table is of its form, whatever one row says
            return self._wrong(index, problem, remedy, field=field, kind=kind)

        if record.get("tools") not in (None, "", "[]", [], {}):
            raise wrong("names tools, which no template here words", "leave them out", field="tools")
        if form == "trl":
            turns, own = prompt_and_completion(record.get("prompt"), record.get("completion"), wrong)
        else:
            turns, own = read_turns(record.get(form), wrong)
        if own and given:
            raise wrong("holds pictures in its parts, and others beside it", "give them in one place")
        given = own or given
        count = sum(len(listed(value)) for value in given)
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
        said, count = {}, sum(len(listed(value)) for value in self.given_pictures(record, index))
        for field in ("question", "answer"):
            text = record.get(field)
            if isinstance(text, int | float) and not isinstance(text, bool):
                text = str(text)  # "how many?"
            if field == "question" and form == "captions":
                text = IMAGE_TOKEN * count or None
            if not isinstance(text, str) or not text.strip():
                remedy = "give a text, or name choices too"
                raise self._wrong(index, "is empty or is not text", remedy, field=field)
            said[field] = text

        def wrong(problem: str, remedy: str, **_: Any) -> BadInput:
            return self._wrong(index, problem, remedy, field="question")

        if not is_empty(hint := record.get("hint")) and form == "words":
            if not isinstance(hint, str):
                raise self._wrong(index, "is not text", "give a text or null", field="hint")
            said["question"] = with_context(hint.strip(), said["question"].strip())
        turns = [("user", "question"), ("assistant", "answer")]
        turns = [{"role": role, "speaker": role, "content": said[field].strip()} for role, field in turns]
        return row_of(turns, count, wrong) | _labels(record)

    def _problem(self, record: Mapping[str, Any], index: int, name: str) -> Row:
        problem = answered_problem(record, name, self.split, self.path)
        count = sum(len(listed(value)) for value in self.given_pictures(record, index))
        return problem_row(problem, self.style, count, source=self.path)

    def pictures(self, given: list[Any], index: int) -> list[dict[str, Any]] | None:
        """Return the cells of what `given_pictures` found; None where one is absent, which `bad` gathers."""
        try:
            return [picture for value in given for picture in self.cells(value, index)]
        except AbsentPicture as error:
            self.bad.gather(error)
            return None

    def cells(self, value: Any, index: int) -> list[dict[str, Any]]:
        """Return pictures as cells (`picture_cells.cell_of`) of whatever `image` or `images` holds."""
        return [cell_of(one, self.folders, file=self.path, record=index) for one in listed(value)]


def _labels(record: Mapping[str, Any]) -> dict[str, str | None]:
    return {label: None if record.get(label) is None else str(record[label]) for label in METADATA}


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
    reader.bad.close(index + 1)
    reader.report_notices()
    return index + 1


def _own_form(record: Mapping[str, Any], index: int, path: Path) -> str:
    with suppress(BadInput):  # a conversation that is null leaves the fields of another form
        return form_of({key for key in record if key not in _CONVERSATIONS or record[key] is not None}, path)
    try:
        return form_of(set(record), path)
    except BadInput as error:
        problem = "is missing, or has no question and answer"
        raise BadInput(problem, remedy=FORM, file=path, record=index, field="conversations") from error
