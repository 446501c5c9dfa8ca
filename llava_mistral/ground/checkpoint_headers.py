"""Check a checkpoint's files, headers and indexes before a library or a weight is loaded.

The libraries build a default of seven billion weights where config.json is missing, follow an index out of its folder,
take integers for weights, and name no file when a header is broken; docs/reliability.md has what each does.

A safetensors file is a length, a JSON header of names, types, shapes and offsets, and the bytes; see
https://huggingface.co/docs/safetensors.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.hub_access import reach_hub
from llava_mistral.ground.strict_json import read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "the file is damaged, download or build it again"
WEIGHTS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # type -> bytes of a number
_BITS = {name: 8 * size for name, size in WEIGHTS.items()} | {
    **{"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64, "C64": 64},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
}
# The format allows 100 MB, of which Python would make 2 GB; 7B checkpoints have 100 kB.
_LARGEST_HEADER = 16 << 20
_NUMBERS = 1 << 63  # of one tensor; a lie of a million factors is not multiplied out


def check_files(folder: str | Path, field: str | None = None, *, weights: bool = True) -> None:
    """Refuse an incomplete checkpoint by its configuration, index and headers; no weight is read.

    Args:
        field: the argument that names the folder, for the error.
        weights: False looks at all but them, for a plan.

    Raises:
        BadInput: config.json is absent, no JSON, or names no model; there are no safetensors, or a file is absent,
            damaged, outside of the folder, or holds what is no weight.
    """
    folder = Path(folder)
    config = read_config_file(folder, field)
    if not isinstance(config.get("model_type"), str):
        raise BadInput("names no model", remedy=AGAIN, file=folder / "config.json", field="model_type")
    files = weight_files(folder) if weights else []
    if weights and not files:
        problem = "holds no *.safetensors file"
        remedy = "name a folder that save_pretrained wrote, or convert it with llava-mistral convert"
        if others := sorted(file.name for file in folder.glob("*.safetensors")):
            problem = f"holds no {SINGLE} and no index of shards, only {others[0]}"
            remedy = f"rename it to {SINGLE} if it is the model, or fetch what is missing"
        raise BadInput(problem, remedy=remedy, file=folder, field=field)
    for file in files:
        header = read_header(file)
        if not config.get("quantization_config"):
            refuse_types(header, file)


def computing_type(name: str | Path, revision: str | None = None) -> str:
    """Return the type that a checkpoint is to be asked in, such as "bfloat16": 16 bits where it was trained so.

    Mixed precision keeps the weights in float32 for its optimizer, and saves them so; what was computed with, and what
    fits into the memory, run.json says. Without it config.json does; "auto" where neither does.

    Args:
        name: a folder, or a Hub id, which is looked up at `revision`.
    """
    recipe = _read_part(name, "run.json", revision).get("recipe")
    for key, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if isinstance(recipe, dict) and recipe.get(key) is True:
            return dtype
    config = _read_part(name, "config.json", revision)
    return str(config.get("dtype") or config.get("torch_dtype") or "auto").removeprefix("torch.")


def _read_part(name: str | Path, part: str, revision: str | None) -> dict[str, Any]:
    file: Path | str | None = Path(name) / part
    if not Path(name).is_dir():
        from transformers.utils import cached_file

        reach_hub(name)
        options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        file = cached_file(str(name), part, revision=revision, **options)
    return read_object(Path(file)) if file is not None and Path(file).is_file() else {}


def context_length(config: Any) -> int | None:
    """Return how many tokens a model takes in, answer included, or None where its configuration does not say.

    Scaled rotary positions (linear, dynamic, yarn, llama3) count: `factor` times the positions before scaling, where
    that is more. `LlavaMistralConfig.context_length` is the published copy.
    """
    text = getattr(config, "text_config", config)
    positions = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if positions is None or rope.get("rope_type", "default") == "default":
        return positions
    before = rope.get("original_max_position_embeddings") or positions
    return max(positions, int(before * (rope.get("factor") or 1)))


def read_config_file(folder: str | Path, field: str | None = None) -> dict[str, Any]:
    """Return `config.json` of a folder.

    Raises:
        BadInput: it is absent or no JSON object.
    """
    if not (Path(folder) / "config.json").is_file():
        remedy = "name a folder that save_pretrained wrote"
        raise BadInput("there is no config.json in it", remedy=remedy, file=folder, field=field)
    return read_object(Path(folder) / "config.json")


def weight_files(folder: str | Path, *, pickles: bool = False) -> list[Path]:
    """Return the files that hold a folder's weights, in the library's own order; none where there are none.

    `transformers_weights` of config.json, else model.safetensors, else the shards of its index; pickles only where
    they are asked for. An index beside the single file, as stock `save_pretrained` leaves one, is passed over unless
    all of its shards are there: of two whole sets only the owner knows which is meant. The published copy of this rule
    is `loading_llava_mistral.weight_names`.

    Args:
        pickles: look for pytorch_model.bin and its index in their place.

    Raises:
        BadInput: there are two whole sets, or an index is none, or names a file that is absent or outside of the
            folder.
    """
    folder = Path(folder)
    single, index = ("pytorch_model.bin", "pytorch_model.bin.index.json") if pickles else (SINGLE, INDEX)
    explicit = None if pickles else _explicit_weights(folder)
    if explicit is not None:
        single, index = (None, explicit) if explicit.endswith(".index.json") else (explicit, INDEX)
    shards = _shards(folder / index) if (folder / index).is_file() else []
    absent = next((file.name for file in shards if not file.is_file()), None)
    if single is None or not (folder / single).is_file():
        if absent:
            problem, remedy = f"names {absent}, which is absent", "fetch the missing shard"
            raise BadInput(problem, remedy=remedy, file=folder / index, field="weight_map")
        return shards
    if not absent and {file.name for file in shards} - {single}:
        problem = f"holds two whole sets of weights, {single} and the shards of {index}"
        raise BadInput(problem, remedy="remove the one that is not meant", file=folder)
    return [folder / single]


def _explicit_weights(folder: Path) -> str | None:
    """The file that a configuration itself names, which the library then reads before any other."""
    named = read_config_file(folder).get("transformers_weights") if (folder / "config.json").is_file() else None
    if named is not None and (not isinstance(named, str) or Path(named).name != named):
        problem, file = f"names {str(named)[:80]!r}, which is outside of its folder", folder / "config.json"
        raise BadInput(problem, remedy=AGAIN, file=file, field="transformers_weights")
    return named


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_object(index)["weight_map"].values()))
    except BadInput:
        raise
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput("is not an index of shards", remedy=AGAIN, file=index, field="weight_map") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            problem = f"names {str(name)[:80]!r}, which is outside of its folder"
            raise BadInput(problem, remedy=AGAIN, file=index, field="weight_map")
    return [index.parent / name for name in names]


def read_header(file: Path) -> dict[str, dict]:
    """Return the header of one safetensors file: name -> {dtype, shape, data_offsets}, and `__metadata__`.

    Raises:
        BadInput: the file is no safetensors, its tensors do not fill it one after the other, or a name occurs twice,
            of which others read the last.
    """
    whole = file.stat().st_size
    try:
        with file.open("rb") as opened:
            start = opened.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(b"version "):
                raise ValueError("a Git LFS pointer, fetch it with `git lfs pull`")
            if not 2 <= length <= min(_LARGEST_HEADER, whole - 8):
                raise ValueError("a header of impossible length")
            header = json.loads(opened.read(length), object_pairs_hook=_once)
        at = 0
        for start, end, name in sorted(_span(*item) for item in header.items() if item[0] != "__metadata__"):
            if start != at:
                raise ValueError(f"{name[:80]} does not begin where the tensor before it ends")
            at = end
        if at != whole - 8 - length:
            raise ValueError(f"its tensors take {at:,} bytes and it has {whole - 8 - length:,}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
        raise BadInput(f"is not a complete safetensors file ({message[:200]})", remedy=AGAIN, file=file) from error
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        twice = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"{twice[:80]} occurs twice")
    return mapping


def _span(name: str, entry: dict) -> tuple[int, int, str]:
    """Where a tensor begins and ends; its shape and type must say the same."""
    numbers = 1
    for side in entry["shape"]:
        if type(side) is not int or side < 0 or (numbers := numbers * side) > _NUMBERS:
            raise ValueError(f"{name[:80]} has an invalid shape")
    start, end = entry["data_offsets"]
    if type(start) is not int or type(end) is not int or 8 * (end - start) != numbers * _BITS[entry["dtype"]]:
        raise ValueError(f"{name[:80]} has other offsets than its shape and type need")
    return start, end, name


def refuse_types(header: dict[str, dict], file: Path) -> None:
    """Refuse weights that are stored as integers or in eight bits: without their scales they are no weights.

    A buffer of positions is one; old CLIP files have it.
    """
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] not in WEIGHTS and not name.endswith("position_ids"):
            problem = f"weight {name[:80]} is stored as {entry['dtype']}, which is not a type of weights"
            raise BadInput(problem, remedy=f"save it as one of {', '.join(WEIGHTS)}", file=file)


def check_image_token(config: Any, processor: Any, name: str | Path) -> None:
    """Refuse a processor that marks pictures by another token than the model looks for: no picture would be seen.

    Raises:
        BadInput: names both ids.
    """
    expected, actual = (getattr(one, "image_token_id", None) for one in (config, processor))
    if None not in (expected, actual) and expected != actual:
        problem = f"the model's image token is {expected} and the tokenizer's {actual}"
        raise BadInput(problem, remedy="save model and processor together", file=name, field="image_token_id")


@contextmanager
def opening(name: str | Path, part: str = "") -> Iterator[None]:
    """Turn the various errors that libraries raise at a bad checkpoint into a `BadInput` that names it.

    What is not the checkpoint's fault (a full disk, no memory, no network) stays as it is. The bar of loading is for
    whoever looks on: in a log it would stand between the lines.

    Args:
        part: the file of the checkpoint that is being read, such as config.json.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    except (BadInput, MemoryError, ImportError):
        raise
    except UnpicklingError as error:  # torch runs no code that a file of weights brings
        remedy = "convert the checkpoint to safetensors at its source"
        raise BadInput("holds a pickle of more than weights", remedy=remedy, file=name) from error
    except Exception as error:
        if not _is_the_checkpoints(error, name):
            raise
        message = " ".join(str(error).split()).removeprefix(f"{name}: ") or type(error).__name__
        message = re.sub(r"^(Class v|V)alidation error for (validator|field) '\w+': \w+: ", "", message)
        problem, _, remedy = message.rpartition("; ")
        place = f"{name}/{part}" if part and Path(name).is_dir() else name
        raise BadInput(problem or message, remedy=remedy if problem else AGAIN, file=place) from error
    finally:
        if shown:
            logging.enable_progress_bar()


def _is_the_checkpoints(error: Exception, name: str | Path) -> bool:
    kinds = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
    if isinstance(error, OSError):  # the library's own have no number
        return error.errno is None and (Path(name) / "config.json").is_file()
    return isinstance(error, kinds) or type(error).__name__.startswith(("StrictDataclass", "SafetensorError"))
