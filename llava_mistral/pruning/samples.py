"""The data to choose from: samples of any source to be scored, and the training rows of those picked."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.json_records import first_sign, is_lines
from llava_mistral.data.picture_check import wrong_pictures
from llava_mistral.data.scienceqa import Problem, read_problems
from llava_mistral.data.sources import list_lengths, undecoded
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import bytes_of
from llava_mistral.pruning.words import Conversation

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 100  # samples whose pictures lie in memory at a time
_JUDGED = ("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution", "split")


@dataclass(frozen=True)
class Samples:
    """Samples in the order of their source.

    Attributes:
        problems: one per sample. A conversation is a problem without choices, whose question is all that is asked in
            it and whose solution all that is answered.
        rows: returns the training rows of the samples at some indices, pictures undecoded. A conversation of several
            answers may have a row for each.
        cells: returns the pictures of the samples at some indices, undecoded.
        pictures: whether the pictures are at hand; an extract may have the text alone.
        answers: how many answers each sample holds.
        conversations: the number of the conversation that each sample is, or is an answer of.
        images: how many pictures each sample has.
    """

    source: Path
    problems: list[Problem]
    rows: Callable[[Sequence[int]], "Dataset"]
    cells: Callable[[Sequence[int]], list[list[Any]]]
    pictures: bool
    answers: list[int]
    conversations: list[int]
    images: list[int]

    def count_pictures(self) -> dict[str, int]:
        """Return how many pictures there are, and how many samples without one."""
        without = sum(not problem.has_image for problem in self.problems)
        return {"pictures": sum(self.images), "rows_without_picture": without}

    def sha256(self) -> str:
        """Return the hash of all texts of the samples, in their order (pictures are hashed in the output)."""
        digest = hashlib.sha256()
        for problem in self.problems:
            fields = {"pid": problem.pid, "question": problem.question, "choices": problem.choices}
            fields |= {"answer": problem.answer, "hint": problem.hint, "has_image": problem.has_image}
            fields |= {name: getattr(problem, name) for name in _JUDGED}
            digest.update(json.dumps(fields, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def digests(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Return {sample: hash of the files of its pictures}."""
        found = {}
        for start in range(0, len(indices), _BATCH):
            part = indices[start : start + _BATCH]
            for i, cells in zip(part, self.cells(part), strict=True):
                found[i] = hashlib.sha256(b"".join(hashlib.sha256(bytes_of(cell)).digest() for cell in cells)).digest()
        return found

    def with_pictures(self) -> list[Problem]:
        """Return the problems with their pictures, which are read when they are looked at."""
        shown = [[SamplePicture(self, i, place) for place in range(n)] or [None] for i, n in enumerate(self.images)]
        pairs = zip(self.problems, shown, strict=True)
        return [own if own.image else replace(own, image=first, more_images=(*more,)) for own, (first, *more) in pairs]

    def counted(self, indices: Sequence[int]) -> dict[str, int]:
        """Return the number of conversations that the samples at `indices` belong to, and of their answers."""
        return {
            "conversations": len({self.conversations[i] for i in indices}),
            "answers": sum(self.answers[i] for i in indices),
        }

    def checked(self, depth: str, bad: BadSamples) -> "Samples":
        """Open every picture (`picture_check.wrong_pictures`); return the samples whose pictures can be used.

        Raises:
            BadInput: a picture cannot be used, and `bad` leaves none out, or there are too many.
        """

        def pictured() -> Iterator[tuple[str, list[Any]]]:
            for start in range(0, len(self.problems), _BATCH):
                part = range(start, min(start + _BATCH, len(self.problems)))
                yield from zip((self.problems[i].pid for i in part), self.cells(part), strict=True)

        wrong = wrong_pictures(pictured, len(self.problems), depth, bad, source=self.source)
        return self._only([i for i in range(len(self.problems)) if i not in wrong]) if wrong else self

    def _only(self, kept: list[int]) -> "Samples":
        return Samples(
            self.source,
            [self.problems[i] for i in kept],
            lambda indices: self.rows([kept[i] for i in indices]),
            lambda indices: self.cells([kept[i] for i in indices]),
            self.pictures,
            [self.answers[i] for i in kept],
            [self.conversations[i] for i in kept],
            [self.images[i] for i in kept],
        )


@dataclass(frozen=True)
class SamplePicture:
    """A picture of a sample of a table."""

    samples: Samples
    index: int
    place: int = 0  # among the sample's pictures

    def read_bytes(self) -> bytes:
        """Return the bytes of the picture's file."""
        return bytes_of(self.samples.cells([self.index])[0][self.place])


def read_samples(
    path: str | Path,
    *,
    split: str | None = None,
    pid_splits: str | Path | None = None,
    image_folder: str | Path | None = None,
    answer_style: str = "letter",
    columns: str | None = None,
    bad: BadSamples | None = None,
    dataset_config: str | None = None,
    conversations: str = "whole",
) -> Samples:
    """Read whatever `conversations.read_rows` reads, to whose arguments these belong; no picture is opened.

    Args:
        bad: what becomes of samples that cannot be used; by default the first one is refused.
        conversations: "whole": each is one sample; "answers": each answer of a conversation is.

    Raises:
        BadInput: what the readers raise; a source without samples.
    """
    path, bad = Path(path), bad or BadSamples()
    options = {"image_folder": image_folder, "columns": columns, "dataset_config": dataset_config, "bad": bad}
    if _is_scienceqa(path):
        problems = read_problems(path, split=split or "train", pid_splits=pid_splits, **options)
        return _of_problems(problems, path, answer_style)
    from llava_mistral.data.conversations import read_rows

    options |= {"split": split, "answer_style": answer_style, "conversations": conversations}
    return _of_rows(read_rows(path, **options), path)


def check_ids(samples: Samples) -> None:
    """Refuse samples that share an id.

    Raises:
        BadInput: two do; the first such id is named, and how many there are.
    """
    again = [name for name, count in Counter(problem.pid for problem in samples.problems).items() if count > 1]
    if again:
        others = f" ({len(again):,} such ids)" if len(again) > 1 else ""
        problem = f"the id {again[0]!r} occurs twice{others}"
        raise BadInput(problem, remedy="give every sample an id of its own", file=samples.source, field="id")


def _is_scienceqa(path: Path) -> bool:
    """Whether `path` is, or holds, a problems.json."""
    if path.is_file():
        return path.suffix.lower() == ".json" and first_sign(path) != "[" and not is_lines(path)
    return (path / "problems.json").is_file()


def _of_problems(problems: list[Problem], path: Path, answer_style: str) -> Samples:
    def rows(indices: Sequence[int]) -> "Dataset":
        from llava_mistral.data.conversations import rows_of_problems

        return rows_of_problems([problems[i] for i in indices], answer_style, source=path)

    def cells(indices: Sequence[int]) -> list[list[Any]]:
        return [[] if problems[i].image is None else [problems[i].image] for i in indices]

    pictures = all(problem.image is not None for problem in problems if problem.has_image)
    images = [int(problem.has_image) for problem in problems]
    return Samples(path, problems, rows, cells, pictures, [1] * len(problems), list(range(len(problems))), images)


def _of_rows(table: "Dataset", path: Path) -> Samples:
    table = undecoded(table)
    images = list_lengths(table, "images")
    texts = table.select_columns([name for name in table.column_names if name != "images"])
    problems, answers, conversations = [], [], []
    before: dict[str, Any] | None = None
    for row, count in zip(texts, images, strict=True):
        questions, replies = _turns(row)
        problems.append(replace(_problem(row, questions, replies), has_image=count > 0))
        answers.append(len(replies))
        last = conversations[-1] if conversations else -1
        conversations.append(last if before is not None and _goes_on(before, row) else last + 1)
        before = row
    return Samples(
        path,
        problems,
        lambda indices: table.select(indices),
        lambda indices: table.select(indices)["images"][:] if len(indices) else [],
        True,
        answers,
        conversations,
        images,
    )


def _turns(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the questions of a row, and its answers that are trained on."""
    questions = [turn["content"] for turn in row["prompt"] if turn["role"] == "user"][-1:]
    questions += [turn["content"] for turn in row["completion"] if turn["role"] == "user"]
    learned = [turn for turn in row["completion"] if turn["role"] == "assistant" and turn.get("loss") is not False]
    return questions, [turn["content"] for turn in learned]


def _goes_on(before: dict[str, Any], row: dict[str, Any]) -> bool:
    """Return whether a row is the next answer of the conversation of the row before it, and named so (`id#2`)."""
    words = [turn["content"] for turn in before["prompt"] + before["completion"]]
    name, _, number = str(row["id"]).rpartition("#")
    return (
        number.isdigit()
        and str(before["id"]).startswith(name)
        and words == [turn["content"] for turn in row["prompt"][: len(words)]]
    )


def _problem(row: dict[str, Any], questions: list[str], replies: list[str]) -> Problem:
    known = {name: str(row[name]) for name in _JUDGED if row.get(name) is not None}
    if row.get("choices"):
        fields = {"question": row["question"], "answer": row["answer"], "hint": row["hint"]}
        return Problem(pid=str(row["id"]), choices=tuple(row["choices"]), **fields, **known)
    known = {"solution": "\n".join(replies)} | known | {"question": "\n".join(questions), "choices": ()}
    if len(questions) > 1:
        return Conversation(pid=str(row["id"]), **known, asked=tuple(questions))
    return Problem(pid=str(row["id"]), **known)
