"""Peak bfloat16 throughput of GPUs, from their data sheets."""

import re

# Dense bfloat16 operations per second of the tensor cores, as the vendor states them; where its table has the rate
# with sparsity only, half of that. Sources: NVIDIA's data sheets of A100, H100, H200,
# L40S, L4, A10, A30, A40, L40, RTX A6000, RTX 6000 Ada and GH200, and of DGX B200 (its eight GPUs' 36 PFLOPS with
# sparsity are 2.25 PFLOPS dense for each).
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


def vendor_peak(name: str) -> float | None:
    """Dense bfloat16 operations per second of the GPU called `name`; None for one that is not in the table."""
    return next((peak for pattern, peak in VENDOR_PEAKS.items() if re.fullmatch(pattern, name)), None)
