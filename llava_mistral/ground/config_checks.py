"""Check the small files of a checkpoint for unsafe paths and values before a library reads them."""

import math
import re
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.bounded import MOST_BYTES

AGAIN = "save the checkpoint again so that all of it lies in its folder"
MOST = {"num_hidden_layers": 1000, "vocab_size": 10**7, "hidden_size": 10**6, "intermediate_size": 10**7}
MOST |= {"image_size": 10**5, "num_attention_heads": 10**4, "num_beams": 100, "num_return_sequences": 100}
MOST |= {"r": 10**5}  # of an adapter's matrices
MOST |= {"factor": 10**4, "rope_theta": 10**12}  # of positions; beyond them lie infinite ones
MOST_GRIDS = 1000  # LLaVA-NeXT lists 5, LLaVA-OneVision 36
MOST_SIDE = 4096  # pixels that a processor may make of a picture's side; towers take 224 to 1,024


def check_texts(name: str) -> None:
    """Refuse a folder in which the library would read a pipe, which never ends, or a text that is too long."""
    for path in sorted(Path(name).rglob("*")) if Path(name).is_dir() else ():
        if path.suffix in (".json", ".jinja", ".txt", ".model", ".py", ".safetensors") and path.exists():
            if not (path.is_file() or path.is_dir()):
                raise BadInput("is not a regular file", remedy=AGAIN, file=path)
            if path.suffix != ".safetensors" and path.is_file() and path.stat().st_size > MOST_BYTES:
                problem = f"has {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}"
                raise BadInput(problem, remedy=AGAIN, file=path)


def check_config(config: Any, file: str) -> None:
    """Refuse an implementation that is a repository of the Hub, which the library would fetch and run; and lies.

    A model of 10**9 layers is built before its weights are looked at.
    """
    parts = [config]
    while parts:
        part = parts.pop()
        for key, value in part.items() if isinstance(part, dict) else ():
            if isinstance(value, int | float) and not value <= MOST.get(key, math.inf):
                shown = value if isinstance(value, float) else f"{value:,}"
                problem, remedy = f"is {shown}, more than any model has", "correct the configuration"
                raise BadInput(problem, remedy=remedy, file=file, field=key)
            if key == "rank_pattern" and isinstance(value, dict):
                parts += [{"r": rank} for rank in value.values()]
            if str(key).lstrip("_").startswith(("attn_implementation", "experts_implementation")):
                for one in value.values() if isinstance(value, dict) else [value]:
                    if isinstance(one, str) and "/" in one:
                        raise BadInput(
                            f"names a kernel of the Hub ({one})", remedy="take it out", file=file, field=key
                        )
            parts.append(value)
        parts += part if isinstance(part, list) else []


def check_sides(processor: dict, file: str) -> None:
    """Refuse a processor that makes pictures of many gigabytes; other keys of `size` count pixels, and are many."""
    pictures = processor.get("image_processor")
    grid = processor.get("image_grid_pinpoints")
    if isinstance(grid, list) and len(grid) > MOST_GRIDS:
        problem = f"lists {len(grid):,} grids, more than {MOST_GRIDS:,}"
        raise BadInput(problem, remedy=AGAIN, file=file, field="image_grid_pinpoints")
    for part in (processor, pictures if isinstance(pictures, dict) else {}):
        for key in ("size", "crop_size"):
            sides = part.get(key) if isinstance(part.get(key), dict) else {"height": part.get(key)}
            named = sides if {"height", "width"} & sides.keys() else {}
            named = named or (sides if str(part.get("image_processor_type")).startswith(("Llava", "CLIP")) else {})
            if any(isinstance(side, int) and side > MOST_SIDE for side in named.values()):
                problem = f"makes pictures of more than {MOST_SIDE} pixels a side ({named})"
                raise BadInput(problem, remedy=AGAIN, file=file, field=key)


def check_tokenizer(tokenizer: dict, file: str | Path) -> None:
    """Refuse a tokenizer's configuration that names a file by a path that climbs out of its folder.

    Raises:
        BadInput: naming the entry.
    """
    for key, value in tokenizer.items():
        names = value if isinstance(value, list) else [value]
        if re.search("_files?$", key) and any(
            ".." in re.split(r"[/\\]", name) for name in names if isinstance(name, str)
        ):
            raise BadInput(f"names a file outside of its folder ({value!r})", remedy=AGAIN, file=file, field=key)
