"""Fields of a record that its form does not read: they are reported, and refused where they are content.

A record that has two forms, such as `messages` and `question` with `answer`, must say the same in both.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mistral.data.columns import KNOWN, METADATA, UNUSED
from llava_mistral.data.picture_cells import unused_pictures
from llava_mistral.data.problem import LETTERS, answered_problem, question_text
from llava_mistral.ground.bad_input import BadInput

Wrong = Callable[..., BadInput]  # (problem, remedy, field=…)

NAMES = ("id", "pid", "__key__")
_BESIDE = {*NAMES, "__url__", "image", "images", *METADATA, "loss", "weight", "image_needed"}
_READ = {
    "trl": {"prompt", "completion", "tools"},
    "messages": {"messages", "tools"},
    "conversations": {"conversations", "tools"},
    "choices": {"question", "choices", "answer", "hint", "lecture", "solution"},
    "words": {"question", "answer", "hint"},
    "captions": {"answer"},
}
# Names of what belongs to a sample, by our own name for it; "" where we have none. In small letters.
_CONTENT = {
    "hint": ("hint", "context", "passage", "background", "paragraph", "article", "document", "documents", "story"),
    "choices": ("choices", "options", "candidates", "multiple_choices", "answer_choices"),
    "solution": ("solution", "lecture", "explanation", "explanations", "rationale", "rationales", "reasoning", "cot")
    + ("chain_of_thought", "thought", "thoughts", "thinking"),
    "question": ("question", "prompt", "instruction", "input", "query"),
    "answer": ("answer", "completion", "output", "response"),
    "messages": ("messages", "conversations", "conversation", "dialog", "dialogue", "history"),
    "": ("system", "system_prompt", "tools", "functions", "chosen", "rejected", "rejected_answer")
    + ("rejected_response", "video", "videos", "audio", "audios")
    + ("train", "trainable", "loss_mask", "learn"),
}
_MEANT = {name: ours for ours, names in _CONTENT.items() for name in names}
_WORDS = {"0": 0, "1": 1, "false": False, "true": True}
_SPEAKERS = {"human": "user", "gpt": "assistant"}


def unused_fields(record: Mapping[str, Any], form: str, row: Mapping[str, Any], wrong: Wrong) -> list[str]:
    """Return the non-empty fields of a record that its row does not use.

    Args:
        form: of `records.FORMS`.
        row: {"prompt", "completion"}: all turns of the record.

    Raises:
        BadInput: one of them is content of the sample, and the row does not say the same.
    """
    left = [key for key in record if key not in _READ[form] | _BESIDE and not is_empty(record[key])]
    if not left:
        return []
    turns = [(turn["role"], _plain(turn["content"])) for turn in (*row["prompt"], *row["completion"])]
    if form in ("words", "captions") and all(isinstance(record.get(letter), str | int) for letter in "AB"):
        remedy = f"give them as a list in choices, or leave them out with --columns {UNUSED}=A+B"
        raise wrong("holds a choice and is not used", remedy, field="A")  # a column a choice, as MMBench has it
    used = {"question", "choices", "answer", "hint", "lecture", "solution"} if _holds_problem(record, turns) else set()
    for key in left:
        ours = _MEANT.get(str(key).lower())
        if ours is None or key in used or _in_turns(record[key], turns):
            continue
        if any(record[key] == record.get(other) for other in _READ[form]):
            continue
        what = "choices" if ours == "choices" else "content of the sample"
        problem = f"holds {what} and is not used"
        if any(key in fields for fields in _READ.values()) and form in ("trl", "messages", "conversations"):
            problem = f"says something else than {'prompt and completion' if form == 'trl' else form}"
        raise wrong(problem, f"{_remedy(key, ours, form)} --columns {UNUSED}={key}", field=key)
    return [str(key) for key in left if key not in used and str(key).lower() not in _MEANT]


def record_beside(
    record: Mapping[str, Any], form: str, row: Mapping[str, Any], given: Sequence[str], file: Path, pid: str
) -> list[str]:
    """Return `unused_fields` of a record of a file of questions; refuse other pictures than those `given`, too.

    Raises:
        BadInput: as `unused_fields`; another field carries pictures; the record is marked not to be learned.
    """

    def wrong(problem: str, remedy: str, *, field: str) -> BadInput:
        return BadInput(problem, remedy=remedy, file=file, record=pid, field=field)

    key = unused_pictures(record, set(KNOWN) - {"images"}, given, folders=())
    if key is not None:
        remedy = f"name the one picture in image, or leave it out with --columns {UNUSED}={key}"
        raise wrong("carries pictures and is not used", remedy, field=key)
    if not is_learned(record, wrong):
        raise wrong("marks the record as not learned", "drop the record", field="weight")
    return unused_fields(record, form, row, wrong)


def _remedy(key: str, ours: str, form: str) -> str:
    asked = {"choices": {"hint", "solution"}, "words": {"hint", "choices"}, "captions": {"question", "choices"}}
    if ours in asked.get(form, ()) and key != ours:
        return f"map it with --columns {ours}={key}, or leave it out with"
    whole = form in ("trl", "messages", "conversations")
    return f"put it into the {'conversation' if whole else 'question or the answer'}, or leave it out with"


def is_learned(record: Mapping[str, Any], wrong: Wrong) -> bool:
    """Whether a record is to be learned at all, by its own `loss` or `weight` of 0 or 1.

    Raises:
        BadInput: it is neither.
    """
    for key in ("loss", "weight"):
        given = _WORDS.get(str(record.get(key)).lower(), record.get(key))  # a CSV file has words only
        if given is not None and (not isinstance(given, int | float) or given not in (0, 1)):
            remedy = f"give 1 (learned) or 0 (not learned), or leave it out with --columns {UNUSED}={key}"
            raise wrong(f"is {str(given)[:20]!r}", remedy, field=key)
        if given is not None and not given:
            return False
    return True


def is_empty(value: Any) -> bool:
    """Whether a field holds nothing: null, NaN, blanks, an empty list, or a list or an object of such."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}")
    if isinstance(value, Mapping):
        return all(is_empty(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(is_empty(part) for part in value)
    return value is None or value != value


def _plain(text: str) -> str:
    """Return a text without the places of pictures, blanks reduced."""
    return re.sub(r"(?:<image>|\s)+", " ", text).strip()


def _in_turns(value: Any, turns: Sequence[tuple[str, str]]) -> bool:
    """Whether all text of a field stands in the turns, from the same speakers where the field names them."""
    if isinstance(value, Mapping):
        role, text = value.get("role", value.get("from")), value.get("content", value.get("value"))
        if isinstance(text, list | tuple):
            text = "".join(str(part.get("text") or "") for part in text if isinstance(part, Mapping))
        return isinstance(text, str) and (_SPEAKERS.get(role, role), _plain(text)) in turns
    if isinstance(value, list | tuple):
        return all(_in_turns(part, turns) for part in value)
    return _plain(str(value)) in [text for _, text in turns]


def _holds_problem(record: Mapping[str, Any], turns: Sequence[tuple[str, str]]) -> bool:
    """Whether the turns ask and answer the question with choices that a record holds, too, as a pruned set's do."""
    try:
        problem = answered_problem(record, "", None, Path())
    except BadInput:
        return False
    if problem.answer is None or len(turns) < 2:
        return False
    letter, (_, answer) = LETTERS[problem.answer], turns[-1]
    return turns[-2] == ("user", _plain(question_text(problem))) and (
        answer == letter or answer.endswith(f"The answer is {letter}.")
    )
