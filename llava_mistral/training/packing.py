"""Packing: the samples of a micro-batch lie end to end in one row, and rows of a step have similar lengths.

Every optimizer step sees the samples that stock training would show it. Which micro-batch a sample is in changes
neither loss nor gradient, because the loss of a step is normalised by the answer tokens of the whole step; so a step's
samples are dealt to its micro-batches by their lengths, and the longest row, which decides the memory, is short.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

# Mistral's tokenizer on the 5,282 ScienceQA questions at hand: 3.92. Only how even the rows are depends on it.
CHARACTERS_PER_TOKEN = 3.9


class PackedCollator:
    """Lay the samples of a padded batch end to end.

    Args:
        collator: makes `input_ids`, `attention_mask`, `labels` `(samples, length)` and what belongs to the pictures.

    Returns from a call: `input_ids`, `labels`, `position_ids` `(1, tokens)`, no `attention_mask`. Positions restart
    at 0 with each sample; a sample's first token carries no loss, since the token before it is a neighbour's.
    `cu_seq_lens_q`, `cu_seq_lens_k` `(samples + 1,)` int32 are the borders, `max_length_q`, `max_length_k` the tokens
    of the longest sample: what transformers' variable-length attention takes. What belongs to the pictures is as the
    collator made it: the samples keep their order, so image tokens and pictures do, too. No sample is cut.
    """

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator = collator

    def __call__(self, rows: list[dict]) -> dict:
        batch = self.collator(rows)
        real = batch.pop("attention_mask").bool()
        lengths = real.sum(1)
        borders = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        batch["input_ids"] = batch["input_ids"][real][None]
        batch["labels"] = batch["labels"][real][None]
        batch["labels"][0, borders[:-1]] = -100
        batch["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
        batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = borders.to(torch.int32)
        batch["max_length_q"] = batch["max_length_k"] = int(lengths.max())
        return batch


class StepSampler(Sampler[int]):
    """Stock training's random order, in which each optimizer step's samples are dealt to its micro-batches by length.

    The order of an epoch is `torch.randperm` by `seed + epoch`, as in accelerate's `SeedableRandomSampler`. Indices
    come in runs of `batch_size`, one per micro-batch and process in turn, which is how accelerate shares them out:
    processes that work at the same time get rows of about the same length.

    Args:
        lengths: of each sample in tokens, or in proportion to it.
        batch_size: samples of a micro-batch.
        accumulation: micro-batches of a step, per process.
        processes: that train together. A last round that is incomplete is filled up from the epoch's first samples, as
            accelerate does it.
        seed: of the order.
        drop_last: leave an incomplete last round out.
    """

    def __init__(
        self,
        lengths: list[int],
        batch_size: int,
        accumulation: int = 1,
        processes: int = 1,
        seed: int = 42,
        drop_last: bool = False,
    ):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.round, self.step = batch_size * processes, batch_size * accumulation * processes
        count = len(lengths)
        if drop_last:
            self.count = count - count % self.round
        else:
            self.count = count if processes == 1 else count + -count % self.round

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        order = (order * -(-self.count // len(order)))[: self.count]
        for start in range(0, self.count, self.step):
            yield from self._deal(order[start : start + self.step])
        self.epoch += 1

    def row_lengths(self, epochs: int) -> Iterator[int]:
        """The sum of lengths of each micro-batch in so many epochs."""
        for epoch in range(epochs):
            self.set_epoch(epoch)
            order = iter(self)
            while row := list(islice(order, self.batch_size)):
                yield sum(self.lengths[index] for index in row)

    def _deal(self, samples: list[int]) -> list[int]:
        """The longest sample first, each to the micro-batch that is shortest so far and not full."""
        full, rest = divmod(len(samples), self.batch_size)
        rooms = [self.batch_size] * full + [rest] * bool(rest)
        groups = [[] for _ in rooms]
        shortest = [(0, index) for index in range(len(rooms))]
        for place in sorted(range(len(samples)), key=lambda place: -self.lengths[samples[place]]):
            total, index = heapq.heappop(shortest)
            groups[index].append(place)
            if len(groups[index]) < rooms[index]:
                heapq.heappush(shortest, (total + self.lengths[samples[place]], index))
        whole = sorted(groups[:full], key=lambda group: -sum(self.lengths[samples[place]] for place in group))
        return [samples[place] for group in [*whole, *groups[full:]] for place in sorted(group)]


def rows_of_a_step(lengths: list[int], args, row_tokens: int, processes: int | None = None) -> tuple[int, int]:
    """Split micro-batches whose row would be longer than `row_tokens`, until none is, or each is one sample.

    Args:
        lengths: of each sample in tokens.
        args: `TrainingArguments`; their batch size is the most samples a row may have.
        processes: that train together; by default those of `args`.

    Returns:
        samples of a row, and rows of a step: a batch size and accumulation whose product is that of `args`.
    """
    size, count = args.per_device_train_batch_size, args.gradient_accumulation_steps
    processes = args.world_size if processes is None else processes
    step = size * count * processes
    epochs = math.ceil(args.max_steps * step / len(lengths) if args.max_steps > 0 else args.num_train_epochs)
    for parts in (parts for parts in range(1, size + 1) if size % parts == 0):
        sampler = StepSampler(lengths, size // parts, count * parts, processes, seed=order_seed(args))
        if all(length <= row_tokens for length in sampler.row_lengths(epochs)):
            break
    return size // parts, count * parts


def order_seed(args) -> int:
    """Of the samples' order, as the library's own sampler has it."""
    return args.seed if args.data_seed is None else args.data_seed


def estimated_lengths(rows, image_tokens: int) -> list[int]:
    """About how many tokens each row has, by its text and pictures; 558,000 rows take seconds, and no picture is
    opened.

    Args:
        rows: a `datasets.Dataset` of `images`, `prompt` and `completion`.
        image_tokens: of one picture; with tiles (anyres) the most it can have.
    """
    return [
        round(characters / CHARACTERS_PER_TOKEN) + image_tokens * pictures
        for characters, _, pictures in _sizes(rows, len)
    ]


def text_bytes(rows) -> Iterator[tuple[int, int, int]]:
    """Bytes of UTF-8, turns and pictures of each row."""
    return _sizes(rows, lambda text: len(text.encode()))


def _sizes(rows, size: Callable[[str], int]) -> Iterator[tuple[int, int, int]]:
    import pyarrow.compute as compute

    for table in rows.select_columns(["images", "prompt", "completion"]).with_format("arrow").iter(10_000):
        pictures = compute.fill_null(compute.list_value_length(table["images"]), 0).to_pylist()
        turns = [table[name].combine_chunks().to_pylist() for name in ("prompt", "completion")]
        for prompt, completion, count in zip(*turns, pictures, strict=True):
            texts = [turn["content"] or "" for turn in (*prompt, *completion)]
            yield sum(map(size, texts)), len(texts), count


def most_image_tokens(config) -> int:
    """Image tokens of one picture, by a `LlavaMistralConfig`; with tiles (anyres) those of the largest grid."""
    if config.image_aspect_ratio != "anyres":
        return config.image_seq_length
    side = config.vision_config.image_size
    tiles = max(height // side * (width // side) for height, width in config.image_grid_pinpoints)
    return config.image_seq_length * (1 + tiles)
