"""LLaVA's CQM-A form of ScienceQA (`llava_test_CQM-A.json`): one text with context, question and choices; a letter."""

import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.columns import renamed_record
from llava_mistral.data.picture_cells import listed
from llava_mistral.data.problem import INSTRUCTION
from llava_mistral.data.turns import IMAGE_TOKEN
from llava_mistral.data.unused_fields import record_beside
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder


def read_cqm(
    path: Path, records: list[Any], columns: Mapping[str, str] | None = None, bad: BadSamples | None = None
) -> list[dict[str, Any]]:
    """Return the fields that each record tells: pid, question, choices, answer, hint, images, split.

    The records' keys are mapped by `columns`. Subject and grade are not in the file. Its name tells the split; the
    pictures are looked for in `images/{split}/`, where there is such a folder.

    Raises:
        BadInput: a record is not in this form, an id comes twice, or a picture is absent from the folder.
    """
    named = re.match(r"llava_(train|val|test)_", path.name)
    split = named[1] if named else None
    folder = PictureFolder(path.parent / "images" / (split or ""))
    problems: dict[str, dict[str, Any]] = {}
    unused: dict[str, None] = {}
    for index, record in enumerate(records):
        record = renamed_record(record, columns or {}, path)
        fields = _fields(record, index, path)
        pid = fields["pid"]
        place: dict[str, Any] = {"file": path, "record": pid}
        if pid in problems:
            raise BadInput("occurs twice", remedy="keep one of the two", file=path, record=pid, field="id")
        given, row = listed(record.get("image") or []), fields.pop("row")
        if not all(isinstance(name, str) for name in given):
            raise BadInput("is not a path", remedy="name the pictures in image", **place, field="image")
        tokens = row["prompt"][0]["content"].count(IMAGE_TOKEN)
        if len(given) > 1 and tokens != len(given):
            problem = f"has {tokens} {IMAGE_TOKEN} tokens and {len(given)} pictures"
            raise BadInput(problem, remedy="make tokens and pictures agree", **place, field="conversations")
        unused |= dict.fromkeys(record_beside(record, "conversations", row, given, path, pid))
        at_hand = folder.root.is_dir()
        images = [folder.find(name, file=path, record=pid) if at_hand else None for name in given]
        fields |= {"image": images[0] if images else None, "more_images": tuple(images[1:])}
        problems[pid] = {**fields, "has_image": bool(given), "split": split}
    if bad is not None:
        bad.notice_unused(unused, path)
    return list(problems.values())


def _fields(record: Any, index: int, file: Path) -> dict[str, Any]:
    def wrong(problem: str) -> BadInput:
        remedy = "use a file in LLaVA's CQM-A form (question, lettered choices; the letter as the answer)"
        return BadInput(problem, remedy=remedy, file=file, record=index, field="conversations")

    try:
        pid, (human, gpt) = record["id"], [turn["value"] for turn in record["conversations"]]
    except (KeyError, TypeError, ValueError) as error:
        raise wrong("is not an object with an id and one question and answer") from error
    if not all(isinstance(text, str) for text in (pid, human, gpt)):
        raise wrong("id, question and answer are not all text")
    asked = re.sub(rf"^({IMAGE_TOKEN}\n)+", "", human)
    lines = asked.removesuffix(f"\n{INSTRUCTION}").split("\n")  # as a pruned set's JSON has it
    start = max((i for i, line in enumerate(lines) if line.startswith("A. ")), default=0)
    if start == 0:
        raise wrong('has no question followed by lettered choices ("A. …")')
    choices = _lettered(lines[start:])
    letters = list(string.ascii_uppercase[: len(choices)])
    if len(choices) < 2 or gpt not in letters:
        raise wrong(f"answer {gpt[:20]!r} is not the letter of one of its {len(choices)} choices")
    hint, question = _split_context(lines[:start])
    fields = {"pid": pid, "question": question, "choices": choices, "answer": letters.index(gpt), "hint": hint}
    row = {"prompt": [{"role": "user", "content": human}], "completion": [{"role": "assistant", "content": gpt}]}
    return fields | {"row": row}


def _split_context(lines: list[str]) -> tuple[str, str]:
    """Return (hint, question): the file does not mark where a hint ends, so its last line counts as the question."""
    if not lines[0].startswith("Context: ") or len(lines) == 1:
        return "", "\n".join(lines)
    return "\n".join(lines[:-1]).removeprefix("Context: "), lines[-1]


def _lettered(lines: list[str]) -> tuple[str, ...]:
    """Return the choices of lines "A. …", "B. …"; a line without the next letter goes on with the choice before it."""
    choices: list[str] = []
    for line in lines:
        if len(choices) < 26 and line.startswith(f"{string.ascii_uppercase[len(choices)]}. "):
            choices.append(line[3:])
        else:
            choices[-1] += f"\n{line}"
    return tuple(choices)
