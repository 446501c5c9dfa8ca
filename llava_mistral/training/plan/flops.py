"""Floating-point operations that a training step of this model has to do, from its configuration alone.

A multiplication and an addition are two operations. Counted is the work of the model, not the second forward of
gradient checkpointing, so a utilisation made of these numbers is MFU and not HFU (Chowdhery et al., "PaLM: Scaling
Language Modeling with Pathways", 2022, appendix B). Norms, activations and the optimizer are below one percent and
left out.
"""

from dataclasses import dataclass
from typing import Any


@dataclass
class Work:
    """What went through the model; every field may be a sum over batches.

    Args:
        tokens: of text and pictures, without padding.
        pairs: of a token and one that it attends to, itself included; `attended_pairs` of each sample.
        answers: tokens whose loss is computed; the head is applied to these alone.
        images: pictures (with anyres: tiles) that the vision tower read; features from a cache are none.
        features: picture tokens, the projector's outputs.
    """

    tokens: int
    pairs: int
    answers: int
    images: int
    features: int


def attended_pairs(length: int, window: int | None = None) -> int:
    """Pairs of a token and one it attends to in a causal sequence, within `window` tokens where there is one."""
    if window is None or length <= window:
        return length * (length + 1) // 2
    return window * length - window * (window - 1) // 2


def model_flops(config: Any, work: Work, stage: str, lora_r: int | None = None) -> float:
    """Operations of forward and backward over `work`.

    The text model's backward is once the forward for the activations, in stage 1 too, where the gradient passes
    through it to the projector, and once more for the weights where they are trained. Attention has no weights, and a
    backward of twice its forward. The tower has no backward.

    Args:
        config: a `LlavaMistralConfig`.
        stage: `pretrain` or `finetune`.
        lora_r: rank, where stage 2 trains low-rank matrices instead of the weights.
    """
    text = config.text_config
    full = stage == "finetune" and lora_r is None
    width = text.num_attention_heads * head_width(text)
    layers = 2 * text.num_hidden_layers * layer_weights(text) * work.tokens
    head = 2 * text.hidden_size * text.vocab_size * work.answers
    attention = 4 * text.num_hidden_layers * width * work.pairs
    total = (layers + head) * (3 if full else 2) + attention * 3
    if lora_r is not None:
        total += 3 * 2 * text.num_hidden_layers * layer_weights(text, lora_r) * work.tokens
    return float(total + projector_flops(config, work.features) + tower_flops(config) * work.images)


def head_width(text: Any) -> int:
    """Width of one attention head."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def layer_weights(text: Any, rank: int | None = None) -> int:
    """Numbers in the seven matrices of one text layer, or in the low-rank pairs beside them."""
    hidden, query = text.hidden_size, text.num_attention_heads * head_width(text)
    key = text.num_key_value_heads * head_width(text)
    shapes = [(hidden, query), (hidden, key), (hidden, key), (query, hidden)]
    shapes += [(hidden, text.intermediate_size)] * 2 + [(text.intermediate_size, hidden)]
    return sum(rows * columns if rank is None else rank * (rows + columns) for rows, columns in shapes)


def projector_flops(config: Any, features: int) -> int:
    """Forward and backward of the projector; its input is frozen, so its first layer passes no gradient on."""
    chosen = config.vision_feature_layer
    layers = 1 if isinstance(chosen, int) else len(chosen)
    first = 2 * config.vision_config.hidden_size * layers * config.text_config.hidden_size
    second = 2 * config.text_config.hidden_size**2 if config.projector_type == "mlp2x_gelu" else 0
    return features * (2 * first + 3 * second)


def tower_flops(config: Any) -> int:
    """Forward of one picture through the layers of the tower up to the one whose features are read."""
    vision, chosen = config.vision_config, config.vision_feature_layer
    count = vision.num_hidden_layers
    chosen = max(layer % (count + 1) for layer in ([chosen] if isinstance(chosen, int) else chosen))
    patches = (vision.image_size // vision.patch_size) ** 2
    width, tokens = vision.hidden_size, patches + 1
    layer = 2 * tokens * (4 * width**2 + 2 * width * vision.intermediate_size) + 4 * width * tokens**2
    return chosen * layer + 2 * patches * 3 * vision.patch_size**2 * width
