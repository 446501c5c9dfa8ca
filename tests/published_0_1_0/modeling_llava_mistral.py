"""LLaVA-Mistral: what differs from transformers' Llava.

The forward pass, generation and image placement are the library's own: Llava's for a picture that is one square,
LlavaNext's for one in tiles. Ours are the choice between them and of the projector, the refusal to load anything but
the complete checkpoint, and the complete `auto_map` of a saved folder.
"""

import json
import os
import sys

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
)
from transformers import initialization as init  # passes over what was loaded
from transformers.masking_utils import create_masks_for_generate
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from .configuration_llava_mistral import AUTO_MAP, LlavaMistralConfig


def refusal(said: str) -> ValueError:
    """Return the error of a request that cannot be answered; `transformers serve` says 400 and the reason.

    `processing_llava_mistral.py` tells why, and has its own: each of the two files also travels without the other.
    """
    web = sys.modules.get("starlette.exceptions")
    if web is None:
        return ValueError(said)
    kind = type("RefusedRequest", (web.HTTPException, ValueError), {"__str__": lambda self: self.detail})
    return kind(400, said)


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


FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors calls the types of weights
LARGEST_HEADER = 16 << 20  # bytes; the format allows 100 MB, 7B checkpoints have 100 kB

PROJECTORS = {"mlp2x_gelu": LlavaMultiModalProjector, "linear": LlavaMistralLinearProjector}


class LlavaMistralPreTrainedModel(LlavaPreTrainedModel):
    config: LlavaMistralConfig
    config_class = LlavaMistralConfig

    # How a folder of the original LLaVA code is opened; see `LlavaMistralConfig.read_original`.
    read_original = None

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LlavaMistralModel) and module.image_newline is not None:
            init.normal_(module.image_newline, std=module.image_newline.shape[0] ** -0.5)  # as LLaVA-1.6 does

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info=False, **kwargs):
        """Load a complete checkpoint, or refuse it: no weight may be missing, left over, misshapen or not finite.

        The library fills missing weights with random numbers and prints a table; an answer of such a model looks like
        any other. Arguments and return value are those of [`PreTrainedModel.from_pretrained`]: who asks for the
        loading info is told there what is missing and left over, and decides.

        Raises:
            ValueError: names the first weights that are missing, unexpected, mismatched or not finite, or, in a local
                folder, an index that leads out of it or a weight that is stored as integers.
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
            _refuse_files(str(name), kwargs.get("subfolder") or "", types=not output_loading_info)
        # The library's own refusal of a wrong shape leaves the weight's name to the log; ours says it.
        kwargs["ignore_mismatched_sizes"] = True
        try:
            model, info = super().from_pretrained(source, *model_args, output_loading_info=True, **kwargs)
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise ValueError(f"{name}: holds no whole safetensors file ({error}); download it again") from error
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

    def __init__(self, config: LlavaMistralConfig):
        super(LlavaModel, self).__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = PROJECTORS[config.projector_type](config)
        self.image_newline = None
        if config.image_aspect_ratio == "anyres":  # ends each row of patches, so that tiles keep their shape
            self.image_newline = nn.Parameter(torch.empty(config.text_config.hidden_size))
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    pack_image_features = LlavaNextModel.pack_image_features

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

    def generate(self, inputs=None, *args, **kwargs):
        """As [`GenerationMixin.generate`].

        Raises:
            ValueError: the prompt, its image tokens counted, is longer than the text model's context. Rotary positions
                it was not trained on give an answer like any other.
        """
        prompt, context = inputs, self.config.text_config.max_position_embeddings
        for name in ("input_ids", "inputs_embeds"):
            prompt = kwargs.get(name) if prompt is None else prompt
        if prompt is not None and prompt.shape[1] > context:
            raise refusal(
                f"the prompt has {prompt.shape[1]} tokens and the text model a context of {context}; "
                "shorten the question, or give fewer or smaller pictures"
            )
        return super().generate(inputs, *args, **kwargs)

    @staticmethod
    def create_masks_for_generate(config: LlavaMistralConfig, **kwargs) -> torch.Tensor | None:
        """The mask of a compiled or static-cache step: the one that all layers share.

        Where a configuration has `layer_types` the library makes a mask for each kind of layer, which its Mistral and
        LLaMA do not take; ours have one kind.
        """
        masks = create_masks_for_generate(config, **kwargs)
        return next(iter(masks.values())) if isinstance(masks, dict) else masks


def _count_mismatch(image_token_id: int, input_ids: torch.Tensor | None, image_features: torch.Tensor) -> str:
    found = "" if input_ids is None else f"{(input_ids == image_token_id).sum(1).tolist()} tokens by sample, "
    return (
        f"Image features and image tokens do not match: {found}{image_features.shape[0]} features of all pictures; "
        "make prompts and pictures with the same LlavaMistralProcessor, and do not truncate"
    )


def _refuse_files(folder: str, subfolder: str, types: bool) -> None:
    """Refuse what the library follows, or with `types` casts, in a local folder without a word."""
    folder = os.path.join(folder, subfolder)
    index, names = os.path.join(folder, "model.safetensors.index.json"), ["model.safetensors"]
    if os.path.isfile(index):
        try:
            with open(index, encoding="utf-8") as file:
                names = sorted(set(json.load(file)["weight_map"].values()))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{index}: has no weight_map; download it again") from error
    for name in names:
        path = os.path.join(folder, str(name))
        if os.path.basename(path) != name:
            raise ValueError(f"{index}: names {str(name)[:80]!r}, which is outside of its folder; download it again")
        if types and os.path.isfile(path) and not _is_quantized(folder):
            _refuse_types(path)


def _is_quantized(folder: str) -> bool:
    """Whether integers are what a folder's configuration says its weights are, with scales beside them."""
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            return bool(json.load(file).get("quantization_config"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False  # which the library will say


def _refuse_types(path: str) -> None:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        said = file.read(length) if length <= LARGEST_HEADER else b""
    try:
        header = [(name, dict(entry)) for name, entry in json.loads(said, object_pairs_hook=list)]
        types = {name: entry["dtype"] for name, entry in header if name != "__metadata__"}
        if len(dict(header)) < len(header):
            raise ValueError("a name is there twice, and others would read the last")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: is no whole safetensors file ({error}); download it again") from error
    for name, dtype in types.items():
        if dtype not in FLOATS and not name.endswith("position_ids"):
            raise ValueError(f"{path}: weight {name[:80]} is stored as {dtype}, no type of weights; save it anew")


def _refuse_incomplete(model: nn.Module, info: dict, name, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if keys := sorted(map(str, info.get(kind) or ())):
            raise ValueError(
                f"{name}: {len(keys)} weights are {kind.removesuffix('_keys')}, first {', '.join(keys[:3])}; "
                "the checkpoint is damaged or of another model, download or build it again"
            )
    refuse_not_finite(model, name)


def refuse_not_finite(model: nn.Module, name) -> None:
    for key, weight in model.named_parameters():
        if weight.is_floating_point() and weight.device.type != "meta" and not _is_finite(weight):
            raise ValueError(
                f"{name}: weight {key} holds NaN or infinity; the checkpoint is damaged, take another one"
            )


def _is_finite(weight: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite, in one pass and without a second tensor of the weight's size.

    The smallest and the largest element tell: either is NaN if any element is, and infinite if one is. Unlike a sum
    they cannot overflow.
    """
    return weight.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all())


__all__ = ["LlavaMistralForConditionalGeneration", "LlavaMistralModel", "LlavaMistralPreTrainedModel"]
