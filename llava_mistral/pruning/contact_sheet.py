"""Contact sheet of kept and pruned samples, each with picture, question and reason: as HTML and as one picture."""

import base64
import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from llava_mistral.data.scienceqa import Problem
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import open_picture
from llava_mistral.pruning.coverage import skill_of
from llava_mistral.pruning.measures import Selection
from llava_mistral.pruning.principles import Scores
from llava_mistral.pruning.sample_pages import short
from llava_mistral.pruning.selection_charts import spread
from llava_mistral.pruning.words import answer_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava_mistral.pruning.samples import Samples

SHOWN, THUMBNAIL = 12, 160  # samples on each side; pixels
Shown = tuple[list[int], list[int]]  # kept, pruned


def shown_of(problems: Sequence[Problem], selection: Selection, most: int = SHOWN) -> Shown:
    """Return indices for both sides: evenly through the picks, and through each reason's samples."""
    by_reason: dict[str, list[int]] = {}
    for i, reason in sorted(selection.dropped.items()):
        by_reason.setdefault(reason, []).append(i)
    pictured = [reason for reason in by_reason if any(problems[i].has_image for i in by_reason[reason])]
    reasons = pictured or [*by_reason]
    pruned = [i for reason in reasons for i in spread(by_reason[reason], -(-most // len(reasons)))]
    return spread(selection.picks, most), pruned[:most]


def thumbnails(samples: "Samples", indices: Sequence[int]) -> dict[int, "Image"]:
    """Return {index: small picture} of those of the samples that have one, where the pictures are at hand."""
    if not samples.pictures:
        return {}
    found = {}
    indices = sorted(set(indices))
    for i, cells in zip(indices, samples.cells(indices), strict=True):
        with suppress(BadInput):  # of a dropped sample, which `picture_signs` names
            if cells:
                found[i] = open_picture(cells[0], file=samples.source, record=samples.problems[i].pid)
                found[i].thumbnail((THUMBNAIL, THUMBNAIL))
    return found


def reason_of(selection: Selection, i: int) -> str:
    """Return why the sample was kept or dropped."""
    if i in selection.dropped:
        return selection.dropped[i]
    return "kept for coverage only" if i in set(selection.for_coverage) else "kept"


def sheet(
    problems: Sequence[Problem],
    selection: Selection,
    scores: Sequence[Scores],
    shown: Shown,
    pictures: Mapping[int, "Image"],
) -> str:
    """Return the two columns as HTML."""
    sides = (
        "".join(_card(problems[i], pictures.get(i), reason_of(selection, i), scores[i]) for i in side)
        for side in shown
    )
    return f'<div class="sheet">{"".join(f"<div>{side}</div>" for side in sides)}</div>'


def _card(problem: Problem, picture: "Image | None", why: str, score: Scores) -> str:
    answer = html.escape(short(answer_of(problem), 160))
    shown = "no picture at hand" if problem.has_image else "no picture"
    if picture is not None:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        data, name = base64.b64encode(buffer.getvalue()).decode(), html.escape(short(problem.pid, 60))
        shown = f'<img alt="the picture of {name}" src="data:image/png;base64,{data}">'
    need = f"image needed {score.necessity:.2f} ({score.why})" if problem.has_image else "no image"
    numbers = html.escape(f"{need}, difficulty {score.difficulty:.2f}")
    question = html.escape(short(problem.question, 220))
    skill = html.escape(short(skill_of(problem) or "no skill", 120))
    return (
        f'<div class="card"><div class="picture why">{shown}</div><div><p>{question}</p><p><b>{answer}</b></p>'
        f'<p class="why"><b>{html.escape(why)}</b><br>{numbers}; <bdi>{skill}</bdi> · '
        f"id <bdi>{html.escape(short(problem.pid, 60))}</bdi></p></div></div>"
    )


def sheet_picture(
    problems: Sequence[Problem], selection: Selection, shown: Shown, pictures: Mapping[int, "Image"]
) -> "Image":
    """The sheet as one picture: kept samples in the left half, pruned ones in the right."""
    from PIL import Image, ImageDraw, ImageOps

    width, height, columns = THUMBNAIL + 16, THUMBNAIL // 2 + 92, 3
    rows = -(-max(map(len, shown)) // columns)
    sheet = Image.new("RGB", (2 * columns * width + 48, rows * height + 40), "white")
    pen = ImageDraw.Draw(sheet)
    for half, (title, indices) in enumerate(zip(("kept", "pruned"), shown, strict=True)):
        left = 12 + half * (columns * width + 24)
        pen.text((left, 8), _lines(f"{selection.name}: {title}", 1, 60), fill="black", font_size=16)
        for place, i in enumerate(indices):
            x, y = left + place % columns * width, 36 + place // columns * height
            if i in pictures:
                sheet.paste(ImageOps.contain(pictures[i], (THUMBNAIL, THUMBNAIL // 2)), (x, y))
            question, reason = _lines(problems[i].question, 2), _lines(reason_of(selection, i), 2)
            pen.multiline_text((x, y + THUMBNAIL // 2 + 4), question, fill="#222")
            pen.multiline_text((x, y + THUMBNAIL // 2 + 36), reason, fill="#888")
    return sheet


def _lines(text: str, most: int, width: int = 27) -> str:
    words = " ".join(text.split()).encode("ascii", "replace").decode()  # what the built-in font can draw
    return "\n".join(textwrap.wrap(words, width, max_lines=most, placeholder=" ..."))
