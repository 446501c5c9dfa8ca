"""The data to choose from: any source as samples to judge, and the training rows of those that were picked."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.json_records import first_sign
from llava_mistral.data.picture_check import wrong_pictures
from llava_mistral.data.scienceqa import INSTRUCTION, LETTERS, Problem, read_problems
from llava_mistral.data.sources import undecoded
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
    """

    source: Path
    problems: list[Problem]
    rows: Callable[[Sequence[int]], "Dataset"]
    cells: Callable[[Sequence[int]], list[list[Any]]]
    pictures: bool
    answers: list[int]
    conversations: list[int]

    def sha256(self) -> str:
        """Return the hash of everything the samples say, in their order (pictures are hashed in the output)."""
        digest = hashlib.sha256()
        for problem in self.problems:
            said = {"pid": problem.pid, "question": problem.question, "choices": problem.choices}
            said |= {"answer": problem.answer, "hint": problem.hint, "has_image": problem.has_image}
            said |= {name: getattr(problem, name) for name in _JUDGED}
            digest.update(json.dumps(said, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def digests(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Return {sample: hash of the files of its pictures}."""
        found = {}
        for start in range(0, len(indices), _BATCH):
            part = indices[start : start + _BATCH]
            for i, cells in zip(part, self.cells(part), strict=True):
                found[i] = hashlib.sha256(b"".join(hashlib.sha256(bytes_of(cell)).digest() for cell in cells)).digest()
        return found

    def counted(self, indices: Sequence[int]) -> dict[str, int]:
        """Return how many conversations the samples at `indices` are of, and how many answers they hold."""
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
        )


def read_samples(
    path: str | Path,
    *,
    split: str = "train",
    pid_splits: str | Path | None = None,
    image_folder: str | Path | None = None,
    answer_style: str = "letter",
    columns: str | None = None,
    choose: str = "conversations",
    bad: BadSamples | None = None,
) -> Samples:
    """Read a ScienceQA folder, problems.json, LLaVA JSON, `datasets` folder or Hub id; no picture is opened.

    Args:
        columns: of a `datasets` source, "question=their_column,…" (`columns.parse_columns`).
        choose: "conversations": each is one sample; "answers": each answer of a conversation is.
        bad: what becomes of samples that cannot be used; by default the first one is refused.

    Raises:
        BadInput: what the readers raise; a source without samples.
    """
    path, bad = Path(path), bad or BadSamples()
    if not columns and _is_scienceqa(path):
        return _of_problems(read_problems(path, split=split, pid_splits=pid_splits), path, answer_style)
    from llava_mistral.data.conversations import read_rows

    options = {"image_folder": image_folder, "split": split, "answer_style": answer_style, "columns": columns}
    return _of_rows(read_rows(path, **options, bad=bad), path, choose == "conversations")


def check_ids(samples: Samples) -> None:
    """Refuse samples that share an id.

    Raises:
        BadInput: two do; the first such id is named, and how many there are.
    """
    again = [name for name, count in Counter(problem.pid for problem in samples.problems).items() if count > 1]
    if again:
        others = f" ({len(again):,} such ids)" if len(again) > 1 else ""
        problem = f"the id {again[0]!r} is there twice{others}"
        raise BadInput(problem, remedy="give every sample an id of its own", file=samples.source, field="id")


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

    def cells(indices: Sequence[int]) -> list[list[Any]]:
        return [[] if problems[i].image is None else [problems[i].image] for i in indices]

    pictures = all(problem.image is not None for problem in problems if problem.has_image)
    return Samples(path, problems, rows, cells, pictures, [1] * len(problems), list(range(len(problems))))


def _of_rows(table: "Dataset", path: Path, whole: bool) -> Samples:
    table = undecoded(table)
    texts = table.select_columns([name for name in table.column_names if name != "images"])
    groups: list[list[int]] = []  # rows of each conversation
    questions: list[list[str]] = []
    answers: list[list[str]] = []
    firsts: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    for number, row in enumerate(texts):
        asked, said = _turns(row)
        if not (groups and goes_on(firsts[-1]["id"], len(groups[-1]), before, row)):
            groups.append([])
            firsts.append(row)
        if not whole or len(groups[-1]) == 0:
            questions.append([])
            answers.append([])
        groups[-1].append(number)
        questions[-1] += asked
        answers[-1] += said
        before = row
    if whole:
        own, of, heads = groups, list(range(len(groups))), firsts
    else:
        own = [[number] for group in groups for number in group]
        of = [place for place, group in enumerate(groups) for _ in group]
        heads = texts
    has_image = [bool(images) for images in table["images"]] if len(table) else []
    problems = [
        replace(_problem(row, *said), has_image=has_image[rows[0]])
        for row, rows, *said in zip(heads, own, questions, answers, strict=True)
    ]
    return Samples(
        path,
        problems,
        lambda indices: table.select([number for i in indices for number in own[i]]),
        lambda indices: table.select([own[i][0] for i in indices])["images"][:] if len(indices) else [],
        True,
        [len(said) for said in answers],
        of,
    )


def _turns(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return what is asked in a row and answered in its completion."""
    asked = [turn["content"] for turn in row["prompt"] if turn["role"] == "user"][-1:]
    asked += [turn["content"] for turn in row["completion"] if turn["role"] == "user"]
    said = [turn["content"] for turn in row["completion"] if turn["role"] == "assistant"]
    return asked, said or [row["completion"][-1]["content"]]


def goes_on(name: str, count: int, before: dict[str, Any], row: dict[str, Any]) -> bool:
    """Return whether a row asks on in the conversation `name`, of which `count` rows were met, the last `before`."""
    met = before["prompt"] + before["completion"]
    return str(row["id"]) == f"{name}#{count + 1}" and row["prompt"][:-1] == met


def _problem(row: dict[str, Any], asked: list[str], said: list[str]) -> Problem:
    known = {name: str(row[name]) for name in _JUDGED if row.get(name) is not None}
    question, answer = "\n".join(asked), "\n".join(said)
    if len(said) > 1:
        fields = {"solution": answer} | known | {"question": question, "choices": (), "asked": tuple(asked)}
        return Conversation(pid=str(row["id"]), **fields)
    return Problem(pid=str(row["id"]), **({"solution": answer} | known | _parts(question, answer)))


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
