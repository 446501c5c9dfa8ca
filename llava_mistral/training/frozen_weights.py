"""Keep frozen matrices in 16 bits where results stay bit-identical: half the memory of the frozen part.

Under bfloat16 autocast a matrix product rounds its weight to bfloat16 before every use. A frozen matrix whose numbers
are bfloat16 or float16 numbers already, as those of Mistral and Vicuna were when they were published, is kept as
such: what the product sees is the same, and going back to float32 gives the weight back bit for bit. A checkpoint is
saved likewise: what was frozen has the type that it has in the base's file. Norms and
embeddings stay float32, because the residual stream takes its precision from them; the patches' convolution, because
CLIP rounds the pixels to its precision first; and matrices that 16 bits would change.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import cached_file

from llava_mistral.ground.checkpoint_headers import read_header, weight_files
from llava_mistral.training.stages import is_projection

SMALL = (torch.bfloat16, torch.float16)


def shrink_frozen(model: nn.Module) -> dict[str, int]:
    """Keep frozen matrices of `model` in 16 bits where that loses nothing.

    Call it when what is trained has been decided and before the optimizer is made.

    Returns:
        `{"shrunk": …, "kept": …}`: frozen numbers of matrices now in 16 bits, and those that stay as they were.
    """
    elsewhere = _elsewhere(model)
    counts = {"shrunk": 0, "kept": 0}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            for weight in module.parameters(recurse=False):
                if not weight.requires_grad and id(weight) not in elsewhere:
                    counts["shrunk" if _shrink(weight) else "kept"] += weight.numel()
    return counts


def load_small(kind: Any, name: str, revision: str | None, options: dict[str, Any]) -> nn.Module | None:
    """Open a checkpoint that is stored in one type of 16 bits, all or most of it, without a float32 copy of the whole.

    The peak of the host's memory is then little more than what is stored. What the files hold in float32 is put in as
    they have it; `widen` makes float32 of whatever must be.

    Args:
        kind: an Auto class.
        options: of `from_pretrained`.

    Returns:
        None where the checkpoint is stored otherwise: it is to be opened in float32.
    """
    types = stored_types(name, revision)
    folder = _folder(name, revision)
    if len(set(types.values())) != 1 or folder is None:
        return None
    model = kind.from_pretrained(name, **options | {"dtype": next(iter(types.values()))})
    weights = dict(model.named_parameters(remove_duplicate=False))
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            for key in opened.keys() - types.keys():
                if key not in weights or weights[key].dtype not in SMALL:
                    return None
                weights[key].data = opened.get_tensor(key)
    return model


def widen(model: nn.Module, kept: Collection[int] = ()) -> None:
    """Make float32 of all 16-bit weights but frozen matrices: what is trained, norms, embeddings, the patches.

    Args:
        kept: ids of trained matrices that stay as they are.
    """
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            trained = weight.requires_grad and id(weight) not in kept
            if weight.dtype in SMALL and (trained or not isinstance(module, nn.Linear)):
                weight.data = weight.data.float()


def trained_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The text model's matrices that are trained, its head among them where that is not the table of embeddings."""
    elsewhere = _elsewhere(model)
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.weight.requires_grad
        and id(module.weight) not in elsewhere
        and not is_projection(f"{name}.weight")
    ]


def narrow(weights: Iterable[nn.Parameter]) -> int:
    """Put weights into bfloat16, rounded to the nearest; returns how many numbers that changed."""
    rounded = 0
    for weight in weights:
        small = weight.data.to(torch.bfloat16)
        rounded += 0 if weight.dtype == torch.bfloat16 else int((small.float() != weight.data.float()).sum())
        weight.data = small
    return rounded


def _elsewhere(model: nn.Module) -> set[int]:
    """Ids of the weights that modules other than linear ones hold: a head may share the embeddings."""
    return {
        id(weight)
        for module in model.modules()
        if not isinstance(module, nn.Linear)
        for weight in module.parameters(recurse=False)
    }


def saved_state(
    model: nn.Module, stored: Mapping[str, torch.dtype], weights: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The state of `model` for saving, on the CPU: what was trained as it was, what was frozen as its base has it.

    Args:
        stored: types of the base's weights of 16 bits, of `stored_types`; all others become float32.
        weights: all of the model's, where they are spread over processes; None: its own.
    """
    trained = {name: weight.dtype for name, weight in model.named_parameters() if weight.requires_grad}
    state = {name: weight.cpu() for name, weight in (model.state_dict() if weights is None else weights).items()}
    return {
        name: _as_stored(weight, trained.get(name, stored.get(name))) if weight.is_floating_point() else weight
        for name, weight in state.items()
    }


def _as_stored(weight: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    full = weight.float() if weight.dtype in SMALL else weight
    small = None if dtype is None else full.to(dtype)
    return small if small is not None and torch.equal(small.float(), full) else full


def stored_types(name: str, revision: str | None = None) -> dict[str, torch.dtype]:
    """The types of the weights that a checkpoint (folder or Hub id) stores in 16 bits, by its files' headers."""
    folder = _folder(name, revision)
    if folder is None:  # the cache was emptied while it trained
        return {}
    types = {"BF16": torch.bfloat16, "F16": torch.float16}
    headers = [read_header(file) for file in weight_files(folder)]
    return {
        key: types[entry["dtype"]]
        for header in headers
        for key, entry in header.items()
        if entry.get("dtype") in types
    }


def _folder(name: str, revision: str | None) -> Path | None:
    """Where the files of a checkpoint lie, a Hub id's in the cache; None if they are not there."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(cached_file(name, "config.json", revision=revision, local_files_only=True)).parent
    except OSError:
        return None


def is_safe(config) -> bool:
    """Whether shrinking changes nothing: bfloat16 arithmetic, and weights that are not gathered together.

    FSDP and DeepSpeed do, and take weights of one precision only.
    """
    spread = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    launched = any(os.environ.get(name, "false").lower() in ("1", "true", "yes") for name in spread)
    return config.bf16 and not (launched or config.fsdp or config.deepspeed)


def _shrink(weight: nn.Parameter) -> bool:
    if weight.dtype != torch.float32 or weight.device.type == "meta":
        return False
    for dtype in SMALL:
        small = weight.data.to(dtype)
        if torch.equal(small.float(), weight.data):
            weight.data = small
            return True
    return False
