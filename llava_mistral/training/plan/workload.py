"""The workload of a run: its recipe's values as numbers, and the lengths of its samples."""

import os
import random
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean
from typing import Any

from llava_mistral.ground.pictures import open_picture
from llava_mistral.training.packing import estimated_lengths, most_image_tokens, rows_of_a_step

TRUE = ("1", "true", "yes")
SAMPLE = 1000  # rows whose lengths are measured; drawn with the run's seed


@dataclass(frozen=True)
class Run:
    """The values of a run that decide its memory and its steps; see `run_of`.

    Args:
        batch: samples of a micro-batch on one device; `accumulation` of them make a step.
        max_steps: 0 where the epochs decide.
        lora_r: None without LoRA.
        world: processes that train together; `sharded`: each holds its share of the weights (FSDP, ZeRO-3).
        deepspeed: how weights are spread is in its own file.
        packed: samples lie end to end, without padding.
        small_frozen: frozen matrices are kept in 16 bits.
        small_trained: the text model's trained matrices and their gradients are in 16 bits.
        reads_once: the tower reads a picture in the first epoch alone.
        cuda: on a GPU; TRL's loss and dropout take more memory on a CPU.
    """

    stage: str
    batch: int
    accumulation: int
    epochs: float
    max_steps: int
    optim: str
    bf16: bool
    checkpointing: bool
    lora_r: int | None = None
    lora_dropout: float = 0.0
    four_bit: bool = False
    world: int = 1
    sharded: bool = False
    deepspeed: bool = False
    packed: bool = False
    small_frozen: bool = False
    small_trained: bool = False
    reads_once: bool = False
    cuda: bool = True

    @property
    def full(self) -> bool:
        """Whether the text model's own weights are trained."""
        return self.stage == "finetune" and self.lora_r is None

    @property
    def trained_bytes(self) -> int:
        """Bytes of each number of the text model's trained matrices, and of its gradient."""
        return 2 if self.small_trained else 4

    @property
    def casts_matrices(self) -> bool:
        """Whether the text model's matrices are float32, of which autocast makes copies."""
        return self.bf16 and not (self.small_trained or self.four_bit or (self.small_frozen and not self.full))

    @property
    def step_samples(self) -> int:
        """Samples of an optimizer step."""
        return self.batch * self.accumulation * self.world


def run_of(stage: Any, config: Any, world: int = 1, cuda: bool = True) -> Run:
    """The run of `stage`, a `StageArguments`, and `config`, an `SFTConfig`, by `world` processes."""
    sharded, deepspeed = (
        bool(getattr(config, name)) or os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() in TRUE
        for name in ("fsdp", "deepspeed")
    )
    return Run(
        stage=stage.stage,
        batch=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        epochs=config.num_train_epochs,
        max_steps=max(0, config.max_steps),
        optim=str(getattr(config.optim, "value", config.optim)),
        bf16=bool(config.bf16 and not config.fp16),
        checkpointing=bool(config.gradient_checkpointing),
        lora_r=stage.lora_r if stage.use_peft else None,
        lora_dropout=stage.lora_dropout if stage.use_peft else 0.0,
        four_bit=stage.load_in_4bit,
        world=world,
        sharded=sharded and world > 1,
        deepspeed=deepspeed,
        packed=stage.packed,
        small_frozen=bool(config.bf16 and not (sharded or deepspeed) and stage.frozen_dtype == "auto"),
        small_trained=stage.trained_dtype == "bfloat16",
        reads_once=stage.vision_cache != "off",
        cuda=cuda,
    )


def split_rows(run: Run, stage: Any, config: Any, rows: Any, of_model: Any) -> Run:
    """The run with the micro-batches that the trainer makes of its rows, by the trainer's own rule.

    Args:
        of_model: a `LlavaMistralConfig`.
    """
    if not run.packed:
        return run
    lengths = estimated_lengths(rows, most_image_tokens(of_model))
    batch, accumulation = rows_of_a_step(lengths, config, stage.row_tokens, run.world)
    return replace(run, batch=batch, accumulation=accumulation)


@dataclass(frozen=True)
class Sample:
    """Lengths of one sample in tokens: in all, of its answer, of its pictures; `tiles` that the tower reads."""

    tokens: int
    answer: int
    features: int
    tiles: int


def measure(rows: Any, processor: Any, config: Any, seed: int = 0) -> list[Sample]:
    """Lengths of all rows, or of `SAMPLE` of them drawn with `seed`, by the words that training will use.

    Args:
        rows: of `llava_mistral.data.conversations.read_rows`; their pictures are not decoded.
        processor: with the stage's chat template.
        config: a `LlavaMistralConfig`.
    """
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(SAMPLE, len(rows))))
    return lengths_of(rows.select(chosen).with_format("arrow")[:].to_pylist(), processor, config)


def lengths_of(rows: list[dict], processor: Any, config: Any) -> list[Sample]:
    """Lengths of rows as they are stored: their pictures are paths or bytes."""
    from llava_mistral.training.collator import AnswerCollator

    word = AnswerCollator(processor).word
    ids = [
        processor.tokenizer([word(row, answered) for row in rows], add_special_tokens=False).input_ids
        for answered in (False, True)
    ]
    samples = []
    for row, prompt, whole in zip(rows, *ids, strict=True):
        images = row["images"] or []
        features, tiles = pictures_of(images, processor, config)
        tokens = len(whole) - len(images) + features
        samples.append(Sample(tokens, len(whole) - len(prompt), features, tiles))
    return samples


def pictures_of(images: list[dict], processor: Any, config: Any) -> tuple[int, int]:
    """Image tokens and tiles of a sample; with anyres both depend on the pictures' sizes."""
    if config.image_aspect_ratio != "anyres":
        extra = processor.num_additional_image_tokens - (config.vision_feature_select_strategy == "default")
        return len(images) * (config.image_seq_length + extra), len(images)
    if not images:
        return 0, 0
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    pixels = [size_of(image) for image in images]
    tokens = processor._get_num_multimodal_tokens(image_sizes=pixels)["num_image_tokens"]
    side, grid = config.vision_config.image_size, config.image_grid_pinpoints
    return sum(tokens), sum(image_size_to_num_patches(list(size), grid, side) for size in pixels)


def size_of(image: dict) -> tuple[int, int]:
    """Height and width in pixels, upright, as training will see it."""
    return open_picture(image).size[::-1]


@dataclass(frozen=True)
class Batch:
    """A micro-batch: `tokens` go through the text model, padding included; rows are of `length` tokens.

    `answers`, `features`, `tiles`: sums over its samples.
    """

    tokens: int
    length: int
    answers: int
    features: int
    tiles: int


def largest_batch(samples: list[Sample], run: Run, seed: int = 0) -> Batch:
    """The micro-batch that takes most memory: of padded ones, all rows as long as the longest sample."""
    most = [max(getattr(sample, name) for sample in samples) for name in ("tokens", "answer", "features", "tiles")]
    if not run.packed:
        return Batch(run.batch * most[0], most[0], *(run.batch * count for count in most[1:]))
    drawn = [sum_of(batch) for batch in shuffled(samples, run, seed)]
    heavy = max(drawn, key=lambda batch: batch.tokens)
    return Batch(heavy.tokens, most[0], *(max(getattr(b, n) for b in drawn) for n in ("answers", "features", "tiles")))


def sum_of(samples: list[Sample]) -> Batch:
    """Several samples as one row without padding."""
    whole = [sum(getattr(sample, name) for sample in samples) for name in ("tokens", "answer", "features", "tiles")]
    return Batch(whole[0], max(sample.tokens for sample in samples), *whole[1:])


def shuffled(samples: list[Sample], run: Run, seed: int) -> list[list[Sample]]:
    """Micro-batches of a shuffled epoch over `samples`."""
    order = random.Random(seed).sample(samples, len(samples))
    return [order[start : start + run.batch] for start in range(0, len(order), run.batch)]


def padding(samples: list[Sample], run: Run, seed: int = 0) -> float:
    """Tokens computed for one token of a sample: 1 when packed, else by the padding of shuffled micro-batches."""
    if run.packed:
        return 1.0
    batches = shuffled(samples, run, seed)
    padded = sum(len(batch) * max(sample.tokens for sample in batch) for batch in batches)
    return padded / sum(sample.tokens for sample in samples)


def steps_of(rows: int, run: Run) -> tuple[int, int]:
    """Optimizer steps of an epoch and of the run, as the Trainer counts them."""
    epoch = ceil(ceil(rows / (run.batch * run.world)) / run.accumulation)
    return epoch, run.max_steps or ceil(run.epochs * epoch)


def mean_of(samples: list[Sample], name: str) -> float:
    """Mean of a field."""
    return fmean(getattr(sample, name) for sample in samples)
