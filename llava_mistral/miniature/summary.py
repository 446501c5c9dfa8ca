"""The end of a study in one screen and one picture: what was measured, three questions with answers, what is next."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import COLUMNS, LETTERS, Problem, read_problems

SHOWN = 3


def summarise_study(wanted: Mapping[str, Any], output: Path) -> str:
    """Return the summary as text, and draw `wanted["picture"]`.

    Args:
        wanted: the `summary` of a study's YAML: `results` {name: folder}, `skill`, `data`, `answers`, `chart`,
        `picture` and
            `try_next`; paths are below `output`.
        output: the study's folder.
    """
    summaries = {name: _read(output / folder / "summary.json") for name, folder in wanted["results"].items()}
    problems = {problem.pid: problem for problem in read_problems(output / wanted["data"], split="test")}
    outputs = _read(output / wanted["answers"] / "predictions.json")["outputs"]
    samples = pick_samples(problems, wanted["skill"])
    picture = draw_picture(summaries, samples, outputs, wanted["skill"], output / wanted["picture"])
    lines = ["", _table(summaries, wanted["skill"]), ""]
    lines += [f"{problem.image}\n  {_asked(problem, outputs)}" for problem in samples]
    lines += ["", f"chart {output / wanted['chart']}", f"picture {picture}"]
    return "\n".join([*lines, "try next:", f"  {wanted['try_next'].replace('{output}', str(output))}"])


def pick_samples(problems: Mapping[str, Problem], skill: str) -> list[Problem]:
    """The first question of `skill` and of the two next skills whose picture is needed; never chosen by the answer."""
    first: dict[str, Problem] = {}
    for problem in problems.values():
        if problem.image_needed and problem.skill:
            first.setdefault(problem.skill, problem)
    return [first[name] for name in [skill, *(name for name in first if name != skill)][:SHOWN]]


def _table(summaries: Mapping[str, Mapping[str, Any]], skill: str) -> str:
    width = max(map(len, summaries)) + 2
    head = " " * width + "".join(f"{column:>8}" for column in (*COLUMNS, "digit", "unread"))
    rows = []
    for name, summary in summaries.items():
        cells = [*(summary.get(column) for column in COLUMNS), summary["skills"][skill]]
        rows.append(
            f"{name:<{width}}"
            + "".join(f"{cell['accuracy']:8.2f}" if cell else f"{'-':>8}" for cell in cells)
            + f"{summary['unread']:8d}"
        )
    counts = [next(iter(summaries.values()))[column] for column in COLUMNS]
    number = next(iter(summaries.values()))["skills"][skill]["n"]
    tail = f"{'questions':<{width}}" + "".join(f"{cell['n'] if cell else 0:8d}" for cell in counts) + f"{number:8d}"
    title = f"accuracy in percent; digit: {skill.lower()}; unread: answers that name no choice, and count as wrong"
    return "\n".join([title, head, *rows, tail])


def _asked(problem: Problem, outputs: Mapping[str, str]) -> str:
    choices = "  ".join(f"{LETTERS[index]}. {choice}" for index, choice in enumerate(problem.choices))
    truth = LETTERS[problem.answer]
    return f"{problem.question}  {choices}\n  answered {outputs[problem.pid].strip() or 'nothing'}, right is {truth}"


def draw_picture(
    summaries: Mapping[str, Mapping[str, Any]],
    samples: list[Problem],
    outputs: Mapping[str, str],
    skill: str,
    path: Path,
) -> Path:
    """Draw three questions with their pictures above the accuracies with 95 % intervals; returns `path`."""
    import textwrap

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from llava_mistral.ground.pictures import open_picture

    figure = pyplot.figure(figsize=(10, 5.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    for axes, problem in zip(upper.subplots(1, len(samples)), samples, strict=True):
        axes.imshow(open_picture(problem.image), interpolation="nearest")
        axes.set_axis_off()
        right = outputs[problem.pid].strip() == LETTERS[problem.answer]
        axes.set_title("\n".join(textwrap.wrap(problem.question, 34)), fontsize=10)
        answer = _choice(problem, outputs[problem.pid].strip())
        words = f"model: {answer}   right: {problem.choices[problem.answer]}"
        axes.text(0.5, -0.12, words, transform=axes.transAxes, ha="center", color="#1a7f37" if right else "#b42318")
    axes = lower.subplots()
    bars = {"questions with a picture": "IMG", skill.lower(): None}
    for place, (name, summary) in enumerate(summaries.items()):
        cells = [summary[column] if column else summary["skills"][skill] for column in bars.values()]
        x = [index + (place - (len(summaries) - 1) / 2) * 0.26 for index in range(len(bars))]
        heights = [cell["accuracy"] for cell in cells]
        spread = [
            [cell["accuracy"] - cell["ci95"][0] for cell in cells],
            [cell["ci95"][1] - cell["accuracy"] for cell in cells],
        ]
        axes.bar(
            x,
            heights,
            0.24,
            yerr=spread,
            capsize=3,
            label=_with_unread(name, summary),
            color=("#9a9a9a", "#0072B2", "#E69F00")[place % 3],
        )
    axes.set_xticks(range(len(bars)), list(bars))
    axes.set(ylim=(0, 100), ylabel="accuracy %")
    axes.legend(frameon=False, fontsize=9, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _with_unread(name: str, summary: Mapping[str, Any]) -> str:
    return f"{name} ({summary['unread']:,} unread)" if summary["unread"] else name


def _choice(problem: Problem, answer: str) -> str:
    index = LETTERS.find(answer) if len(answer) == 1 else -1
    return problem.choices[index] if 0 <= index < len(problem.choices) else answer or "nothing"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
