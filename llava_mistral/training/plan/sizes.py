"""How many weights each part of a model has and which of them a stage trains, from the configuration alone."""

from dataclasses import dataclass
from typing import Any

from llava_mistral.training.plan.flops import head_width, layer_weights


@dataclass(frozen=True)
class Sizes:
    """Numbers in the parts of a `LlavaMistralForConditionalGeneration`.

    Args:
        tower: of the vision tower.
        projector: without the newline of tiles.
        newline: ends a row of patches with anyres; trained with the projector.
        embedding, head: `vocab_size x hidden_size` each; a tied head has none.
        layer: in the seven matrices of one text layer.
        norms: of the text model, all layers.
        layers: how many text layers.
        low_rank: of the LoRA pairs on all text layers; 0 without LoRA.
    """

    tower: int
    projector: int
    newline: int
    embedding: int
    head: int
    layer: int
    norms: int
    layers: int
    low_rank: int

    @property
    def matrices(self) -> int:
        """Numbers in the seven matrices of all text layers."""
        return self.layer * self.layers

    @property
    def text(self) -> int:
        """Numbers of the text model with its head, without LoRA."""
        return self.embedding + self.matrices + self.norms + self.head

    def counts(self, stage: str) -> dict[str, int]:
        """`{"trainable": …, "frozen": …}` as `stages.set_trainable` and `lora.add_lora` count them."""
        projection = self.projector + self.newline
        if self.low_rank:
            return {"trainable": self.low_rank + projection, "frozen": self.tower + self.text}
        if stage == "pretrain":
            return {"trainable": projection, "frozen": self.tower + self.text}
        return {"trainable": projection + self.text, "frozen": self.tower}


def sizes_of(config: Any, lora_r: int | None = None) -> Sizes:
    """Count the parts of a `LlavaMistralConfig`; `lora_r` is the rank where stage 2 is LoRA."""
    text = config.text_config
    hidden, layers = text.hidden_size, text.num_hidden_layers
    embedding = text.vocab_size * hidden
    biases = attention_biases(text) + mlp_biases(text)
    return Sizes(
        tower=tower_size(config.vision_config),
        projector=projector_size(config),
        newline=hidden if config.image_aspect_ratio == "anyres" else 0,
        embedding=embedding,
        head=0 if getattr(config, "tie_word_embeddings", False) else embedding,
        layer=layer_weights(text) + biases,
        norms=(2 * layers + 1) * hidden,
        layers=layers,
        low_rank=layers * layer_weights(text, lora_r) if lora_r else 0,
    )


def attention_biases(text: Any) -> int:
    """Of one layer; Mistral has none, LLaMA may have them."""
    if not getattr(text, "attention_bias", False):
        return 0
    width = head_width(text)
    return width * (text.num_attention_heads + 2 * text.num_key_value_heads) + text.hidden_size


def mlp_biases(text: Any) -> int:
    """Of one layer; Mistral has none, LLaMA may have them."""
    return 2 * text.intermediate_size + text.hidden_size if getattr(text, "mlp_bias", False) else 0


def projector_size(config: Any) -> int:
    """Of the affine maps between the tower's width and the text model's, one or two."""
    chosen = config.vision_feature_layer
    width = config.vision_config.hidden_size * (1 if isinstance(chosen, int) else len(chosen))
    hidden, bias = config.text_config.hidden_size, bool(config.multimodal_projector_bias)
    second = (hidden + bias) * hidden if config.projector_type == "mlp2x_gelu" else 0
    return (width + bias) * hidden + second


def tower_size(vision: Any) -> int:
    """Of a `CLIPVisionModel`: class token, patches, positions, two norms outside the layers, and the layers."""
    width, inner = vision.hidden_size, vision.intermediate_size
    positions = (vision.image_size // vision.patch_size) ** 2 + 1
    layer = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
    outside = width + vision.num_channels * vision.patch_size**2 * width + positions * width + 4 * width
    return outside + vision.num_hidden_layers * layer
