"""The configuration of LLaVA-Mistral: a CLIP vision tower, a projector, and a Mistral (or LLaMA) text model."""

from dataclasses import is_dataclass
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlavaConfig, __version__

OLDEST = "5.6"  # of the versions that `make compat` opens a saved folder with
if not is_dataclass(LlavaConfig):  # as 5.0 has it: its tower and text model name their weights otherwise, too
    raise ImportError(
        f"LLaVA-Mistral needs transformers {OLDEST} or newer, this is transformers {__version__}; "
        f"pip install 'transformers>={OLDEST}'"
    )
try:
    from transformers.configuration_utils import SubConfigSpec
except ImportError:  # as 5.18 has it: a configuration makes the parts that were left out itself
    SubConfigSpec = None

TEXT_DEFAULTS = {"vocab_size": 32064, "rms_norm_eps": 1e-5}
TEXT_MODEL_TYPES = ("mistral", "llama")

AUTO_MAP = {
    "AutoConfig": "configuration_llava_mistral.LlavaMistralConfig",
    "AutoModel": "modeling_llava_mistral.LlavaMistralModel",
    "AutoModelForImageTextToText": "modeling_llava_mistral.LlavaMistralForConditionalGeneration",
}


@strict
class LlavaMistralConfig(LlavaConfig):
    r"""Configuration of a [`LlavaMistralForConditionalGeneration`].

    Args:
        vision_config (`dict` or `CLIPVisionConfig`): the vision tower; CLIP ViT-L/14 at 336 px when left out.
        text_config (`dict`, `MistralConfig` or `LlamaConfig`): the language model; Mistral-7B with a vocabulary padded
            to 32,064 (room for the image and the padding token) when left out.
        image_token_id (`int`): id of the placeholder that is repeated once per image feature; below the vocabulary
        size.
        projector_type (`str`): `"mlp2x_gelu"` (LLaVA-1.5) or `"linear"` (LLaVA-1.0).
        image_aspect_ratio (`str`): how a picture becomes square: `"pad"` with the mean colour (LLaVA-1.5) or
        `"square"`
            by a centre crop. The processor does it; the model carries it so that a processor can be made again.
        vision_feature_layer (`int`): hidden state of the tower whose patch features are projected.

    Raises:
        ValueError: a text model other than Mistral or LLaMA, an image size that is not a multiple of the patch size, a
            feature layer the tower does not have, or an image token outside the vocabulary.
    """

    model_type = "llava_mistral"
    if SubConfigSpec:
        sub_configs_defaults = {
            "vision_config": LlavaConfig.sub_configs_defaults["vision_config"],
            "text_config": SubConfigSpec(AutoConfig, model_type="mistral", init_kwargs=TEXT_DEFAULTS),
        }

    projector_type: Literal["mlp2x_gelu", "linear"] = "mlp2x_gelu"
    image_aspect_ratio: Literal["pad", "square"] = "pad"

    def __post_init__(self, **kwargs):
        if not SubConfigSpec:
            given = TEXT_DEFAULTS if self.text_config is None else self.text_config
            self.text_config = {"model_type": "mistral", **given} if isinstance(given, dict) else given
        if isinstance(self.text_config, dict):  # before the library builds a model type it may not even know
            _refuse_text_model(self.text_config.get("model_type", "mistral"))
        super().__post_init__(**kwargs)
        self.image_seq_length = (self.vision_config.image_size // self.vision_config.patch_size) ** 2
        self.auto_map = dict(AUTO_MAP)

    def validate_llava_mistral(self):
        vision, text = self.vision_config, self.text_config
        _refuse_text_model(text.model_type)
        if vision.image_size % vision.patch_size:
            raise ValueError(
                f"vision_config.image_size {vision.image_size} is not a multiple of patch_size {vision.patch_size}; "
                "a picture must fall into whole patches"
            )
        layers = (
            self.vision_feature_layer if isinstance(self.vision_feature_layer, list) else [self.vision_feature_layer]
        )
        depth = vision.num_hidden_layers + 1  # the embeddings are hidden state 0
        for layer in layers:
            if not -depth <= layer < depth:
                raise ValueError(
                    f"vision_feature_layer {layer} does not exist: the tower has {depth} hidden states; "
                    f"choose one from {-depth} to {depth - 1}"
                )
        if not 0 <= self.image_token_index < text.vocab_size:
            raise ValueError(
                f"image_token_id {self.image_token_index} is outside the vocabulary of {text.vocab_size}; "
                "resize the embeddings or choose an id inside it"
            )


def _refuse_text_model(model_type: str) -> None:
    if model_type not in TEXT_MODEL_TYPES:
        raise ValueError(
            f"text_config.model_type {model_type!r} is not supported; "
            f"LLaVA-Mistral speaks {' or '.join(TEXT_MODEL_TYPES)}"
        )


__all__ = ["LlavaMistralConfig"]
