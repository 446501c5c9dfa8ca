"""Processes of one launch, as `accelerate launch` starts them: rank 0 prints and writes, all read data."""

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

from llava_mistral.ground.bad_input import BadInput


def is_first() -> bool:
    """Whether this is the process of its machine that prints (local rank 0)."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def is_first_process() -> bool:
    """Whether this is global rank 0, which writes shared files; works before torch is loaded."""
    return os.environ.get("RANK", "0") == "0"


def join_launch() -> None:
    """Initialise the launch; call it first in a process that may be one of several.

    tqdm reads once, when it is imported, whether this process shows bars. A process that ends with its group open may
    be aborted by the group's threads, and the launcher then ends the one that still writes.
    """
    # Rows of changing length leave gaps between the allocator's blocks; segments that grow leave none. torch reads it.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if not is_first():
        os.environ["TQDM_DISABLE"] = "1"
    if "LOCAL_RANK" in os.environ:
        atexit.register(_leave_group)


def _leave_group() -> None:
    torch = sys.modules.get("torch")  # a refusal comes before it; to import it on the way out fails
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def by_first(work: Callable[[], Any]) -> Any:
    """What the work of rank 0 returns, in every process of the launch; what it refuses, all refuse.

    For work that touches many files: every process would ask a shared file system about each of them.
    """
    if "LOCAL_RANK" not in os.environ:
        return work()
    from accelerate.utils import broadcast_object_list

    found = None
    if is_first_process():
        try:
            found = {"value": work()}
        except BadInput as error:
            names = ("problem", "remedy", "file", "record", "field")
            found = {"refused": {name: getattr(error, name) for name in names}}
    found = broadcast_object_list([found])[0]
    if "refused" in found:
        raise BadInput(**found["refused"])
    return found["value"]


def whole_weights(trainer) -> dict | None:
    """The model's weights where FSDP or ZeRO-3 spread them over the processes, else None; the work of all.

    Only the first process holds them afterwards.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    return trainer.accelerator.get_state_dict(trainer.model_wrapped)
