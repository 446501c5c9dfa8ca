"""docs/miniature.md, poured from docs/miniature.json: what each change to the miniature gave, as it was measured.

python -m benchmarks.miniature
"""

import json
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# The miniature

`make demo` makes DigitsQA, a tiny tower and a tiny text model, and takes them through every verb. This page says
what its parts are and what each change to them gave; it is poured from miniature.json by `python -m
benchmarks.miniature`.

## DigitsQA

Scanned digits (scikit-learn's 1,797) with questions in ScienceQA's form, and the same questions as people ask them:
every problem gives one row by letter and one open row (the answer in words or figures, a description of the
picture, or a chat of two turns) in `instructions/`. Choices are shuffled, so that a letter says nothing of its
answer. No picture is in two splits. Where the text decides, no wording is in two splits either; what has to be
known is in train in other words. Val and test ask every skill as often. The writers of the scans are not named in
the source, so the same hand may be in train and test.

## The text model

It has read the questions beside pictures put into words: in the place of each patch, the sum of the embeddings of
what is seen and of where it is. That is the form in which the projector of stage 1 then brings real pictures. It
never reads a wording of val or test.
"""


def page(runs: dict) -> str:
    """The page as text."""
    lines = [HEAD, "## What each change gave", "", runs["text_models_note"], ""]
    columns = ("change", "layers", "steps", "parameters", "by letter", "open")
    lines += _table(columns, [[run[name] for name in columns] for run in runs["text_models"]])
    if runs.get("studies"):
        names = list(runs["studies"][0]["measured"])
        rows = [[run["name"], *(run["measured"][name] for name in names)] for run in runs["studies"]]
        lines += ["", "## Stages 1 and 2", "", runs["studies_note"], "", *_table(["run", *names], rows)]
    return "\n".join(lines) + "\n"


def _table(columns, rows) -> list[str]:
    shown = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in ([*columns], ["---"] * len(columns), *shown)]


def main() -> None:
    runs = json.loads((DOCS / "miniature.json").read_text(encoding="utf-8"))
    (DOCS / "miniature.md").write_text(page(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
