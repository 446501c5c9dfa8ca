"""Rows become a batch whose prompt is, token for token, the one the model will meet when it is asked."""

import torch

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.batch_pictures import Pictures
from llava_mistral.training.trained_tokens import pad_alone


class AnswerCollator:
    """Word, tokenise and pad a batch; only the answer's tokens carry loss.

    TRL's own collator tokenises prompt and completion apart. With Mistral's tokenizer, which puts a space before
    whatever it is given, the answer's first token then differs from the one generation starts with. Here the whole
    conversation is tokenised once, as at inference, and the prompt's length is measured from its own tokens.

    Args:
        processor: a `LlavaMistralProcessor`; its chat template words the conversation.
        pictures: what becomes of the rows' pictures; by default they are preprocessed.

    Returns from a call: `input_ids`, `attention_mask`, `labels` `(rows, length)`, padded on the right; `labels` is
    -100 on prompt, image and padding tokens. When any row has a picture, also what `Pictures` makes of them.

    Raises:
        BadInput: a row has no answer, its template words the prompt differently once the answer is known or does not
            write each picture once, or a padding token is in the answer.
    """

    def __init__(self, processor, pictures: Pictures | None = None):
        self.processor = processor
        self.pictures = pictures or Pictures(processor)
        self.image_token_id = processor.image_token_id
        self.pad_token_id = pad_alone(processor.tokenizer)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        prompts = [self.word(row, answered=False) for row in rows]
        texts = [self.word(row, answered=True) for row in rows]
        named = [(cell, row.get("id")) for row in rows for cell in row["images"]]
        inputs, image_tokens = self.pictures([cell for cell, _ in named], [name for _, name in named])
        texts, _ = self.processor.get_text_with_replacements(texts, image_tokens)
        batch = self.processor.tokenizer(
            texts, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt"
        )
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        for index, row in enumerate(rows):
            self._label(batch, index, row, prompts[index])
        return {**batch, **inputs}

    def word(self, row: dict, answered: bool) -> str:
        """The row as text, one image token a picture; without its answer, what the model is asked with."""
        first, *rest = row["prompt"]
        pictures = [{"type": "image"} for _ in row["images"]]
        turns = [{"role": first["role"], "content": [*pictures, {"type": "text", "text": first["content"]}]}, *rest]
        turns += row["completion"] if answered else []
        text = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answered)
        if (count := text.count(self.processor.image_token)) != len(pictures):
            raise BadInput(
                f"the chat template writes {count} image tokens for {len(pictures)} pictures",
                remedy="use a template that writes each picture once",
                record=row.get("id"),
                field="chat_template",
            )
        return text

    def _label(self, batch, index: int, row: dict, prompt: str) -> None:
        length = int(batch["attention_mask"][index].sum())
        ids = batch["input_ids"][index, :length]
        prompt_ids = torch.tensor(self.processor.tokenizer(prompt, add_special_tokens=False).input_ids)
        grown = int((ids == self.image_token_id).sum() - (prompt_ids == self.image_token_id).sum())
        start = len(prompt_ids) + grown
        given = ids[:start][ids[:start] != self.image_token_id]
        if not torch.equal(given, prompt_ids[prompt_ids != self.image_token_id]):
            raise BadInput(
                "the chat template words the prompt differently once the answer follows",
                remedy="use a template whose prompt is a prefix of the conversation",
                record=row.get("id"),
                field="chat_template",
            )
        if start >= length:
            raise BadInput("there is no answer to learn", remedy="give a completion", record=row.get("id"))
        # An image token after the answer's first word has been refused above: the prompt would seem longer than it is.
        if self.pad_token_id is not None and (ids[start:] == self.pad_token_id).any():
            raise BadInput(
                "a padding token would carry loss",
                remedy="use a template, and an answer, that write no such token",
                record=row.get("id"),
                field="completion",
            )
        batch["labels"][index, start:length] = ids[start:]
