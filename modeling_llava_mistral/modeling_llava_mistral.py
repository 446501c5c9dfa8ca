"""LLaVA-Mistral: what differs from transformers' Llava.

The forward pass, generation and image placement are the library's own. Ours are the projector's choice, the refusal to
load anything but the complete checkpoint, and the complete `auto_map` of a saved folder.
"""

import torch
from torch import nn
from transformers import (
    AutoModel,
    GenerationMixin,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
    PreTrainedModel,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from .configuration_llava_mistral import AUTO_MAP, LlavaMistralConfig


class LlavaMistralLinearProjector(nn.Module):
    """LLaVA-1.0's projector: one affine map from the tower's width to the text model's.

    `(..., vision hidden size)` to `(..., text hidden size)`. Source: Liu et al., "Visual Instruction Tuning", 2023.
    """

    def __init__(self, config: LlavaMistralConfig):
        super().__init__()
        layers = 1 if isinstance(config.vision_feature_layer, int) else len(config.vision_feature_layer)
        width = config.vision_config.hidden_size * layers
        self.linear_1 = nn.Linear(width, config.text_config.hidden_size, bias=config.multimodal_projector_bias)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        return self.linear_1(image_features)


PROJECTORS = {"mlp2x_gelu": LlavaMultiModalProjector, "linear": LlavaMistralLinearProjector}


class LlavaMistralPreTrainedModel(LlavaPreTrainedModel):
    config: LlavaMistralConfig
    config_class = LlavaMistralConfig

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info=False, **kwargs):
        """Load a complete checkpoint, or refuse it: no weight may be missing, left over, misshapen or not finite.

        The library fills missing weights with random numbers and prints a table; an answer of such a model looks like
        any other. Arguments and return value are those of [`PreTrainedModel.from_pretrained`]: who asks for the
        loading info is told there what is missing and left over, and decides.

        Raises:
            ValueError: names the first weights that are missing, unexpected, mismatched or not finite.
        """
        name = pretrained_model_name_or_path
        if name is None:  # a state dict in memory, of which the caller knows what it holds
            return super().from_pretrained(None, *model_args, output_loading_info=output_loading_info, **kwargs)
        # The library's own refusal of a wrong shape leaves the weight's name to the log; ours says it.
        kwargs["ignore_mismatched_sizes"] = True
        model, info = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
        kinds = ("mismatched_keys",) if output_loading_info else ("missing_keys", "unexpected_keys", "mismatched_keys")
        _refuse_incomplete(model, info, name, kinds)
        return (model, info) if output_loading_info else model

    def initialize_weights(self):
        # Under a class from outside the library it passes over modules without weights of their own, and CLIP's scale
        # of missing weights hangs on those; so its parts go first, each as the library's own.
        for part in self.modules():
            if isinstance(part, PreTrainedModel) and not isinstance(part, LlavaMistralPreTrainedModel):
                part.initialize_weights()
        super().initialize_weights()

    def save_pretrained(self, save_directory, **kwargs):
        # The library records only the saved class; a folder must open with AutoModel, too. Code travels in the folder,
        # so an `owner/repo--` prefix that an earlier load put there is dropped.
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)


class LlavaMistralModel(LlavaMistralPreTrainedModel, LlavaModel):
    """Vision tower, projector and text model without the language-modelling head; see [`LlavaModel`]."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: LlavaMistralConfig):
        super(LlavaModel, self).__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = PROJECTORS[config.projector_type](config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()


class LlavaMistralForConditionalGeneration(
    LlavaMistralPreTrainedModel, LlavaForConditionalGeneration, GenerationMixin
):
    """[`LlavaMistralModel`] with a language-modelling head: pictures and text in, text out.

    `forward` takes `input_ids` `(batch, length)` in which each picture is `image_seq_length` image tokens,
    `pixel_values` `(pictures, 3, height, width)`, and returns `logits` `(batch, length, vocabulary)`; see
    [`LlavaForConditionalGeneration`].
    """

    def __init__(self, config: LlavaMistralConfig):
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = LlavaMistralModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


def _refuse_incomplete(model: nn.Module, info: dict, name, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if keys := sorted(map(str, info.get(kind) or ())):
            raise ValueError(
                f"{name}: {len(keys)} weights are {kind.removesuffix('_keys')}, first {', '.join(keys[:3])}; "
                "the checkpoint is damaged or of another model, download or build it again"
            )
    for key, weight in model.named_parameters():
        if weight.is_floating_point() and weight.device.type != "meta" and not torch.isfinite(weight).all():
            raise ValueError(
                f"{name}: weight {key} holds NaN or infinity; the checkpoint is damaged, take another one"
            )


__all__ = ["LlavaMistralForConditionalGeneration", "LlavaMistralModel", "LlavaMistralPreTrainedModel"]
