"""Rows of an embedding matrix on disk: checked once, read in chunks, compared with a few centres at a time.

A matrix is never copied whole and never widened whole: each thread turns one chunk of rows to float32, multiplies, and
takes the next. On a GPU the same chunks are multiplied there.
"""

import mmap
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llava_mistral.ground.bad_input import BadInput

if TYPE_CHECKING:
    import torch

DEVICE_ROWS = 1 << 17
CHUNK_BYTES = 4 << 20  # of float32: a chunk, its centres and the products stay in a core's second-level cache


def open_embeddings(path: str | Path, count: int | None = None) -> np.ndarray:
    """Return the (N, d) float16 or float32 matrix of a .npy file, memory-mapped.

    Raises:
        BadInput: the file is missing, is no such matrix, or has another number of rows than `count`.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput("no such file", remedy="name a .npy file", file=path, field="embeddings")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadInput("is not a .npy file", remedy="write it with numpy.save", file=path) from error
    if not isinstance(matrix, np.ndarray):
        raise BadInput("is an archive of arrays", remedy="save the one matrix with numpy.save", file=path)
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype not in (np.float16, np.float32):
        problem = f"holds {matrix.dtype} of shape {matrix.shape}"
        raise BadInput(problem, remedy="save a float16 or float32 matrix of shape (samples, dimensions)", file=path)
    if count is not None and len(matrix) != count:
        problem = f"has {len(matrix)} rows for {count} samples"
        raise BadInput(problem, remedy="embed exactly the samples of this data set and split, in order", file=path)
    return matrix


def bytes_of(text: str) -> int:
    """Return the bytes of a size such as 900MB, 1GB or 1.5GiB.

    Raises:
        BadInput: it is not a valid size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise BadInput(f"{text!r} is not a size", remedy="write it like 1GB", field="max_memory")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


class Rows:
    """Rows of one matrix (or of one process's share of it) with their squared norms.

    Args:
        matrix: (N, d) float16 or float32, in memory or memory-mapped; it is read, never written.
        threads: worker threads; None = the cores this process may use.
        device: "cpu", or a torch device such as "cuda".
        release: give pages of a memory-mapped file back to the system as soon as they were read, so that resident
            memory stays small beside a file of any size.
        name: what to call the matrix in an error.

    Raises:
        BadInput: a row holds NaN or infinity, or nothing but zeros.
    """

    def __init__(
        self,
        matrix: np.ndarray,
        *,
        threads: int | None = None,
        device: str = "cpu",
        release: bool = False,
        name: str | Path = "embeddings",
    ):
        self.matrix, self.device, self.name = matrix, device, name
        self.threads = threads or _cores()
        self.release = release and isinstance(matrix, np.memmap) and matrix.flags.c_contiguous
        if self.release:
            # A slice of a memmap keeps the offset of the whole; only its address tells where in the file it begins.
            address = np.frombuffer(matrix._mmap, np.uint8).ctypes.data
            self._in_mapping = matrix.ctypes.data - address
            self._in_file = self._in_mapping + matrix.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        self.chunk = max(1, CHUNK_BYTES // (4 * matrix.shape[1]))
        self.norms = np.empty(len(matrix), np.float32)  # (N,) squared
        self._resident: dict[int, torch.Tensor] = {}
        self._each_chunk(self._measure)
        self._refuse(~np.isfinite(self.norms), "is not finite (NaN, infinity or beyond float32)")
        self._refuse(self.norms == 0, "is all zeros")

    def __len__(self) -> int:
        return len(self.matrix)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows at `indices` as (len(indices), d) float64, which holds float16 and float32 exactly."""
        if not self.release:
            return np.asarray(self.matrix[indices], np.float64)
        # Through the mapping a row alone brings 64 kB and more of its neighbours into memory; a read brings the row.
        rows, width = np.empty((len(indices), self.matrix.shape[1]), self.matrix.dtype), self.matrix.strides[0]
        with open(self.matrix.filename, "rb", buffering=0) as file:
            for place, index in enumerate(np.asarray(indices).tolist()):
                rows[place] = np.frombuffer(os.pread(file.fileno(), width, self._in_file + index * width), rows.dtype)
        return rows.astype(np.float64)

    def approach(self, nearest: np.ndarray, centres: np.ndarray) -> None:
        """Lower `nearest` (N,) float32 in place to the squared distance to any of `centres` (c, d), where smaller.

        Computed as |x|² + (|c|² - 2 c·x) in float32; `rounding` bounds its error.
        """
        lengths = np.square(centres).sum(1).astype(np.float32)[:, None]  # (c, 1)
        if self.device != "cpu":
            return self._approach_on_device(nearest, centres, lengths)
        doubled = (-2 * centres).astype(np.float32)

        def lower(part: slice, x: np.ndarray) -> None:
            products = doubled @ x.T  # (c, chunk): the minimum over the first axis runs along memory
            products += lengths
            np.minimum(nearest[part], products.min(0) + self.norms[part], out=nearest[part])

        self._each_chunk(lower)

    def _approach_on_device(self, nearest: np.ndarray, centres: np.ndarray, lengths: np.ndarray) -> None:
        import torch

        torch.set_float32_matmul_precision("highest")  # `rounding` is a bound for float32, not for TF32's 10 bits
        doubled = torch.from_numpy((-2 * centres).astype(np.float32)).to(self.device)
        lengths = torch.from_numpy(lengths).to(self.device)
        for start in range(0, len(self), DEVICE_ROWS):
            part = slice(start, min(start + DEVICE_ROWS, len(self)))
            lowest = torch.addmm(lengths, doubled, self._on_device(part).float().T).amin(0).cpu().numpy()
            np.minimum(nearest[part], lowest + self.norms[part], out=nearest[part])
            self._give_back(part)

    def _on_device(self, part: slice) -> "torch.Tensor":
        """Return the rows of `part` on the device, where they stay when half of what is free there holds them all."""
        import torch

        if part.start in self._resident:
            return self._resident[part.start]
        if not self._resident:
            free = torch.cuda.mem_get_info(self.device)[0] if self.device.startswith("cuda") else 0
            self._stay = self.matrix.nbytes < free / 2
        x = torch.from_numpy(np.array(self.matrix[part])).to(self.device)
        if self._stay:
            self._resident[part.start] = x
        return x

    def _measure(self, part: slice, x: np.ndarray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            np.einsum("ij,ij->i", x, x, out=self.norms[part])

    def _refuse(self, faulty: np.ndarray, problem: str) -> None:
        if faulty.any():
            row = int(faulty.argmax())
            remedy = f"embed the sample again or drop it ({int(faulty.sum())} such rows)"
            raise BadInput(problem, remedy=remedy, file=self.name, record=row)

    def _each_chunk(self, work) -> None:
        """Call `work(part, x)` for every chunk of rows, x float32, in `threads` threads that share the chunks."""
        starts = range(0, len(self), self.chunk)

        def run(share: range) -> None:
            buffer = np.empty((self.chunk, self.matrix.shape[1]), np.float32)
            for start in share:
                part = slice(start, min(start + self.chunk, len(self)))
                x = buffer[: part.stop - part.start]
                np.copyto(x, self.matrix[part])
                work(part, x)
                self._give_back(part)

        if not starts:  # a process of more than there are rows
            return
        per_thread = -(-len(starts) // self.threads)
        shares = [starts[i : i + per_thread] for i in range(0, len(starts), per_thread)]
        with _one_blas_thread(), ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(run, shares))

    def _give_back(self, part: slice) -> None:
        if not self.release:
            return
        width = self.matrix.strides[0]
        first = self._in_mapping + part.start * width
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        length = first + (part.stop - part.start) * width - start
        self.matrix._mmap.madvise(mmap.MADV_DONTNEED, start, length)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rounding(dimensions: int, largest_norm: float, unit: float) -> float:
    """Bound the error of |x|² + |c|² - 2 c·x summed in any order with rounding `unit` (2**-24 for float32).

    The classical bound for a dot product of d terms is d·unit·|x||c| (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1); three of them, and two additions of at most 4·largest_norm, are below 3 d + 11 units.
    What is above leaves room for thresholds rounded to float32, and for products too small to be held.
    """
    return 4 * (dimensions + 8) * (unit * largest_norm + float(np.finfo(np.float32).tiny))


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread per worker, else each of our threads starts as many again. threadpoolctl is optional."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield
