"""Selection by several processes, on one machine or many: `accelerate launch` or `torchrun`, gloo or nccl.

    torchrun --nproc_per_node 8 llava-mistral prune …
    accelerate launch --num_processes 8 llava-mistral prune …      (on a machine without GPUs: with --multi_gpu, which
                                                                 only tells accelerate to start that many)

Each process holds an equal share of the rows, and all of them commit the same picks: per pass they exchange their
farthest rows only. For 10^9 rows of 512 float16 numbers on 64 processes: a share is 15.6 million rows, 16 GB of file
and 125 MB of norms and distances; per pass 64 x 1,024 vectors of float64 (268 MB) are exchanged, about a dozen passes
for 1,000 picks; and each share takes the time of its 15.6 million rows, for the time grows as the rows do.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Processes:
    """This process among all; `gather` returns every process's value, in order of rank, to all of them."""

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    def share(self, count: int) -> range:
        """Return the indices that are this process's, of `count`."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.gather(None)


@contextmanager
def processes() -> Iterator[Processes]:
    """Yield the processes that a launcher started (it says so in WORLD_SIZE and RANK), or this one alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    import torch
    from torch import distributed

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(backend)

    def gather(value: Any) -> list[Any]:
        values: list[Any] = [None] * world
        distributed.all_gather_object(values, value)
        return values

    try:
        yield Processes(distributed.get_rank(), world, gather)
    finally:
        distributed.destroy_process_group()
