"""The pictures of a batch: preprocessed, or, where the tower has read them before, their stored features."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset

from llava_mistral.ground.pictures import open_picture
from llava_mistral.training.vision_cache import VisionCache, picture_key


class Pictures:
    """What a collator asks about the pictures of a batch.

    Args:
        processor: a `LlavaMistralProcessor`.
        cache: where features may be stored; None: every picture is preprocessed.

    A call takes pictures as rows hold them (`{"bytes": …, "path": …}` or PIL images) and their ids, to be named
    in an error. It returns the model's inputs and, for each picture, the image tokens that take its place in a prompt.
    The inputs are `pixel_values` `(pictures, 3, height, width)`, with anyres `(pictures, tiles, 3, height, width)` and
    `image_sizes` `(pictures, 2)`; nothing when there are no pictures. With a cache, `pixel_values` are those of the
    pictures that are not stored, and there are besides:

        is_stored `(pictures,)`: which pictures are;
        stored_features `(tiles of the stored, patches, width)`: what the projector reads of them;
        picture_keys `(pictures that are not, 32)`: bytes of their keys, under which to store them.
    """

    def __init__(self, processor, cache: VisionCache | None = None):
        self.processor, self.cache = processor, cache

    def __call__(
        self, pictures: list[Any], records: Sequence[str | None] | None = None
    ) -> tuple[dict[str, torch.Tensor], list[str]]:
        if not pictures:
            return {}, []
        records = records or [None] * len(pictures)
        if self.cache is None:
            inputs = self._preprocess(pictures, records)
            return inputs, [self.processor.replace_image_token(inputs, index) for index in range(len(pictures))]
        keys = [picture_key(picture) for picture in pictures]
        stored = [self.cache.get(key) for key in keys]
        absent = [index for index, entry in enumerate(stored) if entry is None]
        named = [records[index] for index in absent]
        inputs = self._preprocess([pictures[index] for index in absent], named) if absent else {}
        tokens = [None if entry is None else self._tokens(*entry) for entry in stored]
        for place, index in enumerate(absent):
            tokens[index] = self.processor.replace_image_token(inputs, place)
        if self.processor.image_aspect_ratio == "anyres":
            new = iter(inputs["image_sizes"].tolist() if absent else ())
            inputs["image_sizes"] = torch.tensor([next(new) if entry is None else entry[1] for entry in stored])
        inputs["is_stored"] = torch.tensor([entry is not None for entry in stored])
        if absent:
            inputs["picture_keys"] = torch.tensor([list(keys[index]) for index in absent], dtype=torch.uint8)
        if len(absent) < len(pictures):
            inputs["stored_features"] = torch.cat([entry[0] for entry in stored if entry is not None])
        return inputs, tokens

    def _preprocess(self, pictures: list[Any], records: Sequence[str | None]) -> dict[str, torch.Tensor]:
        decoded = [open_picture(cell, record=name) for cell, name in zip(pictures, records, strict=True)]
        return dict(self.processor.image_processor(decoded, return_tensors="pt"))

    def _tokens(self, features: torch.Tensor, size: tuple[int, int]) -> str:
        """By the processor's own rule, which looks at a tile's shape and, with anyres, at the picture's size."""
        patches = features.shape[1] - (self.processor.vision_feature_select_strategy != "default")
        side = math.isqrt(patches) * self.processor.patch_size
        tile = torch.empty(1, 3, side, side, device="meta")
        return self.processor.replace_image_token({"pixel_values": [tile], "image_sizes": [size]}, 0)


def reads_twice(rows: Dataset, config) -> bool:
    """Whether a run of `config`, an SFTConfig, has more than one epoch, or two rows name the same picture file."""
    a_step = config.train_batch_size * config.gradient_accumulation_steps * config.world_size
    if (config.max_steps * a_step > len(rows)) if config.max_steps > 0 else config.num_train_epochs > 1:
        return True
    seen, count = set(), 0
    for table in rows.select_columns("images").with_format("arrow").iter(1000):
        paths = table["images"].combine_chunks().flatten().field("path").drop_null().to_pylist()
        count += len(paths)
        seen.update(paths)
        if len(seen) < count:
            return True
    return False
