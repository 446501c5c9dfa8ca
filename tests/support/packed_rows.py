"""Packed rows through a tiny model, its gradients, and the operations that they take."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.tiny_components import TEXT
from tests.support.tiny_plugin import tiny_model


def rows_of(model, lengths, seed: int = 0) -> dict:
    """A packed row of samples of these lengths, text alone, on whose later halves there is loss."""
    borders = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.randint(5, 250, (1, int(borders[-1])), generator=torch.Generator().manual_seed(seed))
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    labels = ids.masked_fill(places < max(1, min(lengths) // 2), -100)
    marks = {name: borders.to(torch.int32) for name in ("cu_seq_lens_q", "cu_seq_lens_k")}
    marks |= dict.fromkeys(("max_length_q", "max_length_k"), max(lengths))
    return {"input_ids": ids, "labels": labels, "position_ids": places, **marks, "use_cache": False}


def kernel_model(lora: bool = False, checkpointing: bool = False, bf16: bool = True, **shape: int):
    """A model whose heads are as wide as the kernel wants them, ready to train in packed rows."""
    from llava_mistral.training.attention import use_per_sample_attention
    from llava_mistral.training.lora import add_lora
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.stages import set_trainable
    from llava_mistral.training.vision_features import VisionFeatures

    wide = {
        "model_type": "mistral",
        "vocab_size": 448,
        "sliding_window": 12,
        **TEXT,
        "hidden_size": 32,
        "head_dim": 8,
        **shape,
    }
    model = tiny_model(text_config=wide).train()
    set_trainable(model, "finetune")
    if lora:
        model, _ = add_lora(model, StageArguments(lora_r=4, lora_dropout=0.0), 0, bf16)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)  # from zero nothing of the other matrix would be learned
    VisionFeatures(model)
    use_per_sample_attention(model)
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model


def gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def near(found: dict, expected: dict, bound: float) -> None:
    assert found.keys() == expected.keys() and len(found) > 4
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= bound * gradient.norm() + 1e-7, name


class Counted(TorchDispatchMode):
    """Counts the operations that pass, by name."""

    def __init__(self):
        super().__init__()
        self.names, self.widened = Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.names[func._schema.name.removeprefix("aten::")] += 1
        if func._schema.name == "aten::_to_copy" and found.dtype == torch.float32:
            self.widened += found.nbytes
        return found
