"""Folders of results as `evaluate` writes them."""

from pathlib import Path

from llava_mistral.data.scienceqa import Problem
from llava_mistral.evaluation.results import ground_truth, summarise, write_results
from llava_mistral.evaluation.scoring import Answers

PROBLEMS = [
    Problem(str(i), f"Question {i}?", ("one", "two"), i % 2, hint="", has_image=i < 60, subject="social science")
    for i in range(100)
]


def results(folder: Path, right: int, problems=PROBLEMS, **facts) -> Path:
    """A results folder in which the first `right` questions are answered rightly."""
    choices = {p.pid: p.answer if i < right else 1 - p.answer for i, p in enumerate(problems)}
    facts = {"scoring": "results", "model": None, "dataset": "data"} | facts
    write_results(
        folder, summarise(problems, Answers(choices), **facts), {"results": choices, **ground_truth(problems)}
    )
    return folder
