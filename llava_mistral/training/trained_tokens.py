"""Token counts of a run, taken from the batches that the model received."""

import torch


def pad_alone(tokenizer) -> int | None:
    """The id of padding, or None where it is another token's, too: as the end of an answer it does carry loss."""
    special = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    return None if tokenizer.pad_token_id in special else tokenizer.pad_token_id


class TrainedTokens:
    """Counts of the batches of a run, kept where the batches are, so that counting waits for no device.

    A collator could count, too, but its copies in the workers of a data loader would, and theirs are lost.

    Args:
        image_token_id: which must never carry loss.
        pad_token_id: which must never carry loss, either; None where there is none, see `pad_alone`.
    """

    SUMS = ("samples", "prompt", "answer", "padding", "image_with_loss", "padding_with_loss")

    def __init__(self, image_token_id: int, pad_token_id: int | None):
        self.image_token_id, self.pad_token_id = image_token_id, pad_token_id
        self.sums = self.longest = self.fewest = None

    def count(self, batch: dict) -> None:
        """Add a batch, padded (`attention_mask`) or packed (`cu_seq_lens_q`)."""
        ids, labels = batch["input_ids"], batch["labels"]
        learned = labels != -100
        if "cu_seq_lens_q" in batch:
            borders = batch["cu_seq_lens_q"].long()
            lengths, total = borders.diff(), ids.numel()
            answers = torch.nn.functional.pad(learned.flatten().cumsum(0), (1, 0))[borders].diff()
        else:
            lengths, total = batch["attention_mask"].sum(1), ids.numel()
            answers = learned.sum(1)
        padding, answer = total - lengths.sum(), answers.sum()
        pads = (learned & (ids == self.pad_token_id)).sum() if self.pad_token_id is not None else padding * 0
        images = (learned & (ids == self.image_token_id)).sum()
        samples = lengths.new_tensor(len(lengths))
        sums = torch.stack([samples, lengths.sum() - answer, answer, padding, images, pads])
        self.sums = sums if self.sums is None else self.sums + sums
        self.longest = lengths.max() if self.longest is None else torch.maximum(self.longest, lengths.max())
        self.fewest = answers.min() if self.fewest is None else torch.minimum(self.fewest, answers.min())

    def report(self, gather=lambda counts: counts) -> dict[str, int]:
        """`samples`, `prompt`, `answer`, `padding`, `longest` (of a sample), `fewest_answer` (of a sample), and the
        two that are always 0: `image_with_loss`, `padding_with_loss`.

        Args:
            gather: `Accelerator.gather`, so that the counts are those of all processes; all of them must call.
        """
        if self.sums is None:  # a run that was resumed at its end
            return {**dict.fromkeys(self.SUMS, 0), "longest": 0, "fewest_answer": 0}
        counts = gather(torch.cat([self.sums, torch.stack([self.longest, self.fewest])])[None]).cpu()
        sums = dict(zip(self.SUMS, counts[:, : len(self.SUMS)].sum(0).tolist(), strict=True))
        return {**sums, "longest": int(counts[:, -2].max()), "fewest_answer": int(counts[:, -1].min())}
