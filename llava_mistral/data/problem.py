"""One multiple-choice question, worded in one way for training, scoring and comparing."""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_mistral.data.columns import METADATA
from llava_mistral.data.sources import StoredPicture
from llava_mistral.data.turns import chat_of, row_of
from llava_mistral.ground.bad_input import BadInput

LETTERS = string.ascii_uppercase
INSTRUCTION = "Answer with the option's letter from the given choices directly."
_TEXT_FIELDS = ("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")


class CellText(str):
    """A cell of a file that holds texts alone, such as CSV: digits may be an index as well as a word."""


@dataclass(frozen=True)
class Problem:
    """One multiple-choice question. `None` means that the source does not say."""

    pid: str
    question: str
    choices: tuple[str, ...]
    answer: int | None = None  # index into choices
    hint: str | None = None  # "" = there is none
    image: Path | StoredPicture | None = None  # when it is at hand: `open_picture` reads it
    more_images: tuple[Path | StoredPicture, ...] = ()  # after `image`, in the order of the question
    has_image: bool = False  # there is a picture, whether or not it is at hand
    task: str | None = None
    grade: str | None = None
    subject: str | None = None
    topic: str | None = None
    category: str | None = None
    skill: str | None = None
    lecture: str | None = None
    solution: str | None = None
    split: str | None = None
    image_needed: bool | None = None  # ground truth of DigitsQA for judging pruning; never worded into a prompt

    @property
    def images(self) -> tuple[Any, ...]:
        """All pictures of the question in their order; one that is not at hand is None."""
        return (self.image, *self.more_images) if self.has_image else ()


def letters(problem: Problem) -> tuple[str, ...]:
    """Return the letters of the problem's choices: ("A", "B", …)."""
    return tuple(LETTERS[: len(problem.choices)])


def with_context(hint: str | None, question: str) -> str:
    """Return a question after its context, where there is one."""
    return f"Context: {hint}\n{question}" if hint else question


def question_text(problem: Problem, instruction: str = INSTRUCTION) -> str:
    """Return the question as it is put to a model: LLaVA's CQM-A form, without an image token.

    Context (when there is a hint), question, lettered choices, instruction, one per line, doubled spaces reduced as in
    LLaVA's `convert_sqa_to_llava_base_prompt.py`; the instruction is that of its `model_vqa_science.py`.
    """
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, problem.choices, strict=False)]
    body = "\n".join([with_context(problem.hint, problem.question), *choices]).replace("  ", " ").strip()
    return f"{body}\n{instruction}" if instruction else body


def answer_text(problem: Problem, style: str = "letter", *, file: str | Path | None = None) -> str:
    """Return the right answer: "B" (`style="letter"`) or lecture, solution and "The answer is B." (`"explained"`).

    Args:
        file: where the problem is from, for the error.

    Raises:
        BadInput: the problem has no answer, or `style` is neither of the two.
    """
    if problem.answer is None:
        place = {"file": file, "record": problem.pid, "field": "answer"}
        raise BadInput("has no answer", remedy="use a split with answers", **place)
    letter = LETTERS[problem.answer]
    if style == "letter":
        return letter
    if style == "explained":
        return " ".join(filter(None, [problem.lecture, problem.solution, f"The answer is {letter}."]))
    raise BadInput(f"answer style {style!r} is unknown", remedy='use "letter" or "explained"', field="answer_style")


def checked_fields(record: Mapping[str, Any], file: Path, pid: str) -> dict[str, Any]:
    """Return the fields that mean the same in problems.json and in a row of `datasets`, each of its right type."""

    def wrong(field: str, problem: str, remedy: str) -> BadInput:
        return BadInput(problem, remedy=remedy, file=file, record=pid, field=field)

    question, choices, answer = record.get("question"), record.get("choices"), record.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise wrong("question", "is missing or empty", "give the question's text")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise wrong("choices", "is not a list of texts", "give two to 26 choices")
    if not 2 <= len(choices) <= len(LETTERS):
        raise wrong("choices", f"has {len(choices)} choices", "give two to 26 choices")
    if all(re.match(rf"\s*[(\[]?{letter}[.):\]]\s", c) for letter, c in zip(LETTERS, choices, strict=False)):
        raise wrong("choices", "begin with their letters, which a question adds by itself", "leave the letters out")
    if answer is not None and (isinstance(answer, bool) or not isinstance(answer, int)):
        raise wrong("answer", f"{quoted(answer)} is not an integer", f"give an index from 0 to {len(choices) - 1}")
    if answer is not None and not 0 <= answer < len(choices):
        problem = f"answer {quoted(answer)} is out of range for {len(choices)} choices"
        raise wrong("answer", problem, f"give an index from 0 to {len(choices) - 1}")
    needed = record.get("image_needed")
    if needed is not None and not isinstance(needed, bool):
        raise wrong("image_needed", f"{quoted(needed)} is not a boolean", "give true, false or null")
    texts = {field: text_of(record, field, file, pid) for field in _TEXT_FIELDS}
    hint = (text_of(record, "hint", file, pid) or "") if "hint" in record else None
    fields = {"question": question, "choices": tuple(choices), "answer": answer, "hint": hint, "image_needed": needed}
    return fields | texts


def quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def text_of(record: Mapping[str, Any], field: str, file: Path, pid: str) -> str | None:
    value = record.get(field)
    if value is None or isinstance(value, str):
        return value
    problem = f"is {type(value).__name__}, not text"
    raise BadInput(problem, remedy="give a text or null", file=file, record=pid, field=field)


def answered_problem(record: Mapping[str, Any], pid: str, split: str | None, path: Path) -> Problem:
    """Return a row of a table as a problem without its picture. An answer may be an index, a letter or a choice.

    Raises:
        BadInput: the row is malformed.
    """
    choices, answer = record.get("choices"), record.get("answer")
    if isinstance(choices, list) and isinstance(answer, str):
        text = answer.strip()
        indices = {index for index, choice in enumerate(choices) if choice == text}
        indices |= {LETTERS.index(text)} if text and text in LETTERS[: len(choices)] else set()
        if isinstance(answer, CellText) and text.isdecimal() and (int(text) < len(choices) or not indices):
            indices.add(int(text))
        if len(indices) > 1:
            problem, remedy = f"{quoted(text)} may mean several choices", "give the index of the right one"
            if text.isdecimal():
                readings = [
                    f"{choices[i]!r} by its {'text' if choices[i] == text else 'index'}" for i in sorted(indices)
                ]
                problem, remedy = f"{problem}: {' or '.join(readings)}", "give its letter (A, B, …)"
            raise BadInput(problem, remedy=remedy, file=path, record=pid, field="answer")
        answer = next(iter(indices), answer)
    known = {name: None if record.get(name) is None else str(record[name]) for name in _TEXT_FIELDS}
    return Problem(pid=pid, split=split, **checked_fields({**record, **known, "answer": answer}, path, pid))


def problem_row(
    problem: Problem, style: str, pictures: int, *, source: str | Path
) -> dict[str, list[dict[str, str]] | str | int | list[str] | None]:
    """Return {"prompt", "completion"} of a problem about so many pictures, and its fields as columns.

    Raises:
        BadInput: the problem has no answer, or names another number of pictures in its words.
    """

    def wrong(what: str, remedy: str, **_: Any) -> BadInput:
        return BadInput(what, remedy=remedy, file=source, record=problem.pid, field="question")

    texts = {"user": question_text(problem), "assistant": answer_text(problem, style, file=source)}
    turns = [{"role": role, "speaker": role, "content": text.strip()} for role, text in texts.items()]
    columns = {name: getattr(problem, name) for name in (*METADATA, "question", "hint", "answer")}
    return row_of(turns, pictures, wrong) | columns | {"choices": list(problem.choices)}


def question_parts(problem: Problem) -> list[dict[str, str]]:
    """Return the question as parts of a user's turn, its pictures in the places that a row of it has.

    Raises:
        BadInput: it names another number of pictures in its words.
    """
    row = problem_row(replace(problem, answer=0), "letter", len(problem.images), source="the questions")
    (turn,) = chat_of({**row, "images": problem.images}, answered=False)
    return turn["content"] if isinstance(turn["content"], list) else text_parts(turn["content"])


def asked_turns(problem: Problem) -> dict[str, list[dict[str, str]]]:
    """Return {"prompt", "completion"} of a problem in words alone, its answer as a letter, if it has one."""
    answer = [] if problem.answer is None else [{"role": "assistant", "content": LETTERS[problem.answer]}]
    return {"prompt": [{"role": "user", "content": question_text(problem)}], "completion": answer}


def text_parts(text: str) -> list[dict[str, str]]:
    """Return a text as parts of a turn."""
    return [{"type": "text", "text": text}]
