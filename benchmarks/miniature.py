"""docs/miniature.md, poured from docs/miniature.json: what each change to the miniature gave, as it was measured.

python -m benchmarks.miniature
python -m benchmarks.miniature --add "what was changed" outputs/miniature/results/stage2 outputs/miniature/digitsqa
"""

import argparse
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
never reads a wording of val or test. Where a question ends, the layer before the last has to say what is right, by
the embeddings of words, and the last layer what is to be said; between them the letter of a choice is looked up.
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


def measured(results: Path, data: Path) -> dict[str, float | int]:
    """The figures of a checkpoint, from the folders `results` and `results`-open; accuracies in percent."""
    from llava_mistral.data.scienceqa import read_problems
    from llava_mistral.miniature.summary import blind_guess, likelihood, macro_mean, read_results

    problems = {problem.pid: problem for problem in read_problems(data, split="test")}
    real, blank = read_results(results), read_results(results / "blank")
    opened = json.loads((results.parent / f"{results.name}-open" / "open.json").read_text(encoding="utf-8"))
    figures = {
        "pictured, by letter": real["summary"]["IMG"]["accuracy"],
        "mean of pictured skills": macro_mean(real["summary"], problems),
        "no picture, by letter": sum(
            problems[pid].answer == likely for pid, likely in real["likeliest"].items() if not problems[pid].has_image
        )
        / sum(not problem.has_image for problem in problems.values())
        * 100,
        "digit, by letter": real["summary"]["skills"]["Read a written digit"]["accuracy"],
        **{f"{name}, open": opened[name]["accuracy"] for name in ("digit", "pictured", "text")},
        "blank, by likelihood": likelihood(blank, problems, lambda problem: problem.has_image),
        "blind guess": blind_guess(read_problems(data, split="train"), problems.values()),
    }
    return {name: round(figure, 1) for name, figure in figures.items()} | {"unread": real["summary"]["unread"]}


def _table(columns, rows) -> list[str]:
    shown = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in ([*columns], ["---"] * len(columns), *shown)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--add", nargs=3, metavar=("NAME", "RESULTS", "DATA"), help="measure a study's checkpoint first"
    )
    args = parser.parse_args()
    runs = json.loads((DOCS / "miniature.json").read_text(encoding="utf-8"))
    if args.add:
        name, results, data = args.add
        runs["studies"] = [run for run in runs.get("studies", []) if run["name"] != name]
        runs["studies"].append({"name": name, "measured": measured(Path(results), Path(data))})
        (DOCS / "miniature.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    (DOCS / "miniature.md").write_text(page(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
