"""Tokens and samples per second and MFU of the training process; measuring them does not affect training."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llava_mistral.training.machine import vendor_peak
from llava_mistral.training.plan.flops import Work, model_flops

# The keys of a log row that depend on the clock; all others are the same in every run of the same command.
TIMED = ("tokens_per_second", "samples_per_second", "mfu")


def measured_peak(device: torch.device, size: int = 8192, rounds: int = 20) -> float:
    """Operations per second of a square bfloat16 matrix product on `device`, the median of `rounds`.

    What a matrix product reaches and not what the data sheet promises: the power limit lowers the clock. The numbers
    are random, as those of a model are: equal rows switch fewer transistors, and are multiplied faster. They are drawn
    from a generator of their own.
    """
    generator = torch.Generator(device).manual_seed(0)
    given = {"generator": generator, "device": device, "dtype": torch.bfloat16}
    left, right = (torch.randn(size, size, **given) for _ in range(2))
    seconds = []
    for _ in range(2 * rounds):  # the first half chooses a kernel and brings clock and power to where they stay
        begun = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / sorted(seconds[rounds:])[rounds // 2]


def peak_of_this_run(bf16: bool, tflops: float | None = None) -> float | None:
    """The vendor's peak of the GPU in use; None on a CPU, on an unknown GPU and in float32: no MFU is guessed.

    Args:
        tflops: of bfloat16, what the user says of it.
    """
    if not bf16 or not torch.cuda.is_available():
        return None
    return tflops * 1e12 if tflops else vendor_peak(torch.cuda.get_device_name())


class Meter:
    """Counts what goes through the model, and the time that training takes, evaluation and saving apart.

    Args:
        config: the model's `LlavaMistralConfig`.
        stage: `pretrain` or `finetune`.
        lora_r: rank of LoRA, None without.
        peak: operations per second of one device; None if it is not known, and then there is no MFU.
    """

    def __init__(self, config: Any, stage: str, lora_r: int | None = None, peak: float | None = None):
        self.config, self.stage, self.lora_r, self.peak = config, stage, lora_r, peak
        self.window = getattr(config.text_config, "sliding_window", None)
        self.sums, self.images, self.seconds, self.since = None, 0, 0.0, None
        self.total = {"tokens": 0, "samples": 0, "flops": 0.0, "seconds": 0.0}  # of all read so far

    def count(self, inputs: dict[str, torch.Tensor]) -> None:
        """Add a batch; nothing is waited for: the sums stay on the device until they are read."""
        if self.since is None:
            self.since = time.perf_counter()
        sums = torch.stack(_sums(inputs, self.config.image_token_id, self.window))
        self.sums = sums if self.sums is None else self.sums + sums
        if inputs.get("pixel_values") is not None:
            self.images += inputs["pixel_values"].shape[:-3].numel()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of what is inside."""
        running = self.since is not None
        self._stop()
        yield
        self.since = time.perf_counter() if running else None

    def read(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums, processes: int = 1) -> dict:
        """Rates since the last reading, `TIMED`; empty if nothing was counted.

        Args:
            reduce: sums a tensor over all processes; every process must call.
            processes: how many there are, each with a device of its own.
        """
        if self.sums is None:
            return {}
        self._stop()
        images = torch.tensor([self.images], device=self.sums.device)
        tokens, pairs, answers, features, samples, images = reduce(torch.cat([self.sums, images])).tolist()
        flops = model_flops(self.config, Work(tokens, pairs, answers, images, features), self.stage, self.lora_r)
        seen = {"tokens": tokens, "samples": samples, "flops": flops, "seconds": self.seconds}
        self.total = {key: self.total[key] + value for key, value in seen.items()}
        self.sums, self.images, self.seconds, self.since = None, 0, 0.0, time.perf_counter()
        return rates(seen, self.peak, processes)

    def _stop(self) -> None:
        if self.since is not None:
            self.seconds += time.perf_counter() - self.since
            self.since = None


def rates(seen: dict, peak: float | None, processes: int = 1) -> dict[str, float]:
    """`TIMED` of `{"tokens": …, "samples": …, "flops": …, "seconds": …}`; without a peak there is no `mfu`."""
    if not seen["seconds"]:
        return {}
    found = {f"{key}_per_second": seen[key] / seen["seconds"] for key in ("tokens", "samples")}
    return found | ({"mfu": seen["flops"] / seen["seconds"] / (peak * processes)} if peak else {})


def _sums(inputs: dict[str, torch.Tensor], image_token_id: int, window: int | None) -> list[torch.Tensor]:
    """Tokens, attended pairs, answer tokens, picture tokens and samples of a batch, padded or packed."""
    ids = inputs["input_ids"]
    if inputs.get("attention_mask") is not None:
        kept = inputs["attention_mask"].bool()
        places = inputs["attention_mask"].cumsum(1)  # a token attends to as many as its place, counted from 1
        samples = kept.any(1).sum()
    else:  # packed: positions restart with each sample
        kept, places = torch.ones_like(ids, dtype=torch.bool), inputs["position_ids"] + 1
        samples = (inputs["position_ids"] == 0).sum()
    attended = places.clamp(max=window) if window else places
    answers = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][..., 1:]
    features = (ids == image_token_id) & kept
    return [kept.sum(), (attended * kept).sum(), (answers != -100).sum(), features.sum(), samples]
