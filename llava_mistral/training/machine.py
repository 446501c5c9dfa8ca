"""The machine a run is on, and the most memory the run took of it."""

import os
import platform
import resource
import sys
from pathlib import Path


def hardware(processes: int = 1) -> dict:
    """GPU, processor and memory by the names their makers gave them; what the system does not say is None.

    Args:
        processes: that train together.
    """
    import torch

    gpus = torch.cuda.device_count()
    gpu = torch.cuda.get_device_properties(0) if gpus else None
    return {
        "gpu": gpu.name if gpu else None,
        "gpus": gpus,
        "gpu_memory_gb": round(gpu.total_memory / 1e9, 1) if gpu else None,
        "cpu": processor_name(),
        "cpu_cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "processes": processes,
    }


def peak_memory_gb() -> dict[str, float | None]:
    """The most memory of this process so far, in gigabytes (10^9): on the GPU by torch's tensors, and resident."""
    import torch

    gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    return {"gpu": None if gpu is None else round(gpu, 3), "resident": round(_resident_peak() / 1e9, 3)}


def _resident_peak() -> int:
    """In bytes; by the system's file where there is one, because ru_maxrss begins with that of the parent process."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # Linux counts kilobytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor_name() -> str | None:
    """The processor's model, as /proc/cpuinfo has it on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or platform.processor() or None
