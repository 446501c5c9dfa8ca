"""The figures of a study, `study.json`: every backbone and data selection, with intervals, tests and blind baselines.

No difference between backbones is tested: in a study whose text models are made once, the number of runs per backbone
is one, however many seeds train a projector on top.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import Problem
from llava_mistral.evaluation.comparison import Run, check_comparable, read_run
from llava_mistral.evaluation.scoring import UNREAD, score
from llava_mistral.evaluation.statistics import (
    FEWEST_SEEDS,
    LEVEL,
    Crossed,
    bounded_gap,
    bounded_mean,
    crossed_gap,
    crossed_mean,
    holm,
    judged,
    smallest_visible,
)
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json

MAIN, OF_QUESTIONS, TESTED = "IMG", ("ALL", "IMG", "NO"), ("IMG", "ALL")
SHOWN = (*OF_QUESTIONS, "skills")  # the mean over skills
CONTROL, DROPPED, DROPPED_FROM = "random", "question-dropped", "principles"
Key = tuple[str, str]
Means = Mapping[Key, Mapping[str, Crossed | None]]


def read_results(root: Path) -> dict[Key, list[Run]]:
    """Return {(backbone, data): runs in the order of their seeds} of `root/backbone/data/seed`.

    Raises:
        BadInput: there are no results below it, the seeds of two differ, or they are too few for an interval.
    """
    folders: dict[Key, list[Path]] = {}
    for file in sorted(root.glob("*/*/*/summary.json")):
        folders.setdefault(file.parts[-4:-2], []).append(file.parent)
    if not folders:
        raise BadInput("holds no results", remedy="give a folder of backbone/data/seed folders", file=root)
    seeds = {tuple(folder.name for folder in group) for group in folders.values()}
    if len(seeds) > 1:
        raise BadInput("not every model has the same seeds", remedy="evaluate the missing ones", file=root)
    if len(next(iter(seeds))) < FEWEST_SEEDS:
        problem = f"{len(next(iter(seeds)))} seeds are too few for an interval"
        raise BadInput(problem, remedy=f"give {FEWEST_SEEDS} or more of each", file=root)
    return {key: [read_run(folder) for folder in group] for key, group in sorted(folders.items())}


def planned(keys: Sequence[Key]) -> list[tuple[Key, Key]]:
    """Return the pairs that are asked about, decided before any result: (from, to).

    Each choice of data against the random one, and the dropped question against the same data with it.
    """
    pairs = []
    for backbone in dict.fromkeys(key[0] for key in keys):
        own = [data for name, data in keys if name == backbone]
        others = [data for data in own if data not in (CONTROL, DROPPED)]
        pairs += [((backbone, CONTROL), (backbone, data)) for data in others if CONTROL in own]
        if DROPPED in own and DROPPED_FROM in own:
            pairs.append(((backbone, DROPPED_FROM), (backbone, DROPPED)))
    return pairs


def study_results(root: str | Path, title: str) -> dict[str, Any]:
    """Return the contents of `study.json` from results folders: percentages, differences in points.

    Raises:
        BadInput: results are missing, are about different questions, or have too few seeds.
    """
    runs = read_results(Path(root))
    check_comparable({"/".join(key): group for key, group in runs.items()}, MAIN)
    means = {key: {column: _mean(group, column) for column in SHOWN} for key, group in runs.items()}

    def gap(first: Key, second: Key, column: str) -> Crossed:
        return crossed_gap(*(_answers(runs[key], column) for key in (first, second)))

    one = next(iter(runs.values()))[0]
    unread = {key: {c: _unread(group, c) for c in SHOWN} for key, group in runs.items()}
    facts = {
        "title": title,
        "answers_kept": True,
        "questions": {c: one.summary[c]["n"] for c in OF_QUESTIONS if one.summary.get(c)},
        "chance": {c: one.summary[c]["chance"] for c in OF_QUESTIONS if one.summary.get(c)},
        "question_hash": one.summary["question_hash"],
        "training": {"/".join(key): _training(group[0]) for key, group in runs.items()},
    }
    return _figures(facts, means, gap, unread)


def restated(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of `study.json` from an earlier one, whose accuracies by seed are all that was kept."""
    models = {tuple(name.split("/")): columns for name, columns in figures["models"].items()}
    means = {
        key: {
            c: bounded_mean([x / 100 for x in cell["seeds"]], cell["n"]) if cell else None for c, cell in own.items()
        }
        for key, own in models.items()
    }

    def gap(first: Key, second: Key, column: str) -> Crossed:
        sides = [[x / 100 for x in models[key][column]["seeds"]] for key in (first, second)]
        return bounded_gap(*sides, models[first][column]["n"])

    unread = {key: {c: cell.get("unread") if cell else None for c, cell in own.items()} for key, own in models.items()}
    facts = {name: value for name, value in figures.items() if name not in ("models", "pairs", "seeds")}
    return _figures(facts | {"answers_kept": False}, means, gap, unread)


def _figures(
    facts: Mapping[str, Any], means: Means, gap: Callable[[Key, Key, str], Crossed], unread: Mapping[Key, Mapping]
) -> dict[str, Any]:
    models: dict[str, dict[str, Any]] = {"/".join(key): {} for key in means}
    for column in SHOWN:
        known = {key: own[column] for key, own in means.items() if own.get(column)}
        for (key, one), found in zip(known.items(), judged(list(known.values())) if known else [], strict=True):
            models["/".join(key)][column] = {
                "accuracy": 100 * found.mean,
                "ci95": [100 * max(0.0, found.low), 100 * min(1.0, found.high)],
                "n": one.questions,
                "seeds": [100 * value for value in one.seeds],
                "unread": unread[key].get(column),
            }
    pairs = [(first, second, column) for column in TESTED for first, second in planned(list(means))]
    count = len(pairs)
    rows = []
    for column in TESTED:
        own = [pair for pair in pairs if pair[2] == column]
        gaps = [gap(*pair) for pair in own]
        estimates = judged(gaps, comparisons=count, differences=True) if gaps else []
        for (first, second, _), found in zip(own, estimates, strict=True):
            rows.append(
                {
                    "first": "/".join(first),
                    "second": "/".join(second),
                    "column": column,
                    "difference": 100 * found.mean,
                    "ci95": [100 * found.low, 100 * found.high],
                    "visible": 100 * smallest_visible(found, comparisons=count),
                    "p_value": found.p_value,
                }
            )
    for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row |= {"p_holm": p_value, "significant": p_value < 1 - LEVEL}
    return {**facts, "seeds": len(next(iter(means.values()))[MAIN].seeds), "models": models, "pairs": rows}


def _answers(runs: Sequence[Run], column: str) -> list[list[bool]]:
    return [[run.right[column][pid] for pid in runs[0].right[column]] for run in runs]


def _mean(runs: Sequence[Run], column: str) -> Crossed | None:
    if column != "skills":
        return crossed_mean(_answers(runs, column)) if runs[0].right.get(column) else None
    pids = list(runs[0].right["ALL"])
    place = {pid: index for index, pid in enumerate(pids)}
    skills = read_json(runs[0].folder / "predictions.json").get("skills")
    return (
        crossed_mean(_answers(runs, "ALL"), [[place[p] for p in own] for own in skills.values()]) if skills else None
    )


def _unread(runs: Sequence[Run], column: str) -> float | None:
    if column not in OF_QUESTIONS:
        return None
    counts = [(run.summary.get(column) or {}).get("unread") for run in runs]
    return None if None in counts else sum(counts) / len(counts)


def _training(run: Run) -> dict[str, Any] | None:
    """Return steps, samples and epochs of the checkpoint's last stage by its run.json, None where there is none."""
    record = Path(str(run.summary.get("model"))) / "run.json"
    if not record.is_file():
        return None
    facts = read_json(record)
    if not all(facts.get(name) for name in ("steps", "epochs", "data")):
        return None
    return {"rows": facts["data"]["rows"], "steps": facts["steps"], "epochs": facts["epochs"], "stage": facts["stage"]}


def majority_by_wording(train: Sequence[Problem], test: Sequence[Problem]) -> dict[str, int]:
    """Return {pid: the letter most often right in `train` for the same question} for each of `test`, without looking.

    A question that `train` does not ask takes the most frequent letter among as many choices. It is what can be
    learned without pictures and without reading the choices; chance takes letters to be evenly spread.
    """
    keys = (lambda problem: (problem.question, len(problem.choices)), lambda problem: len(problem.choices))
    counts: list[dict[Any, Counter]] = [{} for _ in keys]
    for problem in train:
        for known, key in zip(counts, keys, strict=True):
            known.setdefault(key(problem), Counter())[problem.answer] += 1
    found = {}
    for problem in test:
        seen = (known[key(problem)] for known, key in zip(counts, keys, strict=True) if key(problem) in known)
        found[problem.pid] = min(next(seen, Counter({0: 1})).items(), key=lambda item: (-item[1], item[0]))[0]
    return found


def floors(data: str | Path | None, blank: str | Path | None) -> list[dict[str, Any]]:
    """Return the accuracy of models that do not see the pictures: {"name", "columns"}.

    Args:
        data: a ScienceQA folder with training and test questions, for the majority by wording.
        blank: a results folder of `llava-mistral evaluate --images real blank`, for the answers to blank pictures.
    """
    from llava_mistral.data.scienceqa import read_problems

    found = []
    if data is not None:
        train, test = (read_problems(data, split=split) for split in ("train", "test"))
        cells = score(test, majority_by_wording(train, test))
        found.append({"name": "most frequent letter for the same wording in training, no picture", "columns": cells})
    if blank is not None:
        summary, answers = (read_json(Path(blank) / "blank" / f"{name}.json") for name in ("summary", "predictions"))
        name = "blank pictures, one fine-tuned checkpoint"
        found.append({"name": f"{name}, by likelihood", "columns": summary["likelihood"]})
        unread = {
            column: sum(answers["results"][pid] in (None, UNREAD) for pid in pids)
            for column, pids in answers["columns"].items()
        }
        cells = {c: summary[c] and summary[c] | {"unread": unread[c]} for c in unread}
        found.append({"name": f"{name}, as generated", "columns": cells})
    return [{"name": one["name"], "columns": {c: one["columns"].get(c) for c in OF_QUESTIONS}} for one in found]
