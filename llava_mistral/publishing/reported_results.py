"""Evaluation summaries (`summary.json`) as a model's card shows them: tables with intervals, and the model-index."""

from llava_mistral.data.scienceqa import COLUMNS
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.escaping import markdown, one_line
from llava_mistral.publishing.cards import UNKNOWN, is_hub_id
from llava_mistral.publishing.scanning import plain_name


def checked_summary(summary: dict) -> dict:
    """The summary, once it has what every card shows of it.

    Raises:
        BadInput: it lacks the overall accuracy.
    """
    overall = summary.get("ALL")
    if not (isinstance(overall, dict) and isinstance(overall.get("accuracy"), int | float) and "n" in overall):
        raise BadInput(
            "the evaluation summary has no ALL.accuracy and ALL.n",
            remedy="give a summary.json written by llava-mistral evaluate",
            field="results",
        )
    return summary


def result_table(summary: dict) -> dict:
    """What the template shows of one evaluation."""
    columns = [column for column in COLUMNS if summary.get(column, False) is None or _is_cell(summary.get(column))]
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    cells = [summary[column] for column in columns]
    label = "accuracy" if summary.get("match") in (None, "exact") else _metric_label(str(summary["match"]))
    lines.append(f"| {label} | " + " | ".join("–" if c is None else f"{c['accuracy']:.2f}" for c in cells) + " |")
    lines.append("| interval | " + " | ".join("–" if c is None else _interval(c) for c in cells) + " |")
    lines.append("| questions | " + " | ".join("–" if c is None else f"{c['n']:,}" for c in cells) + " |")
    variant = ", blank pictures" if summary.get("images") == "blank" else ""
    dataset, split = plain_name(str(summary.get("dataset") or UNKNOWN)), summary.get("split") or UNKNOWN
    return {
        "title": f"**{markdown(dataset)}, {markdown(split)} split{variant}**",
        "table": "\n".join(lines),
        "interval": "95 % confidence intervals" if any(c and c.get("ci95") for c in cells) else "no intervals known",
        "unread": summary["unread"] if isinstance(summary.get("unread"), int) else None,
        "scoring": summary.get("scoring") if isinstance(summary.get("scoring"), str) else None,
        "question_hash": summary["question_hash"] if isinstance(summary.get("question_hash"), str) else None,
    }


def _is_cell(cell: object) -> bool:
    numbers = [cell.get("accuracy"), cell.get("n")] if isinstance(cell, dict) else [None]
    return all(isinstance(number, int | float) for number in numbers)


def _metric_label(match: str) -> str:
    return "mean token F1" if match == "f1" else markdown(f"accuracy ({match.split(':')[0].replace('_', ' ')} match)")


def _interval(cell: dict) -> str:
    ends = cell.get("ci95")
    known = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    return f"{ends[0]:.1f}–{ends[1]:.1f}" if known else UNKNOWN


def eval_results(summary: dict) -> list:
    """The evaluation as rows of the front matter's model-index."""
    from huggingface_hub import EvalResult

    if summary.get("images") == "blank":  # the control without pictures is no result to be ranked by
        return []
    dataset = one_line(summary.get("dataset") or UNKNOWN)
    lettered = not summary.get("match")  # answers in words name the rule by which they were judged
    kind = "multiple-choice questions" if lettered else "questions with answers in words"
    metric = "f1" if summary.get("match") == "f1" else "accuracy"
    judged = "" if lettered else f", match: {one_line(summary['match']).split(':')[0]}"
    return [
        EvalResult(
            task_type="image-text-to-text",
            task_name=f"{kind} about pictures",
            dataset_type=dataset if is_hub_id(dataset) else plain_name(dataset).lower(),
            dataset_name=plain_name(dataset),
            dataset_split=summary.get("split") and one_line(summary["split"]),
            metric_type=metric,
            metric_name=f"{metric}, {column}{judged}",
            metric_value=round(float(summary[column]["accuracy"]), 2),
        )
        for column in COLUMNS
        if _is_cell(summary.get(column))
    ]
