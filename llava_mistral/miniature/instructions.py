"""DigitsQA as instructions: open answers, two-turn chats and descriptions beside lettered questions.

Every problem gives two rows, `{pid}` by letter and `{pid}-open` without choices. Of the open ones of train, some ask
what is in the picture and some go on from an earlier question; those of val and test are the plain question. The rows
carry the problem's labels, with a skill of their own, so that a selection that is even by skill is even over both.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.columns import METADATA
from llava_mistral.data.conversations import PROBLEM
from llava_mistral.data.problem import INSTRUCTION, LETTERS, with_context
from llava_mistral.miniature.digitsqa_questions import Draft

if TYPE_CHECKING:
    from PIL.Image import Image

OPEN = "open answer"
DESCRIBE = ("What is in this picture?", "Describe the picture.", "What does the picture show?")
Turn = tuple[str, str]


def lettered(draft: Draft) -> Turn:
    """The question with its choices, worded as `data.scienceqa.question_text` does, and the letter of the answer."""
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, draft.choices, strict=False)]
    return "\n".join([question_text(draft), *choices, INSTRUCTION]), LETTERS[draft.choices.index(draft.answer)]


def question_text(draft: Draft) -> str:
    """The question without its choices, after its context where there is one."""
    return with_context(draft.hint, draft.question)


def open_turns(rng: random.Random, draft: Draft, words: str | None) -> tuple[str, list[Turn]]:
    """What an open row asks and answers, `(kind, turns)`: answer, description or chat.

    Args:
        words: what is in the picture; None without one.
    """
    kind, plain = rng.random(), (question_text(draft), draft.answer)
    if words is None or kind < 0.5:
        return "answer", [plain]
    describe = (rng.choice(DESCRIBE), words)
    if kind < 0.7:
        return "description", [describe]
    if len(draft.digits) == 1 and rng.random() < 0.5:
        digit = draft.digits[0]
        follow = ("Is it even or odd?", ("even", "odd")[digit % 2]), ("Is it a digit?", "yes")
        return "chat", [("Which digit is written?", str(digit)), rng.choice(follow)]
    return "chat", [describe, plain]


def instruction_rows(
    rng: random.Random, pid: str, problem: dict, draft: Draft, picture: "tuple[Image, str] | None", folder: Path
) -> list[dict[str, Any]]:
    """The two training rows of a problem; pictures are named by their path below `folder`."""
    words = picture and picture[1]
    kind, turns = (
        open_turns(rng, draft, words)
        if problem["split"] == "train"
        else ("answer", [(question_text(draft), draft.answer)])
    )
    labels = {name: problem[name] for name in METADATA}
    image = folder / "images" / problem["split"] / pid / "image.png"
    skill = {
        "answer": f"{problem['skill']}, open",
        "description": "Describe a picture",
        "chat": "Talk about a picture",
    }
    found = (
        (pid, [lettered(draft)], labels | {name: problem[name] for name in PROBLEM}),
        (f"{pid}-open", turns, labels | {"task": OPEN, "skill": skill[kind]}),
    )
    return [_row(name, turns, [str(image)] * (picture is not None), row_labels) for name, turns, row_labels in found]


def _row(name: str, turns: list[Turn], images: list[str], labels: dict) -> dict[str, Any]:
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    fields = dict.fromkeys(PROBLEM) | labels
    return {"id": name, "images": images, "prompt": messages[:-1], "completion": messages[-1:], **fields}


def write_instructions(rows: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Write one parquet file per split below `folder`/data, the pictures inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llava_mistral.data.conversations import row_features

    (folder / "data").mkdir(parents=True)
    schema = row_features((*METADATA, *PROBLEM)).arrow_schema
    for split, found in rows.items():
        cells = [[{"bytes": Path(name).read_bytes(), "path": None} for name in row["images"]] for row in found]
        table = pa.Table.from_pylist(
            [row | {"images": images} for row, images in zip(found, cells, strict=True)], schema=schema
        )
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet", row_group_size=100)
