"""The data to choose from: any source as samples to judge, and the training rows of those that were picked."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.json_records import first_sign
from llava_mistral.data.picture_check import checked, wrong_pictures
from llava_mistral.data.scienceqa import INSTRUCTION, LETTERS, Problem, read_problems
from llava_mistral.data.sources import undecoded
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import bytes_of

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 100  # samples whose pictures lie in memory at a time
_JUDGED = ("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution", "split")


@dataclass(frozen=True)
class Samples:
    """Samples in the order of their source.

    Attributes:
        problems: one per sample. A conversation is a problem without choices whose solution is its answer.
        rows: returns the training rows of the samples at some indices; pictures stay undecoded.
        pictures: whether the pictures are at hand; an extract may have the text alone.
    """

    source: Path
    problems: list[Problem]
    rows: Callable[[Sequence[int]], "Dataset"]
    pictures: bool

    def sha256(self) -> str:
        """Return the hash of everything the samples say, in their order (pictures are hashed in the output)."""
        digest = hashlib.sha256()
        for problem in self.problems:
            said = {"pid": problem.pid, "question": problem.question, "choices": problem.choices}
            said |= {"answer": problem.answer, "hint": problem.hint, "has_image": problem.has_image}
            said |= {name: getattr(problem, name) for name in _JUDGED}
            digest.update(json.dumps(said, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def cells(self, indices: Sequence[int]) -> list[list[Any]]:
        """Return the pictures of the samples at `indices`, undecoded."""
        return undecoded(self.rows(indices))["images"] if len(indices) else []

    def digests(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Return {sample: hash of the files of its pictures}."""
        found = {}
        for start in range(0, len(indices), _BATCH):
            part = indices[start : start + _BATCH]
            for i, cells in zip(part, self.cells(part), strict=True):
                found[i] = hashlib.sha256(b"".join(hashlib.sha256(bytes_of(cell)).digest() for cell in cells)).digest()
        return found


def read_samples(
    path: str | Path,
    *,
    split: str = "train",
    pid_splits: str | Path | None = None,
    image_folder: str | Path | None = None,
    answer_style: str = "letter",
    columns: str | None = None,
    check_pictures: str = "none",
    bad: BadSamples | None = None,
) -> Samples:
    """Read a ScienceQA folder, problems.json, LLaVA JSON, `datasets` folder or Hub id (see `processing`).

    Args:
        columns: of a `datasets` source, "question=their_column,…" (`columns.parse_columns`).
        check_pictures: how to look at the pictures at hand (`picture_check.wrong_pictures`).
        bad: what becomes of samples that cannot be used; by default the first one is refused.

    Raises:
        BadInput: what the readers raise; an id that two samples share; a source without samples.
    """
    path, bad = Path(path), bad or BadSamples()
    if not columns and _is_scienceqa(path):
        problems = read_problems(path, split=split, pid_splits=pid_splits)
        wrong = wrong_pictures(lambda: _pictured(problems), len(problems), check_pictures, bad, source=path)
        samples = _of_problems([p for i, p in enumerate(problems) if i not in wrong], path, answer_style)
    else:
        from llava_mistral.data.conversations import read_rows

        options = {"image_folder": image_folder, "split": split, "answer_style": answer_style, "columns": columns}
        samples = _of_rows(checked(read_rows(path, **options, bad=bad), check_pictures, bad, source=path), path)
    _check_ids(samples)
    return samples


def _pictured(problems: list[Problem]) -> Iterator[tuple[str, list[Any]]]:
    for problem in problems:
        yield problem.pid, [] if problem.image is None else [problem.image]


def _is_scienceqa(path: Path) -> bool:
    """Whether `path` holds problems (with choices and metadata), not conversations; a file's first sign tells."""
    if path.is_file():
        return first_sign(path) != "["
    if (path / "problems.json").is_file():
        return True
    from llava_mistral.data.sources import load_splits

    return {"question", "choices", "answer"} <= set(next(iter(load_splits(path).values())).column_names)


def _of_problems(problems: list[Problem], path: Path, answer_style: str) -> Samples:
    def rows(indices: Sequence[int]) -> "Dataset":
        from llava_mistral.data.conversations import rows_of_problems

        return rows_of_problems([problems[i] for i in indices], answer_style, source=path)

    pictures = all(problem.image is not None for problem in problems if problem.has_image)
    return Samples(path, problems, rows, pictures)


def _of_rows(table: "Dataset", path: Path) -> Samples:
    table = undecoded(table)
    has_image = [bool(images) for images in table["images"]] if len(table) else []
    texts = table.select_columns([name for name in table.column_names if name != "images"])
    problems = [replace(_problem(row), has_image=seen) for row, seen in zip(texts, has_image, strict=True)]
    return Samples(path, problems, lambda indices: table.select(indices), True)


def _problem(row: dict[str, Any]) -> Problem:
    asked = next(turn["content"] for turn in reversed(row["prompt"]) if turn["role"] == "user")
    said = row["completion"][-1]["content"]
    known = {name: str(row[name]) for name in _JUDGED if row.get(name) is not None}
    return Problem(pid=str(row["id"]), **({"solution": said} | known | _parts(asked, said)))


def _parts(asked: str, said: str) -> dict[str, Any]:
    """Return the fields of a question that `question_text` worded; any other text is a question without choices."""
    lines = asked.split("\n")
    if lines[-1] != INSTRUCTION:
        return {"question": asked, "choices": ()}
    lines = lines[:-1]
    hint = lines.pop(0).removeprefix("Context: ") if lines[0].startswith("Context: ") else ""
    first = max((i for i, line in enumerate(lines) if line.startswith("A. ")), default=len(lines))
    choices = tuple(line[3:] for line in lines[first:])
    letter = said.removesuffix(".")[-1:]
    answer = LETTERS.index(letter) if letter and letter in LETTERS[: len(choices)] else None
    return {"question": "\n".join(lines[:first]), "choices": choices, "answer": answer, "hint": hint}


def _check_ids(samples: Samples) -> None:
    seen: set[str] = set()
    for problem in samples.problems:
        if problem.pid in seen:
            problem_text = f"the id {problem.pid!r} is there twice"
            raise BadInput(problem_text, remedy="give every sample an id of its own", file=samples.source, field="id")
        seen.add(problem.pid)
