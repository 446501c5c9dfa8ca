"""ScienceQA problems, however they are stored, and the one wording of a question for training, scoring and comparing.

The four forms read here: the folder of the authors (`problems.json`, `pid_splits.json` and
`images/{split}/{pid}/{image}`; Lu et al., NeurIPS 2022), `problems.json` alone, LLaVA's `llava_test_CQM-A.json`, and
the columns of `derek-thomas/ScienceQA` as a `datasets` folder or a Hub id.
"""

import re
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.cqm import read_cqm
from llava_mistral.data.sources import StoredPicture, load_splits, stored_pictures
from llava_mistral.data.splits import SPLITS, check_ids_known, home_split, read_pid_splits
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder
from llava_mistral.ground.strict_json import read_json

if TYPE_CHECKING:
    from datasets import Dataset

# The columns of ScienceQA's table: subjects, what the question has beside its text, grades.
COLUMNS = ("ALL", "NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
LETTERS = string.ascii_uppercase
INSTRUCTION = "Answer with the option's letter from the given choices directly."
_TEXT_FIELDS = ("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")


@dataclass(frozen=True)
class Problem:
    """One multiple-choice question. `None` means that the source does not say."""

    pid: str
    question: str
    choices: tuple[str, ...]
    answer: int | None = None  # index into choices
    hint: str | None = None  # "" = there is none
    image: Path | StoredPicture | None = (
        None  # the file or the table's cell, when it is at hand: `open_picture` reads it
    )
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


def letters(problem: Problem) -> tuple[str, ...]:
    """Return the letters of the problem's choices: ("A", "B", …)."""
    return tuple(LETTERS[: len(problem.choices)])


def question_text(problem: Problem, instruction: str = INSTRUCTION) -> str:
    """Return the question as it is put to a model: LLaVA's CQM-A form, without an image token.

    Context (when there is a hint), question, lettered choices, instruction, one per line, doubled spaces reduced as in
    LLaVA's `convert_sqa_to_llava_base_prompt.py`; the instruction is that of its `model_vqa_science.py`.
    """
    context = [f"Context: {problem.hint}"] if problem.hint else []
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, problem.choices, strict=False)]
    body = "\n".join([*context, problem.question, *choices]).replace("  ", " ").strip()
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


def read_problems(
    path: str | Path, *, split: str | None = None, pid_splits: str | Path | None = None
) -> list[Problem]:
    """Return the problems at `path`, those of `split` only when it is given, in the order of the source.

    Args:
        path: a ScienceQA folder, a `problems.json`, LLaVA's `llava_test_CQM-A.json`, a `datasets` folder
            (`save_to_disk` or parquet) or a Hub id ("derek-thomas/ScienceQA").
        split: a key of `pid_splits`, or train, val or test by the problems' own `split` field.
        pid_splits: the file of ids by split; a folder's own `pid_splits.json` is used when this is not given.

    Raises:
        BadInput: anything is missing, malformed or contradictory; the message names file, record, field and remedy.
    """
    path = Path(path)
    if path.is_dir() and (path / "problems.json").is_file():
        beside = path / "pid_splits.json"
        pid_splits = pid_splits or (beside if beside.is_file() else None)
        path = path / "problems.json"
    if path.is_file():
        problems = _read_file(path, split, pid_splits)
    else:
        problems = _read_datasets(path, split)
        if pid_splits is not None:
            problems = _of_split(problems, split, pid_splits, path)
    if not problems:
        where = f"no problem of split {split!r}" if split else "no problem"
        raise BadInput(f"holds {where}", remedy="name another split or another source", file=path, field="split")
    return problems


def _read_file(path: Path, split: str | None, pid_splits: str | Path | None) -> list[Problem]:
    data = read_json(path)
    if isinstance(data, list) and path.name == "problems.json":
        raise BadInput("is a list", remedy="give an object of problems by their numeric id", file=path)
    if isinstance(data, list):
        problems = [Problem(**fields) for fields in read_cqm(path, data)]
        return _of_split(problems, split, pid_splits, path)
    if not isinstance(data, dict):
        raise BadInput("is neither problems.json nor CQM-A", remedy="give an object of problems by id", file=path)
    problems = [_problem(pid, record, path) for pid, record in data.items()]
    _warn_of_equal_choices(problems, path)
    chosen = _of_split(problems, split, pid_splits, path)
    folder = PictureFolder(path.parent / "images")
    return list(_with_images(chosen, data, path, folder))


def _problem(pid: str, record: Any, file: Path) -> Problem:
    """Check one record of problems.json and return it without its image."""
    if not re.fullmatch(r"[0-9]{1,18}", pid):
        remedy = "key the problems by their numeric id, or put LLaVA's records into a list"
        raise BadInput(f"key {pid[:40]!r} is not a number", remedy=remedy, file=file)
    if not isinstance(record, dict):
        raise BadInput("is not an object", remedy="give the problem's fields by name", file=file, record=pid)
    split = _text(record, "split", file, pid)
    if split is not None and split not in SPLITS:
        raise BadInput(
            f"{_quoted(split)} is unknown", remedy="use train, val or test", file=file, record=pid, field="split"
        )
    image = _text(record, "image", file, pid)
    return Problem(pid=pid, has_image=bool(image), split=split, **_checked(record, file, pid))


def _checked(record: Mapping[str, Any], file: Path, pid: str) -> dict[str, Any]:
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
    if answer is not None and (isinstance(answer, bool) or not isinstance(answer, int)):
        raise wrong("answer", f"{_quoted(answer)} is not an integer", f"give an index from 0 to {len(choices) - 1}")
    if answer is not None and not 0 <= answer < len(choices):
        problem = f"answer {_quoted(answer)} is out of range for {len(choices)} choices"
        raise wrong("answer", problem, f"give an index from 0 to {len(choices) - 1}")
    needed = record.get("image_needed")
    if needed is not None and not isinstance(needed, bool):
        raise wrong("image_needed", f"{_quoted(needed)} is not a boolean", "give true, false or null")
    texts = {field: _text(record, field, file, pid) for field in _TEXT_FIELDS}
    hint = (_text(record, "hint", file, pid) or "") if "hint" in record else None
    fields = {"question": question, "choices": tuple(choices), "answer": answer, "hint": hint, "image_needed": needed}
    return fields | texts


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _text(record: Mapping[str, Any], field: str, file: Path, pid: str) -> str | None:
    value = record.get(field)
    if value is None or isinstance(value, str):
        return value
    problem = f"is {type(value).__name__}, not text"
    raise BadInput(problem, remedy="give a text or null", file=file, record=pid, field=field)


def _warn_of_equal_choices(problems: Iterable[Problem], file: Path) -> None:
    twins = [problem.pid for problem in problems if len(set(problem.choices)) < len(problem.choices)]
    if twins:
        print(f"{file}: {len(twins)} problems have two equal choices (first: {twins[0]})", file=sys.stderr)


def _of_split(problems: list[Problem], split: str | None, pid_splits: str | Path | None, file: Path) -> list[Problem]:
    """Return the problems of `split`, by `pid_splits` when it is given, else by the problems' own field."""
    if pid_splits is not None:
        splits = read_pid_splits(pid_splits)
        check_ids_known(splits, {problem.pid for problem in problems}, split, splits_file=pid_splits, file=file)
        homes = home_split(splits)
        problems = [_at_home(problem, homes.get(problem.pid), file) for problem in problems]
        chosen = set(splits[split]) if split else None
        return [problem for problem in problems if chosen is None or problem.pid in chosen]
    if problems and split is not None and all(problem.split is None for problem in problems):
        raise BadInput("no problem names its split", remedy="give pid_splits.json too", file=file, field="split")
    return [problem for problem in problems if split in (None, problem.split)]


def _at_home(problem: Problem, home: str | None, file: Path) -> Problem:
    if problem.split is None or home in (None, problem.split):
        return replace(problem, split=problem.split or home)
    wrong = f"{problem.split!r} contradicts pid_splits ({home})"
    raise BadInput(wrong, remedy="make the two agree", file=file, record=problem.pid, field="split")


def _with_images(
    problems: list[Problem], data: Mapping[str, Any], file: Path, folder: PictureFolder
) -> Iterator[Problem]:
    """Yield the problems with their pictures; those that are absent are named together at the end."""
    absent = BadSamples()
    for problem in problems:
        try:
            yield _with_image(problem, data[problem.pid].get("image"), file, folder)
        except BadInput as error:
            absent.gather(error)
    absent.close(len(problems))


def _with_image(problem: Problem, name: str | None, file: Path, folder: PictureFolder) -> Problem:
    """Return the problem with the path of its picture, which must exist when there is an images folder at all."""
    if not problem.has_image or not folder.root.is_dir():
        return problem
    if problem.split is None:
        place = {"file": file, "record": problem.pid, "field": "split"}
        raise BadInput("is missing, and the picture lies under it", remedy="name the split", **place)
    image = Path(problem.split, problem.pid, name)
    return replace(problem, image=folder.find(image, file=file, record=problem.pid))


def _read_datasets(path: Path, split: str | None) -> list[Problem]:
    splits = load_splits(path, split)
    problems = []
    for name, rows in splits.items():
        missing = {"question", "choices", "answer"} - set(rows.column_names)
        if missing:
            problem = f"has no column {', '.join(sorted(missing))}"
            raise BadInput(problem, remedy="give a set with the columns of derek-thomas/ScienceQA", file=path)
        problems += [make() for make in table_problems(rows, name, path)]
    return problems


def table_problems(rows: "Dataset", split: str | None, path: Path) -> Iterator[Callable[[], Problem]]:
    """Yield, for each row of `derek-thomas/ScienceQA`'s columns (picture undecoded), what makes a problem of it.

    A row without a `pid` or `id` of its own is named `{split}-{index}`. No picture is read. A call raises `BadInput`
    where the row is malformed.
    """
    said = rows.remove_columns([name for name in ("image", "images") if name in rows.column_names])
    for index, (row, image) in enumerate(zip(said, stored_pictures(rows, path), strict=True)):
        pid = row.get("pid", row.get("id"))
        yield partial(_row_problem, row, image, f"{split}-{index}" if pid is None else str(pid), split, path)


def _row_problem(row: Mapping[str, Any], image: Any, pid: str, split: str | None, path: Path) -> Problem:
    split = "val" if split == "validation" else split
    return Problem(pid=pid, image=image, has_image=image is not None, split=split, **_checked(row, path, pid))
