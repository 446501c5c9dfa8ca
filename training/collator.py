"""Rows become a batch whose prompt is, token for token, the one the model will meet when it is asked."""

import torch

from bad_input import BadInput
from training.pictures import Pictures


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
        BadInput: a row has no answer, or its template words the prompt differently once the answer is known.
    """

    def __init__(self, processor, pictures: Pictures | None = None):
        self.processor = processor
        self.pictures = pictures or Pictures(processor)
        self.image_token_id = processor.image_token_id
        self.tokens = {"prompt": 0, "answer": 0, "padding": 0, "longest": 0}  # longest: of a row, unpadded

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        prompts = [self._word(row, answered=False) for row in rows]
        texts = [self._word(row, answered=True) for row in rows]
        inputs, image_tokens = self.pictures([picture for row in rows for picture in row["images"]])
        texts, _ = self.processor.get_text_with_replacements(texts, image_tokens)
        batch = self.processor.tokenizer(
            texts, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt"
        )
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        for index, row in enumerate(rows):
            self._label(batch, index, row, prompts[index])
        return {**batch, **inputs}

    def _word(self, row: dict, answered: bool) -> str:
        first, *rest = row["prompt"]
        pictures = [{"type": "image"} for _ in row["images"]]
        turns = [{"role": first["role"], "content": [*pictures, {"type": "text", "text": first["content"]}]}, *rest]
        turns += row["completion"] if answered else []
        return self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answered)

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
        batch["labels"][index, start:length] = ids[start:]
        self.tokens["prompt"] += start
        self.tokens["answer"] += length - start
        self.tokens["padding"] += batch["input_ids"].shape[1] - length
        self.tokens["longest"] = max(self.tokens["longest"], length)
