"""A journal of questions and answers, written as they come, so that an interrupted run resumes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import Problem
from llava_mistral.evaluation.reading import read_answer
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.whole_file import saving, write_whole


@dataclass(frozen=True)
class Answer:
    """One answer: the generated text (None if none was generated) and each letter's log-probability."""

    pid: str
    output: str | None
    letters: tuple[float, ...]

    def choice(self, problem: Problem, scoring: str) -> int | None:
        """Return the index of the choice by `scoring` ("generated" or "likelihood"), None where it is unread."""
        if scoring == "generated":
            return read_answer(self.output or "", problem.choices)
        return max(range(len(self.letters)), key=self.letters.__getitem__)


@dataclass(frozen=True)
class AnswerSettings:
    """Settings of an evaluation: what is scored ("generated" or "likelihood"), and the limits of an answer."""

    scoring: str = "generated"
    max_new_tokens: int = 16
    chat_template: str | None = None  # instead of the checkpoint's own
    batch_size: int = 32
    match: str | None = None  # the rule by which answers in words are judged; it changes no answer

    def header(self) -> dict[str, Any]:
        """Return the settings that an answer depends on; batch size and match rule are not among them."""
        return {name: value for name, value in vars(self).items() if name not in ("batch_size", "match")}


class Journal:
    """`predictions.jsonl`: settings and question hash on the first line, then one answer per line as they come.

    A run that is cut off goes on from here; a line that was cut off itself is asked again. Without a path the answers
    are kept in memory.

    Raises:
        BadInput: the file holds the answers of another run.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any]):
        self.path, self._header = path, header
        self.answers: dict[str, Answer] = {}
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        whole = [line for line in lines if line.endswith("\n")]
        if whole:
            self._check(self._parsed(whole[0]), header)
            self.answers = {row["pid"]: _answer(row) for row in map(self._parsed, whole[1:])}
        if whole != lines:
            write_whole(path, "".join(whole))

    def _parsed(self, line: str) -> dict[str, Any]:
        try:
            return json.loads(line)
        except ValueError as error:
            raise BadInput("is not valid JSON", remedy="remove the file to ask again", file=self.path) from error

    def _check(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        other = [key for key in now if before.get(key) != now[key]]
        if other:
            problem = f"holds the answers of another run ({', '.join(other)} differ)"
            raise BadInput(problem, remedy="name another output folder, or remove this one", file=self.path)

    def append(self, answers: Iterable[Answer]) -> None:
        """Add answers, and append them to the file where there is one; a run without answers leaves no file."""
        answers = list(answers)
        if self.path is not None:
            if not self.path.is_file() or not self.path.stat().st_size:
                with saving(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.path, json.dumps(self._header) + "\n")
            with saving(self.path), self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(vars(answer)) + "\n" for answer in answers)
        self.answers |= {answer.pid: answer for answer in answers}


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(row["pid"], row["output"], tuple(row["letters"]))
