"""Which device a process computes on."""

import os

from llava_mistral.ground.bad_input import BadInput


def pick_device(device: str | None = None) -> str:
    """Return `wanted`, or this process's GPU where there is one, else "cpu" (without loading torch to find out).

    Raises:
        BadInput: this machine has no such device.
    """
    if device == "cpu" or not (device or os.path.exists("/dev/nvidiactl")):
        return "cpu"
    import torch

    if not device:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = f"{device!r} cannot be used here ({str(error).splitlines()[0][:90]})"
        raise BadInput(problem, remedy="leave it out, or name one such as cpu or cuda:0", field="device") from error
    return device
