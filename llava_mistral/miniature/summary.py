"""The summary of a study on one screen and in one picture: results, three questions with answers, next steps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import COLUMNS, LETTERS, Problem, read_problems
from llava_mistral.miniature.result_picture import Bar, Shown, draw_picture

SKILLS_SHOWN = 3


def summarise_study(settings: Mapping[str, Any], output: Path) -> str:
    """Return the summary as text, and draw `settings["picture"]`.

    Args:
        settings: the `summary` of a study's YAML: `results` {name: folder}, `open` {name: folder}, `skill`, `shown`
            (the skills of the three questions), `data`, `answers`, `chart`, `picture` and `try_next`; paths are below
            `output`.
        output: the study's folder.
    """
    problems = {problem.pid: problem for problem in read_problems(output / settings["data"], split="test")}
    train = read_problems(output / settings["data"], split="train")
    results = {name: read_results(output / folder) for name, folder in settings["results"].items()}
    opened = {name: _read(output / folder / "open.json") for name, folder in settings["open"].items()}
    answers = {name: read_results(output / settings["answers"] / part)["outputs"] for name, part in _PARTS.items()}
    shown = [_shown(problem, answers) for problem in pick_samples(problems, settings["shown"])]
    blind = blind_guess(train, problems.values())
    bars = _bars(results, opened, problems, settings["skill"], blind)
    picture = draw_picture(shown, bars, output / settings["picture"])
    lines = ["", _table(results, problems, settings["skill"]), ""]
    lines += [f"open answers, {name}: {_open_line(counts)}" for name, counts in opened.items()]
    lines += [f"best guess without looking, questions with a picture: {blind:.2f}", ""]
    lines += [
        f"{one.picture}\n  {one.question}  seeing: {one.seeing}, with a blank picture: {one.blind}, right: {one.right}"
        for one in shown
    ]
    lines += ["", f"chart {output / settings['chart']}", f"picture {picture}"]
    return "\n".join([*lines, "try next:", f"  {settings['try_next'].replace('{output}', str(output))}"])


_PARTS = {"real": ".", "blank": "blank"}


def read_results(folder: Path) -> dict[str, Any]:
    """What `llava-mistral evaluate` left in a folder: summary, texts, and the likeliest choice of each question."""
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
    likeliest = {row["pid"]: max(range(len(row["letters"])), key=row["letters"].__getitem__) for row in rows}
    return {
        "summary": _read(folder / "summary.json"),
        "outputs": _read(folder / "predictions.json")["outputs"],
        "likeliest": likeliest,
    }


def blind_guess(train: Sequence[Problem], problems) -> float:
    """The accuracy in percent, on questions with a picture, of the best guess without looking.

    Where the words decide, that is the right answer; elsewhere the one that the same words had most often in `train`.
    """
    counts: dict[tuple, dict[str, int]] = {}
    for problem in train:
        counts.setdefault((problem.question, problem.hint), {}).setdefault(problem.choices[problem.answer], 0)
        counts[problem.question, problem.hint][problem.choices[problem.answer]] += 1
    pictured = [problem for problem in problems if problem.has_image]
    right = 0
    for problem in pictured:
        known = counts.get((problem.question, problem.hint), {})
        guess = max(problem.choices, key=lambda choice: known.get(choice, 0))
        right += problem.image_needed is False or guess == problem.choices[problem.answer]
    return 100 * right / len(pictured)


def macro_mean(summary: Mapping[str, Any], problems: Mapping[str, Problem]) -> float:
    """The mean accuracy in percent over the skills whose questions have a picture."""
    pictured = {problem.skill for problem in problems.values() if problem.has_image}
    return sum(summary["skills"][skill]["accuracy"] for skill in pictured) / len(pictured)


def pick_samples(problems: Mapping[str, Problem], skills: Sequence[str]) -> list[Problem]:
    """The first question of each of the skills; never chosen by the answer."""
    first: dict[str, Problem] = {}
    for problem in problems.values():
        first.setdefault(problem.skill, problem)
    return [first[skill] for skill in skills]


def _shown(problem: Problem, answers: Mapping[str, Mapping[str, str]]) -> Shown:
    seeing, blind = (_choice(problem, answers[name][problem.pid].strip()) for name in _PARTS)
    return Shown(problem.image, problem.question, seeing, blind, problem.choices[problem.answer])


def _choice(problem: Problem, answer: str) -> str:
    index = LETTERS.find(answer) if len(answer) == 1 else -1
    return problem.choices[index] if 0 <= index < len(problem.choices) else f"“{answer[:12]}”" if answer else "nothing"


def likelihood(result: Mapping[str, Any], problems: Mapping[str, Problem], chosen) -> float:
    """The accuracy in percent of the likeliest choices, on the problems for which `chosen` is true."""
    right = [result["likeliest"][pid] == problem.answer for pid, problem in problems.items() if chosen(problem)]
    return 100 * sum(right) / len(right)


def _bars(results, opened, problems, skill: str, blind: float) -> list[Bar]:
    """The groups of the chart: pictured questions and the skill by letter, the skill by open answer."""
    kinds = {
        "questions with a picture,\nby letter": lambda p: p.has_image,
        f"{skill.lower()},\nby letter": lambda p: p.skill == skill,
    }
    bars = []
    for place, (group, chosen) in enumerate(kinds.items()):
        questions = [problem for problem in problems.values() if chosen(problem)]
        chance = sum(100 / len(problem.choices) for problem in questions) / len(questions)
        for name, result in results.items():
            if result["summary"].get("images") == "blank":
                unread = sum(_choice(p, result["outputs"][p.pid].strip()) not in p.choices for p in questions)
                height, note = likelihood(result, problems, chosen), f"{unread} of {len(questions)}\nunread"
            else:
                cell = result["summary"]["IMG"] if place == 0 else result["summary"]["skills"][skill]
                height, note = cell["accuracy"], ""
            bars.append(Bar(group, name, height, len(questions), chance, blind if place == 0 else None, note))
    for name, counts in opened.items():
        group = f"{skill.lower()},\nopen answer"
        bars.append(Bar(group, name, counts["digit"]["accuracy"], counts["digit"]["n"], None, None, ""))
    return bars


def _table(results: Mapping[str, Mapping[str, Any]], problems: Mapping[str, Problem], skill: str) -> str:
    width = max(map(len, results)) + 2
    head = " " * width + "".join(f"{column:>8}" for column in (*COLUMNS, "macro", "digit", "unread"))
    rows = []
    for name, result in results.items():
        summary = result["summary"]
        cells = [*(summary.get(column) for column in COLUMNS)]
        texts = [f"{cell['accuracy']:8.2f}" if cell else f"{'-':>8}" for cell in cells]
        texts += [f"{macro_mean(summary, problems):8.2f}", f"{summary['skills'][skill]['accuracy']:8.2f}"]
        rows.append(f"{name:<{width}}" + "".join(texts) + f"{summary['unread']:8d}")
    first = next(iter(results.values()))["summary"]
    counts = [first[column]["n"] if first[column] else 0 for column in COLUMNS]
    tail = f"{'questions':<{width}}" + "".join(f"{number:8d}" for number in counts)
    tail += f"{'':>8}{first['skills'][skill]['n']:8d}"
    likely = [
        f"{name}, questions with a picture by likelihood: {likelihood(result, problems, lambda p: p.has_image):.2f}"
        for name, result in results.items()
    ]
    explained = f"accuracy in percent; macro: mean over the skills with a picture; digit: {skill.lower()}"
    return "\n".join([explained, head, *rows, tail, *likely])


def _open_line(counts: Mapping[str, Any]) -> str:
    parts = [f"{name} {one['correct']} of {one['n']}" for name, one in counts.items() if name != "skills"]
    return ", ".join(parts) + " right"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
