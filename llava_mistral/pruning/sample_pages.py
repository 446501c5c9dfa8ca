"""Every sample of a selection in one page: by reason, in folded parts of a hundred, found by the browser's search."""

import base64
import html
from collections.abc import Mapping, Sequence

from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.measures import Selection
from llava_mistral.pruning.picture_signs import Sign
from llava_mistral.pruning.principles import Scores
from llava_mistral.pruning.selection_charts import spread
from llava_mistral.pruning.words import answer_of

PART = 100  # samples that are unfolded together
MOST_SHOWN = 10_000  # samples of a page; of more, as many evenly out of each reason
MOST_BYTES = 9_000_000  # of a page's samples: the pictures that do not fit are left out
QUESTION, ANSWER, ID = 240, 100, 60  # characters


def shown_by_reason(selection: Selection, problems: Sequence[Problem]) -> dict[str, list[int]]:
    """Return {reason: the samples that a page shows of it}, kept ones first."""
    extra = set(selection.for_coverage)
    reasons: dict[str, list[int]] = {"kept": [i for i in selection.picks if i not in extra]}
    if extra:
        reasons["kept for coverage only"] = list(selection.for_coverage)
    for i, reason in sorted(selection.dropped.items()):
        reasons.setdefault(reason, []).append(i)
    share = min(1.0, MOST_SHOWN / max(len(problems), 1))
    return {reason: spread(own, max(1, int(share * len(own)))) for reason, own in reasons.items() if own}


def sample_pages(
    problems: Sequence[Problem],
    scores: Sequence[Scores],
    shown: Mapping[str, Sequence[int]],
    counts: Mapping[str, int],
    signs: Mapping[int, Sign | None],
) -> str:
    """Return all samples as HTML: picture, question, answer, id and scores, by reason.

    Args:
        shown: {reason: samples}.
        counts: {reason: how many samples it has}, where they are more than are shown.
    """
    texts = {i: _text(problems[i], scores[i]) for own in shown.values() for i in own}
    room = MOST_BYTES - sum(len(text.encode()) for text in texts.values())
    parts = ["<h2>Every sample</h2>", "<p>Unfold a part, or search the page: browsers unfold what they find.</p>"]
    for reason, own in shown.items():
        total = counts.get(reason, len(own))
        some = f", {len(own):,} of them here, evenly chosen; manifest.json has all" if total > len(own) else ""
        parts.append(
            f"<details><summary><h3>{html.escape(reason)} ({total:,})</h3></summary><p>{total:,} samples{some}.</p>"
        )
        for start in range(0, len(own), PART):
            part = own[start : start + PART]
            parts.append(f"<details><summary>{start + 1:,} to {start + len(part):,}</summary><ul>")
            for i in part:
                picture = _picture(signs.get(i), room)
                room -= len(picture)
                parts.append(f"<li>{picture}{texts[i]}")
            parts.append("</ul></details>")
        parts.append("</details>")
    return "\n".join(parts)


def _picture(sign: Sign | None, room: int) -> str:
    if sign is None:
        return ""
    shown = f'<img alt="" src="data:image/webp;base64,{base64.b64encode(sign.thumbnail).decode()}">'
    return shown if len(shown) <= room else ""


def _text(problem: Problem, score: Scores) -> str:
    need = f" · image needed {score.necessity:.2f}" if problem.has_image else " · no image"
    question, answer = (
        short(text, most) for text, most in ((problem.question, QUESTION), (answer_of(problem), ANSWER))
    )
    return (
        f"<p>{html.escape(question)}<br><b>{html.escape(answer)}</b><br>"
        f"<small><bdi>{html.escape(short(problem.pid, ID))}</bdi>{need}</small></p>"
    )


def picture_problems(problems: Sequence[Problem], found: Mapping[str, Sequence[Sequence[int]]], looked: int) -> str:
    """Return what a look at the data found as HTML (`picture_signs.problems_of`); "" where it found nothing."""
    if not found:
        return ""
    parts = [
        f"<h2>What to look at in the data</h2><p>{looked:,} pictures were looked at; nothing was left out for it.</p>"
    ]
    for name, groups in found.items():
        count = sum(map(len, groups))
        groups_said = f" in {len(groups):,} groups" if len(groups) < count else ""
        parts.append(f"<details><summary>{html.escape(name)}: {count:,} samples{groups_said}</summary><ul>")
        for group in groups[:PART]:
            names = ", ".join(f"<bdi>{html.escape(short(problems[i].pid, ID))}</bdi>" for i in group[:PART])
            more = f" and {len(group) - PART:,} more" if len(group) > PART else ""
            answers = "; ".join(dict.fromkeys(short(answer_of(problems[i]), ANSWER) for i in group[:6]))
            parts.append(f"<li>{names}{more}<br><small>{html.escape(answers)}</small>")
        more = f"<li>and {len(groups) - PART:,} more" if len(groups) > PART else ""
        parts.append(f"{more}</ul></details>")
    return "\n".join(parts)


def short(text: str, length: int) -> str:
    """Return the text, cut to `length` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."
