"""Which turns of a training row carry loss."""

from typing import Any

from llava_mistral.ground.bad_input import BadInput


def learned_turns(row: dict[str, Any]) -> list[int]:
    """Which turns of `prompt` and `completion`, counted through both, carry loss: the assistant's in the completion.

    A turn with `loss` false or `weight` 0 is not learned.

    Raises:
        BadInput: there is none, one is empty, or a weight is neither 0 nor 1.
    """
    record, learned = row.get("id"), []
    for place, turn in enumerate(row["completion"], len(row["prompt"])):
        weight = turn.get("weight")
        if weight not in (None, 0, 1):
            remedy = "give 0 for a turn that is not learned, or 1"
            raise BadInput(
                f"weight {weight} of a turn cannot be used", remedy=remedy, record=record, field="completion"
            )
        if turn["role"] != "assistant" or weight == 0 or turn.get("loss") is False:
            continue
        if not _text(turn["content"]).strip():
            problem, remedy = "an answer is empty", "give its words, or mark it with loss: false"
            raise BadInput(problem, remedy=remedy, record=record, field="completion")
        learned.append(place)
    if not learned:
        remedy = "give a completion with an assistant's turn that is learned"
        raise BadInput("there is no answer to learn", remedy=remedy, record=record, field="completion")
    return learned


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""
