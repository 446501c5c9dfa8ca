"""Checks of a checkpoint before and after its weights are read: nothing may be missing, left over or damaged.

The library fills missing weights with random numbers and prints a table; an answer of such a model looks like any
other.
"""

import json
import os

import torch
from torch import nn

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors calls the types of weights
LARGEST_HEADER = 16 << 20  # bytes; the format allows 100 MB, 7B checkpoints have 100 kB
DAMAGED = "the checkpoint is damaged or of another model, download or build it again"


class RefusedRequest(ValueError):
    """A request that cannot be answered. Servers may answer with `status_code` and the message."""

    status_code = 400


class CheckedLoading:
    """Mixin before [`PreTrainedModel`]: loads a complete checkpoint or refuses it."""

    # How a folder of the original LLaVA code is opened. The plugin sets it when it is imported; code in a published
    # folder never meets such a folder.
    read_original = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info=False, **kwargs):
        """Load a complete checkpoint, or refuse it: no weight may be missing, left over, misshapen or not finite.

        Arguments and return value are those of [`PreTrainedModel.from_pretrained`]. With `output_loading_info=True`
        missing and unexpected keys are returned instead of raised.

        Raises:
            ValueError: names the first weights that are missing, unexpected, mismatched or not finite, or, in a local
                folder, two sets of weights, an index that leads out of it, or a weight that is stored as integers.
            OSError: there are no safetensors.
        """
        name = pretrained_model_name_or_path
        if name is None:  # a state dict in memory, of which the caller knows what it holds
            return super().from_pretrained(None, *model_args, output_loading_info=output_loading_info, **kwargs)
        source = name
        if cls.read_original is not None and (original := cls.read_original(name, kwargs)) is not None:
            source, kwargs = None, original  # configuration and weights are at hand
        else:
            kwargs.setdefault("use_safetensors", True)  # never a pickle
            folder = os.path.join(str(name), kwargs.get("subfolder") or "")
            refuse_files(folder, kwargs.get("variant"), types=not output_loading_info)
        # The library's own refusal of a wrong shape leaves the weight's name to the log; ours says it.
        kwargs["ignore_mismatched_sizes"] = True
        try:
            model, info = super().from_pretrained(source, *model_args, output_loading_info=True, **kwargs)
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise ValueError(f"{name}: holds no complete safetensors file ({error}); download it again") from error
        kinds = ("mismatched_keys",) if output_loading_info else ("missing_keys", "unexpected_keys", "mismatched_keys")
        for kind in kinds:
            if keys := sorted(map(str, info.get(kind) or ())):
                kind = kind.removesuffix("_keys")
                raise ValueError(f"{name}: {len(keys)} weights are {kind}, first {', '.join(keys[:3])}; {DAMAGED}")
        refuse_not_finite(model, name)
        return (model, info) if output_loading_info else model


def refuse_files(folder: str, variant: str | None = None, types: bool = True) -> None:
    """Refuse what the library follows, or with `types` casts, in a local folder without a word.

    Args:
        variant: as `from_pretrained` takes it, the "fp16" of `model.fp16.safetensors`.
    """
    for path in (os.path.join(folder, name) for name in weight_names(folder, variant)):
        if types and os.path.isfile(path) and not _config(folder).get("quantization_config"):
            _refuse_types(path)


def weight_names(folder: str, variant: str | None = None) -> list[str]:
    """Return the names of the safetensors that the library reads in a local folder, in its own order.

    `transformers_weights` of config.json, else the single file, else the shards of the index. An index beside the
    single file is passed over, unless all its shards are there: of two whole sets only the owner knows which is meant.

    Raises:
        ValueError: two whole sets, an index that is damaged or leads out of the folder.
    """
    single, index = SINGLE, INDEX
    if variant is not None:
        single, index = f"model.{variant}.safetensors", f"model.safetensors.index.{variant}.json"
    explicit = _config(folder).get("transformers_weights")
    if isinstance(explicit, str) and os.path.basename(explicit) == explicit:
        single, index = (SINGLE, explicit) if explicit.endswith(".index.json") else (explicit, INDEX)
    shards = _shards(folder, index) if os.path.isfile(os.path.join(folder, index)) else []
    if os.path.isfile(os.path.join(folder, single)) and index != explicit:
        if set(shards) - {single} and all(os.path.isfile(os.path.join(folder, name)) for name in shards):
            raise ValueError(
                f"{folder}: holds two sets of weights, {single} and the shards of {index}; remove the one not meant"
            )
        return [single]
    return shards


def _shards(folder: str, index: str) -> list[str]:
    index = os.path.join(folder, index)
    try:
        with open(index, encoding="utf-8") as file:
            names = sorted({str(name) for name in json.load(file)["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: has no weight_map; download it again") from error
    for name in names:
        if os.path.basename(name) != name:
            raise ValueError(f"{index}: names {name[:80]!r}, which is outside of its folder; download it again")
    return names


def _config(folder: str) -> dict:
    """Return the folder's configuration; what is wrong with it the library will say."""
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _refuse_types(path: str) -> None:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= LARGEST_HEADER else b""
    try:
        entries = [(name, dict(entry)) for name, entry in json.loads(header, object_pairs_hook=list)]
        types = {name: entry["dtype"] for name, entry in entries if name != "__metadata__"}
        if len(dict(entries)) < len(entries):
            raise ValueError("a name occurs twice, and others would read the last")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: is not a complete safetensors file ({error}); download it again") from error
    for name, dtype in types.items():
        if dtype not in FLOATS and not name.endswith("position_ids"):
            raise ValueError(f"{path}: weight {name[:80]} is stored as {dtype}, no type of weights; save it anew")


def refuse_not_finite(model: nn.Module, name) -> None:
    for key, weight in model.named_parameters():
        if weight.is_floating_point() and weight.device.type != "meta" and not _is_finite(weight):
            raise ValueError(
                f"{name}: weight {key} holds NaN or infinity; the checkpoint is damaged, take another one"
            )


def _is_finite(weight: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite, in one pass and without a second tensor of the weight's size.

    The smallest and the largest element tell: either is NaN if any element is, and infinite if one is. Unlike a sum
    they cannot overflow. Eight-bit floats and the tensors of quantisers do not know `aminmax`: their numbers are
    looked at as float32, and what cannot become that is the quantiser's to check.
    """
    weight = weight.detach()
    try:
        return weight.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(weight))).all())
    except (NotImplementedError, RuntimeError):
        pass
    try:
        wide = weight.dequantize() if hasattr(weight, "tensor_impl") else weight.float()
        return bool(torch.isfinite(wide).all())
    except (NotImplementedError, RuntimeError, AttributeError):
        return True


__all__ = ["CheckedLoading", "RefusedRequest", "refuse_files", "refuse_not_finite", "weight_names"]
