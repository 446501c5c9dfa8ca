"""LLaVA-Mistral: what differs from transformers' Llava.

The forward pass, generation and image placement are the library's own: Llava's for a picture that is one square,
LlavaNext's for one in tiles. Ours are the choice between them and of the projector, the refusal to load anything but
the complete checkpoint (`loading_llava_mistral.py`), the text model's context as the end of an answer, and the
complete `auto_map` of a saved folder.
"""

from functools import wraps

import torch
from torch import nn
from transformers import (
    AutoModel,
    GenerationMixin,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaNextModel,
    LlavaPreTrainedModel,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers import initialization as init  # passes over what was loaded
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.masking_utils import create_masks_for_generate
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import logging

from .configuration_llava_mistral import AUTO_MAP, LlavaMistralConfig, check_window, set_layer_types
from .loading_llava_mistral import CheckedLoading, RefusedRequest

logger = logging.get_logger(__name__)


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


class LlavaMistralPreTrainedModel(CheckedLoading, LlavaPreTrainedModel):
    config: LlavaMistralConfig
    config_class = LlavaMistralConfig

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LlavaMistralModel) and module.image_newline is not None:
            init.normal_(module.image_newline, std=module.image_newline.shape[0] ** -0.5)  # as LLaVA-1.6 does

    def initialize_weights(self):
        # Under a class from outside the library it passes over modules without weights of their own, and CLIP's scale
        # of missing weights depends on those; so its parts go first, each as the library's own.
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

    def __init__(self, config: LlavaMistralConfig):
        super(LlavaModel, self).__init__(config)
        set_layer_types(config)  # a window may have been set since the configuration was made
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = PROJECTORS[config.projector_type](config)
        self.image_newline = None
        if config.image_aspect_ratio == "anyres":  # ends each row of patches, so that tiles keep their shape
            self.image_newline = nn.Parameter(torch.empty(config.text_config.hidden_size))
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    pack_image_features = LlavaNextModel.pack_image_features

    @wraps(LlavaModel.forward, assigned=())  # the library looks at the signature to see what a model takes
    def forward(self, input_ids=None, pixel_values=None, attention_mask=None, position_ids=None, *more, **kwargs):
        """As [`LlavaModel.forward`]; where it matters, a row's positions are counted from its first token.

        The library counts padding, too, outside of `generate`. That changes nothing for what looks at distances alone;
        Ministral3's scale of queries, and dynamic and longrope positions, follow from where a token stands.
        """
        rope = getattr(self.config.text_config, "rope_parameters", None) or {}
        embeddings = more[1] if len(more) > 1 else kwargs.get("inputs_embeds")
        given = embeddings if input_ids is None else input_ids
        is_mask = isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2
        counts = rope.get("llama_4_scaling_beta") or rope.get("rope_type") in ("dynamic", "longrope")
        if counts and position_ids is None and is_mask and given is not None:
            position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -given.shape[1] :]
        return super().forward(input_ids, pixel_values, attention_mask, position_ids, *more, **kwargs)

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        image_sizes: torch.Tensor | None = None,
        **kwargs,
    ):
        """Features of each picture in the text model's space.

        Args:
            pixel_values: `(pictures, 3, height, width)`; with anyres `(pictures, tiles, 3, height, width)`.
            image_sizes: with anyres, `(pictures, 2)`: height and width in pixels before any resizing.

        Returns:
            an output whose `pooler_output` holds one `(image tokens, hidden)` per picture.

        Raises:
            ValueError: anyres without `image_sizes`.
        """
        choice = {
            "vision_feature_layer": vision_feature_layer,
            "vision_feature_select_strategy": vision_feature_select_strategy,
            **kwargs,
        }
        if self.image_newline is None:  # the size a picture had says nothing about a square
            return super().get_image_features(pixel_values, **choice)
        if image_sizes is None:
            raise ValueError("image_sizes is missing: with anyres the model needs the size of each picture in pixels")
        return LlavaNextModel.get_image_features(self, pixel_values, image_sizes, **choice)

    def get_placeholder_mask(self, input_ids, inputs_embeds, image_features):
        try:
            return super().get_placeholder_mask(input_ids, inputs_embeds, image_features)
        except ValueError as error:
            raise ValueError(_count_mismatch(self.config.image_token_id, input_ids, image_features)) from error

    def _adjust_missing_and_unexpected_keys(self, loading_info) -> None:
        # A checkpoint's head is left over here. `_keys_to_ignore_on_load_unexpected` must not say so: vLLM puts a head
        # of its own on this class and throws away every weight that the list names.
        super()._adjust_missing_and_unexpected_keys(loading_info)
        loading_info.unexpected_keys = {key for key in loading_info.unexpected_keys if not key.startswith("lm_head.")}


class LlavaMistralForConditionalGeneration(
    LlavaMistralPreTrainedModel, LlavaForConditionalGeneration, GenerationMixin
):
    """[`LlavaMistralModel`] with a language-modelling head: pictures and text in, text out.

    `forward` takes `input_ids` `(batch, length)` in which each picture is as many image tokens as it has features,
    `pixel_values` `(pictures, 3, height, width)`, with anyres `(pictures, tiles, 3, height, width)` and `image_sizes`
    `(pictures, 2)`, and returns `logits` `(batch, length, vocabulary)`; see
    [`LlavaForConditionalGeneration`].
    """

    def __init__(self, config: LlavaMistralConfig):
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = LlavaMistralModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def generate(
        self, inputs=None, generation_config=None, logits_processor=None, stopping_criteria=None, *args, **kwargs
    ):
        """As [`GenerationMixin.generate`], up to the end of the text model's context (`config.context_length`).

        An answer that would go on beyond it ends there, with a warning: rotary positions that the model was not
        trained on give an answer like any other. A prompt that fills the context is returned as it is.

        Raises:
            ValueError: the prompt, its image tokens counted, is longer than the context, or the window was changed
                after the model was made.
        """
        check_window(self.config)
        ids = kwargs.get("input_ids") if inputs is None else inputs
        embeddings, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        prompt = embeddings if ids is None else ids
        if prompt is None:
            return super().generate(inputs, generation_config, logits_processor, stopping_criteria, *args, **kwargs)
        width = prompt.shape[1]
        is_mask = isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.numel()
        longest, context = int(mask.sum(1).max()) if is_mask else width, self.config.context_length
        if longest > context:
            raise RefusedRequest(
                f"the prompt has {longest} tokens and the text model a context of {context}; "
                "shorten the question, or give fewer or smaller pictures"
            )
        written = 0 if ids is None else width  # what the sequences that generation extends hold before it starts
        if longest == context:
            logger.warning(f"the prompt fills the context of {context} tokens; nothing can be answered")
            sequences = prompt.new_empty(len(prompt), 0, dtype=torch.long) if ids is None else ids
            as_output = kwargs.get("return_dict_in_generate")
            return GenerateDecoderOnlyOutput(sequences=sequences) if as_output else sequences
        end = ContextEnd(written + context - longest, context)
        stopping_criteria = StoppingCriteriaList([*(stopping_criteria or ()), end])
        return super().generate(inputs, generation_config, logits_processor, stopping_criteria, *args, **kwargs)

    @staticmethod
    def create_masks_for_generate(config: LlavaMistralConfig, **kwargs) -> torch.Tensor | dict | None:
        """The mask of a compiled or static-cache step: the one that all layers share, or Ministral's of each kind.

        Where a configuration has `layer_types` the library makes a mask for each kind of layer, which its Mistral and
        LLaMA do not take; they have one kind. Ministral looks both kinds up, also where all its layers are of one.
        """
        masks = create_masks_for_generate(config, **kwargs)
        if not isinstance(masks, dict) or len(masks) > 1:
            return masks
        ((kind, mask),) = masks.items()
        return {kind: mask} if config.get_text_config().model_type == "ministral" else mask


class ContextEnd(StoppingCriteria):
    """Ends an answer where the text model's context ends, and says so: no more than `length` tokens in a sequence."""

    def __init__(self, length: int, context: int):
        self.length, self.context = length, context

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        full = input_ids.shape[1] >= self.length
        if full:
            logger.warning(f"the context of {self.context} tokens is full; an answer that goes on is cut here")
        return torch.full((len(input_ids),), full, device=input_ids.device, dtype=torch.bool)


def _count_mismatch(image_token_id: int, input_ids: torch.Tensor | None, image_features: torch.Tensor) -> str:
    found = "" if input_ids is None else f"{(input_ids == image_token_id).sum(1).tolist()} tokens by sample, "
    return (
        f"Image features and image tokens do not match: {found}{image_features.shape[0]} features of all pictures; "
        "make prompts and pictures with the same LlavaMistralProcessor, and do not truncate"
    )


__all__ = ["LlavaMistralForConditionalGeneration", "LlavaMistralModel", "LlavaMistralPreTrainedModel"]
