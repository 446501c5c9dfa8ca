"""Collate rows into a batch whose prompts equal, token for token, those of inference."""

from collections.abc import Iterator
from typing import Any

import torch

from llava_mistral.data.turns import chat_of
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.batch_pictures import Pictures
from llava_mistral.training.trained_tokens import pad_alone


class AnswerCollator:
    """Word, tokenise and pad a batch; only the assistant's turns of a completion carry loss.

    TRL's own collator tokenises prompt and completion apart. With Mistral's tokenizer, which puts a space before
    whatever it is given, the answer's first token then differs from the one generation starts with. Here the whole
    conversation is tokenised once, as at inference, and where an answer begins is measured from the tokens of the
    turns before it. Nobody else's words inside a completion are learned, nor a turn with `loss` false or `weight` 0.

    Args:
        processor: a `LlavaMistralProcessor`; its chat template words the conversation.
        pictures: what becomes of the rows' pictures; by default they are preprocessed.

    Returns from a call: `input_ids`, `attention_mask`, `labels` `(rows, length)`, padded on the right; `labels` is
    -100 on all but answers. When any row has a picture, also what `Pictures` makes of them.

    Raises:
        BadInput: a row has no answer, or an empty one, its template words the prompt differently once the answer is
            known or does not write each picture once, or a padding token is in the answer.
    """

    def __init__(self, processor, pictures: Pictures | None = None):
        self.processor = processor
        self.pictures = pictures or Pictures(processor)
        self.image_token_id = processor.image_token_id
        self.pad_token_id = pad_alone(processor.tokenizer)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        texts = [self.word(row, answered=True) for row in rows]
        named = [(cell, row.get("id")) for row in rows for cell in row["images"] or ()]
        inputs, image_tokens = self.pictures([cell for cell, _ in named], [name for _, name in named])
        texts, _ = self.processor.get_text_with_replacements(texts, image_tokens)
        batch = self.processor.tokenizer(
            texts, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt"
        )
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        counts = iter([tokens.count(self.processor.image_token) for tokens in image_tokens])
        for index, row in enumerate(rows):
            ids = batch["input_ids"][index, : int(batch["attention_mask"][index].sum())]
            for start, end in self._answers(ids, row, [next(counts) for _ in row["images"] or ()]):
                batch["labels"][index, start:end] = ids[start:end]
        return {**batch, **inputs}

    def word(self, row: dict, answered: bool) -> str:
        """The row as text, one image token a picture; without its answers, what the model is asked with."""
        text = self._render(chat_of(row, answered=answered), row, asks=not answered)
        pictures = len(row["images"] or ())
        if answered and (count := text.count(self.processor.image_token)) != pictures:
            raise BadInput(
                f"the chat template writes {count} image tokens for {pictures} pictures",
                remedy="use a template that writes each picture once",
                record=row.get("id"),
                field="chat_template",
            )
        return text

    def _render(self, turns: list[dict], row: dict, asks: bool) -> str:
        try:
            return self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
        except ValueError as error:  # the template's own refusal, of a role or an order of turns
            remedy = "correct or drop it, or use another chat template"
            raise BadInput(str(error), remedy=remedy, record=row.get("id"), field="prompt") from None

    def _answers(self, ids: torch.Tensor, row: dict, image_tokens: list[int]) -> Iterator[tuple[int, int]]:
        """Start and end of each answer with loss among `ids`, `(length,)`, the row's tokens without padding.

        Args:
            image_tokens: how many tokens took the place of each picture.
        """
        turns = chat_of(row, answered=True)
        for place in learned_turns(row):
            start = self._length(ids, turns[:place], row, image_tokens, asks=True)
            goes_on = place + 1 < len(turns)
            end = self._length(ids, turns[: place + 1], row, image_tokens, asks=False) if goes_on else len(ids)
            if start >= end:
                raise BadInput("there is no answer to learn", remedy="give a completion", record=row.get("id"))
            if self.pad_token_id is not None and (ids[start:end] == self.pad_token_id).any():
                raise BadInput(
                    "a padding token would carry loss",
                    remedy="use a template, and an answer, that write no such token",
                    record=row.get("id"),
                    field="completion",
                )
            yield start, end

    def _length(self, ids: torch.Tensor, turns: list[dict], row: dict, image_tokens: list[int], asks: bool) -> int:
        """Tokens of the row's first turns, which must be those that they have by themselves."""
        text = self._render(turns, row, asks)
        alone = torch.tensor(self.processor.tokenizer(text, add_special_tokens=False).input_ids)
        pictures = int((alone == self.image_token_id).sum())
        length = len(alone) - pictures + sum(image_tokens[:pictures])
        given = ids[:length][ids[:length] != self.image_token_id]
        if not torch.equal(given, alone[alone != self.image_token_id]):
            raise BadInput(
                "the chat template words the prompt differently once the answer follows",
                remedy="use a template whose prompt is a prefix of the conversation",
                record=row.get("id"),
                field="chat_template",
            )
        return length


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
