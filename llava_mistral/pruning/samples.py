"""The data to choose from: any source as samples to judge, and the training rows of those that were picked."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.json_records import first_sign, is_lines
from llava_mistral.data.picture_check import checked, wrong_pictures
from llava_mistral.data.scienceqa import Problem, read_problems
from llava_mistral.data.sources import list_lengths, undecoded
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
        images: how many pictures each sample has; None: one where it has any.
    """

    source: Path
    problems: list[Problem]
    rows: Callable[[Sequence[int]], "Dataset"]
    pictures: bool
    images: Sequence[int] | None = None

    def count_pictures(self) -> dict[str, int]:
        """Return how many pictures there are, and how many samples without one."""
        without = sum(not problem.has_image for problem in self.problems)
        counts = self.images or [int(problem.has_image) for problem in self.problems]
        return {"pictures": sum(counts), "rows_without_picture": without}

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
    split: str | None = None,
    pid_splits: str | Path | None = None,
    image_folder: str | Path | None = None,
    answer_style: str = "letter",
    columns: str | None = None,
    check_pictures: str = "none",
    bad: BadSamples | None = None,
    dataset_config: str | None = None,
    conversations: str = "whole",
) -> Samples:
    """Read whatever `conversations.read_rows` reads, to whose arguments these belong.

    Args:
        columns: of a `datasets` source, "question=their_column,…" (`columns.parse_columns`).
        check_pictures: how to look at the pictures at hand (`picture_check.wrong_pictures`).
        bad: what becomes of samples that cannot be used; by default the first one is refused.

    Raises:
        BadInput: what the readers raise; an id that two samples share; a source without samples.
    """
    path, bad = Path(path), bad or BadSamples()
    if _is_scienceqa(path):
        options = {"image_folder": image_folder, "columns": columns, "dataset_config": dataset_config}
        problems = read_problems(path, split=split or "train", pid_splits=pid_splits, bad=bad, **options)
        wrong = wrong_pictures(lambda: _pictured(problems), len(problems), check_pictures, bad, source=path)
        samples = _of_problems([p for i, p in enumerate(problems) if i not in wrong], path, answer_style)
    else:
        from llava_mistral.data.conversations import read_rows

        options = {"image_folder": image_folder, "split": split, "answer_style": answer_style, "columns": columns}
        options |= {"dataset_config": dataset_config, "conversations": conversations}
        samples = _of_rows(checked(read_rows(path, **options, bad=bad), check_pictures, bad, source=path), path)
    _check_ids(samples)
    return samples


def _pictured(problems: list[Problem]) -> Iterator[tuple[str, list[Any]]]:
    for problem in problems:
        yield problem.pid, [] if problem.image is None else [problem.image]


def _is_scienceqa(path: Path) -> bool:
    """Whether `path` is, or holds, a problems.json."""
    if path.is_file():
        return path.suffix.lower() == ".json" and first_sign(path) != "[" and not is_lines(path)
    return (path / "problems.json").is_file()


def _of_problems(problems: list[Problem], path: Path, answer_style: str) -> Samples:
    def rows(indices: Sequence[int]) -> "Dataset":
        from llava_mistral.data.conversations import rows_of_problems

        return rows_of_problems([problems[i] for i in indices], answer_style, source=path)

    pictures = all(problem.image is not None for problem in problems if problem.has_image)
    return Samples(path, problems, rows, pictures)


def _of_rows(table: "Dataset", path: Path) -> Samples:
    table = undecoded(table)
    counts = list_lengths(table, "images")
    texts = table.select_columns([name for name in table.column_names if name != "images"])
    problems = [replace(_problem(row), has_image=count > 0) for row, count in zip(texts, counts, strict=True)]
    return Samples(path, problems, lambda indices: table.select(indices), True, counts)


def _problem(row: dict[str, Any]) -> Problem:
    known = {name: str(row[name]) for name in _JUDGED if row.get(name) is not None}
    if row.get("choices"):
        fields = {"question": row["question"], "answer": row["answer"], "hint": row["hint"]}
        return Problem(pid=row["id"], choices=tuple(row["choices"]), **fields, **known)
    asked = next(turn["content"] for turn in reversed(row["prompt"]) if turn["role"] == "user")
    said = "\n".join(turn["content"] for turn in row["completion"] if turn["role"] == "assistant")
    return Problem(pid=str(row["id"]), question=asked, choices=(), **({"solution": said} | known))


def _check_ids(samples: Samples) -> None:
    seen: set[str] = set()
    for problem in samples.problems:
        if problem.pid in seen:
            problem_text = f"the id {problem.pid!r} is there twice"
            raise BadInput(problem_text, remedy="give every sample an id of its own", file=samples.source, field="id")
        seen.add(problem.pid)
