"""Frozen matrices in 16 bits, where nobody can tell: half the memory of the frozen part, and not one other bit.

Under bfloat16 autocast a matrix product rounds its weight to bfloat16 before every use. A frozen matrix whose numbers
are bfloat16 or float16 numbers already, as those of Mistral and Vicuna were when they were published, is kept as
such: what the product sees is the same, and going back to float32 gives the weight back bit for bit. Norms and
embeddings stay float32, because the residual stream takes its precision from them; the patches' convolution, because
CLIP rounds the pixels to its precision first; and matrices that 16 bits would change.
"""

import os

import torch
from torch import nn

SMALL = (torch.bfloat16, torch.float16)


def shrink_frozen(model: nn.Module) -> dict[str, int]:
    """Keep frozen matrices of `model` in 16 bits where that loses nothing.

    Call it when what is trained has been decided and before the optimizer is made.

    Returns:
        `{"shrunk": …, "kept": …}`: frozen numbers of matrices now in 16 bits, and those that stay as they were.
    """
    elsewhere = {
        id(weight)
        for module in model.modules()
        if not isinstance(module, nn.Linear)
        for weight in module.parameters(recurse=False)
    }
    counts = {"shrunk": 0, "kept": 0}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            for weight in module.parameters(recurse=False):
                if not weight.requires_grad and id(weight) not in elsewhere:  # a head may share the embeddings
                    counts["shrunk" if _shrink(weight) else "kept"] += weight.numel()
    return counts


def full_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of `model` with every shrunk weight in float32 again, on the CPU; for saving."""
    state = model.state_dict()
    return {name: weight.cpu().float() if weight.dtype in SMALL else weight for name, weight in state.items()}


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
