"""The machine a run is on, what its GPU can do by the data sheet, and the most memory the run took of it."""

import os
import platform
import re
import resource
import sys
from pathlib import Path

# Dense bfloat16 operations per second of the tensor cores, as the vendor states them; where its table has the rate
# with sparsity only, half of that. Sources: NVIDIA's data sheets of A100, H100, H200, L40S, L4, A10, A30, A40,
# L40, RTX A6000, RTX 6000 Ada and GH200, and of DGX B200 (its eight GPUs' 36 PFLOPS with sparsity are 2.25 PFLOPS
# dense for each).
VENDOR_PEAKS = {
    r"NVIDIA A100\b.*": 312e12,
    r"NVIDIA H100 PCIe": 756e12,
    r"NVIDIA H100 NVL": 835e12,
    r"NVIDIA H100 80GB HBM3": 989e12,
    r"NVIDIA H200 NVL": 835e12,
    r"NVIDIA H200": 989e12,
    r"NVIDIA L40S": 362e12,
    r"NVIDIA L4": 121e12,
    r"NVIDIA A10": 125e12,
    r"NVIDIA A30": 165e12,
    r"NVIDIA A40": 149.7e12,
    r"NVIDIA L40": 181e12,
    r"NVIDIA RTX A6000": 154.8e12,
    r"NVIDIA RTX 6000 Ada Generation": 364.2e12,
    r"NVIDIA GH200 \d+GB": 989e12,
    r"NVIDIA B200": 2250e12,
}


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


def vendor_peak(name: str) -> float | None:
    """Dense bfloat16 operations per second of the GPU called `name`; None for one that is not in the table."""
    return next((peak for pattern, peak in VENDOR_PEAKS.items() if re.fullmatch(pattern, name)), None)
