"""Stored weights: read by name, copied from file to file byte for byte, never all in memory.

Copying bytes keeps them equal bit for bit and needs no more memory than one buffer.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import AGAIN, read_header, refuse_types, weight_files

_BUFFER = 16 << 20


@dataclass(frozen=True)
class Stored:
    """One weight in a safetensors file: `size` bytes at `start` from the beginning of `file`, called `name` there."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def stored_weights(folder: str | Path, scratch: Path) -> dict[str, Stored]:
    """Return every weight of a checkpoint folder by its name: safetensors, sharded or not, else pickles.

    Pickles are opened with `weights_only=True`, which runs no code, one at a time, and copied into `scratch`.

    Raises:
        BadInput: there are no weights, a shard is absent or outside of the folder, or a file is damaged.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        remedy = "merge it into its base with merge_and_unload() and give the merged folder"
        raise BadInput("holds an adapter, whose weights would be lost", remedy=remedy, file=folder)
    files = weight_files(folder) or [_unpickled(file, scratch) for file in weight_files(folder, pickles=True)]
    if not files:
        remedy = "name a folder with model.safetensors or its shards"
        raise BadInput("there are no weights in it", remedy=remedy, file=folder)
    weights: dict[str, Stored] = {}
    for file in files:
        weights.update(read_stored(file))
    return weights


def _unpickled(file: Path, scratch: Path) -> Path:
    from safetensors.torch import save_file

    try:
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged or a harmful pickle
        raise _no_weights(file, type(error).__name__) from error
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise _no_weights(file, type(weights).__name__)
    copy = scratch / f"{file.parent.name}-{file.stem}.safetensors"
    save_file({name: weight.clone() for name, weight in weights.items()}, copy)
    return copy


def _no_weights(file: Path, kind: str) -> BadInput:
    remedy = "convert the checkpoint to safetensors at its source"
    return BadInput(f"is not a pickle of weights only ({kind})", remedy=remedy, file=file)


def read_stored(file: Path) -> dict[str, Stored]:
    """Return the weights of one safetensors file by name.

    Raises:
        BadInput: the file is not a complete safetensors file, or holds what is no weight.
    """
    header = read_header(file)
    refuse_types(header, file)
    with file.open("rb") as opened:
        body = 8 + int.from_bytes(opened.read(8), "little")
    entries = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            entries[name] = Stored(file, name, entry["dtype"], tuple(entry["shape"]), body + start, end - start)
    return entries


def read_tensor(stored: Stored) -> torch.Tensor:
    """Return one weight, mapped from its file."""
    from safetensors import safe_open

    with safe_open(stored.file, "pt") as file:
        return file.get_tensor(stored.name)


def write_weights(folder: Path, weights: dict[str, Stored], max_shard_size: int) -> list[Path]:
    """Copy `weights` into `folder` under the names they are given here, in shards of at most `max_shard_size` bytes.

    A weight that is larger than a shard gets one of its own. Returns the files, the index among them where there are
    several.
    """
    from tqdm import tqdm

    shards: list[dict[str, Stored]] = [{}]
    filled = 0
    for name, stored in weights.items():
        if shards[-1] and filled + stored.size > max_shard_size:
            shards.append({})
            filled = 0
        shards[-1][name] = stored
        filled += stored.size
    count = len(shards)
    names = [f"model-{index + 1:05}-of-{count:05}.safetensors" for index in range(count)]
    names = names if count > 1 else ["model.safetensors"]
    total = sum(stored.size for stored in weights.values())
    with tqdm(total=total, desc="copying weights", unit="B", unit_scale=True, delay=2) as bar:
        for name, shard in zip(names, shards, strict=True):
            _write_shard(folder / name, shard, bar)
    files = [folder / name for name in names]
    if count > 1:
        place = {weight: name for name, shard in zip(names, shards, strict=True) for weight in shard}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": place}, indent=2) + "\n")
        files.append(index)
    return files


def _write_shard(file: Path, shard: dict[str, Stored], bar) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, stored in shard.items():
        end = offset + stored.size
        header[name] = {"dtype": stored.dtype, "shape": list(stored.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the bytes begin at a multiple of eight
    with file.open("wb") as written:
        written.write(len(encoded).to_bytes(8, "little") + encoded)
        for stored in shard.values():
            with stored.file.open("rb") as source:
                source.seek(stored.start)
                left = stored.size
                while left:
                    piece = source.read(min(left, _BUFFER))
                    if not piece:
                        raise BadInput(f"ends within {stored.name}", remedy=AGAIN, file=stored.file)
                    written.write(piece)
                    left -= len(piece)
                    bar.update(len(piece))
