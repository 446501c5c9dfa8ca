"""One vector per sample from a multimodal model, in a .npy file that grows by batches and is resumed where it stopped.

What a vector is, the model decides (`embedders.py`). Several processes share the work, each with a file of its own.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_mistral.data.scienceqa import question_text
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.devices import pick_device
from llava_mistral.ground.pictures import open_picture
from llava_mistral.ground.whole_file import saving, write_whole
from llava_mistral.pruning.embedders import Embedder, load_embedder
from llava_mistral.pruning.workers import Processes

if TYPE_CHECKING:
    from llava_mistral.pruning.samples import Samples

ALONE = Processes()
BATCH, WRITE_EVERY = 32, 16  # samples, batches


def embed(
    samples: "Samples",
    model: str,
    path: Path | None = None,
    *,
    batch: int = BATCH,
    device: str | None = None,
    processes: Processes = ALONE,
) -> np.ndarray:
    """Return the (N, width) float32 vectors of all samples, in their order.

    Args:
        model: folder or Hub id of a CLIP-like model or of a LLaVA-like checkpoint.
        path: where to keep them, as .npy; unfinished work lies beside it as `.partial-…`, and is gone on with when
            samples, model and the number of processes are the same. None: nothing is kept.
        device: a torch device; by default the GPU when there is one.
        processes: each embeds its share; the first puts them together at `path`, which all must reach.

    Raises:
        BadInput: the model is neither, a picture cannot be read, or several processes have no `path`.
    """
    if not samples.pictures:
        remedy = "fetch the images folder, or give --embeddings"
        raise BadInput("the pictures are not at hand to embed", remedy=remedy, file=samples.source, field="embedder")
    if path is None and processes.world > 1:
        remedy = "name the .npy file where they put their vectors together"
        raise BadInput(f"is missing for {processes.world} processes", remedy=remedy, field="embeddings")
    embedder, count = load_embedder(model, pick_device(device)), len(samples.problems)
    if path is None:
        vectors = np.empty((count, embedder.width), np.float32)
        _fill(vectors, samples, embedder, batch, range(count))
        return vectors
    partials = [Path(f"{path}.partial-{rank}-of-{processes.world}") for rank in range(processes.world)]
    made_from = {"samples": samples.sha256(), "model": _identity(model), "batch": batch}
    _embed_share(partials[processes.rank], made_from, samples, embedder, batch, processes.share(count))
    processes.wait()
    if processes.rank == 0:
        _put_together(partials, path)
    processes.wait()
    return np.load(path, mmap_mode="r")


def _embed_share(
    partial: Path, made_from: dict[str, Any], samples: "Samples", embedder: Embedder, batch: int, share: range
) -> None:
    """Write the vectors of `share` to `partial`, from where an interrupted run of the same work left off."""
    progress = Path(f"{partial}.json")
    done = _done(progress, partial, made_from)
    shape = (len(share), embedder.width)
    vectors = np.lib.format.open_memmap(partial, "r+") if done else _new_file(partial, shape)
    for start in range(done, len(share), batch * WRITE_EVERY):
        stop = min(start + batch * WRITE_EVERY, len(share))
        _fill(vectors[start:stop], samples, embedder, batch, share[start:stop])
        vectors.flush()
        write_whole(progress, json.dumps(made_from | {"done": stop}))


def _new_file(path: Path, shape: tuple[int, int]) -> np.memmap:
    """A .npy file that has all its room: a full disk would else end the process by a signal, without a word."""
    with saving(path):
        try:
            vectors = np.lib.format.open_memmap(path, "w+", np.float32, shape)
            if hasattr(os, "posix_fallocate"):  # macOS lacks it
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return vectors


def _put_together(partials: Sequence[Path], path: Path) -> None:
    if len(partials) == 1:
        partials[0].replace(path)
    else:
        shares = [np.load(partial, mmap_mode="r") for partial in partials]
        fresh, shape = Path(f"{path}.new"), (sum(map(len, shares)), shares[0].shape[1])
        np.concatenate(shares, out=np.lib.format.open_memmap(fresh, "w+", np.float32, shape))
        fresh.replace(path)
    for partial in partials:
        partial.unlink(missing_ok=True)
        Path(f"{partial}.json").unlink(missing_ok=True)


def _fill(vectors: np.ndarray, samples: "Samples", embedder: Embedder, batch: int, indices: Sequence[int]) -> None:
    """Write the vector of each of the samples at `indices` to the row of `vectors` in its place."""
    from tqdm import tqdm

    for start in tqdm(range(0, len(indices), batch), desc="embedding", unit=" batches", delay=2):
        part = indices[start : start + batch]
        cells = samples.cells(part)
        ids = [samples.problems[i].pid for i in part]
        pictures = [
            open_picture(images[0], file=samples.source, record=name) if images else None
            for images, name in zip(cells, ids, strict=True)
        ]
        texts = [question_text(samples.problems[i], instruction="") for i in part]
        vectors[start : start + len(part)] = embedder(texts, pictures)


def _done(progress: Path, partial: Path, made_from: dict[str, Any]) -> int:
    """Return how many samples an unfinished file already holds, of the very same work."""
    if not (progress.is_file() and partial.is_file()):
        return 0
    state = json.loads(progress.read_text())
    return state["done"] if {**made_from, "done": state.get("done")} == state else 0


def _identity(model: str) -> str:
    """Return what tells this model from another: its name and, for a folder, a hash of its files' sizes and times."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return f"{folder.name} {digest.hexdigest()}"


def flat_map(matrix: np.ndarray, sample: int = 4096) -> np.ndarray:
    """Return the (N, 2) float32 coordinates of the rows along the two principal directions of `sample` of them."""
    spread = np.linspace(0, len(matrix) - 1, min(sample, len(matrix))).astype(int)
    rows = np.asarray(matrix[spread], np.float64)
    centre = rows.mean(0)
    _, _, directions = np.linalg.svd(rows - centre, full_matrices=False)
    directions = directions[:2]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    directions = directions * np.sign(largest)  # the sign of a principal direction is arbitrary
    points = np.zeros((len(matrix), 2), np.float32)
    for start in range(0, len(matrix), sample):
        part = np.asarray(matrix[start : start + sample], np.float64)
        points[start : start + sample, : len(directions)] = (part - centre) @ directions.T
    return points
