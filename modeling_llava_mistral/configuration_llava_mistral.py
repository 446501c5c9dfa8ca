"""The configuration of LLaVA-Mistral: a vision tower, a projector, and a text model of Mistral's or LLaMA's family."""

from dataclasses import is_dataclass

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlavaConfig, __version__
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

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
# Those that the running version has: ministral and ministral3 came later than the oldest.
TEXT_MODEL_TYPES = tuple(
    name for name in ("mistral", "ministral", "ministral3", "llama") if name in CONFIG_MAPPING_NAMES
)
TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # and the class tokens before their patches
CHOICES = {"projector_type": ("mlp2x_gelu", "linear"), "image_aspect_ratio": ("pad", "square", "anyres")}

AUTO_MAP = {
    "AutoConfig": "configuration_llava_mistral.LlavaMistralConfig",
    "AutoModel": "modeling_llava_mistral.LlavaMistralModel",
    "AutoModelForImageTextToText": "modeling_llava_mistral.LlavaMistralForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_llava_mistral.LlavaMistralForConditionalGeneration",  # trainers look for it
    "AutoModelForMultimodalLM": "modeling_llava_mistral.LlavaMistralForConditionalGeneration",
}

# `transformers serve` knows what can see pictures by this table of names alone, and takes the class of a model that is
# not in it from the library itself. The configuration is read before the table is, so the entry is made here.
_sees_pictures = getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {})  # older versions have none
_sees_pictures.setdefault("llava_mistral", "LlavaMistralForConditionalGeneration")

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SIZES += ("head_dim", "vocab_size", "max_position_embeddings", "image_size", "patch_size")
DTYPES = ("float32", "bfloat16", "float16", "float64")  # of weights; the library asks torch for any attribute

FULL, SLIDING = "full_attention", "sliding_attention"  # kinds of layers
LLAVA_NEXT_GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # tiles down and across


@strict
class LlavaMistralConfig(LlavaConfig):
    r"""Configuration of a [`LlavaMistralForConditionalGeneration`].

    Args:
        vision_config (`dict`, `CLIPVisionConfig` or `SiglipVisionConfig`): the vision tower; CLIP ViT-L/14 at 336 px
            when left out. SigLIP has no class token: `vision_feature_select_strategy` must then be `"full"`.
        text_config (`dict`, `MistralConfig`, `MinistralConfig`, `Ministral3Config` or `LlamaConfig`): the language
            model; Mistral-7B with a vocabulary padded to 32,064 (room for the image and the padding token) when left
            out. Its `layer_types` follow from `sliding_window` (null: every token sees all before it), because some
            engines read only those; change the window before a model is made, not in that of a model. Ministral alone
            has windows by layer, and its `layer_types` are its own.
        image_token_id (`int`): id of the placeholder that is repeated once per image feature; below the vocabulary
        size.
        projector_type (`str`): `"mlp2x_gelu"` (LLaVA-1.5) or `"linear"` (LLaVA-1.0).
        image_aspect_ratio (`str`): how a picture becomes squares: `"pad"` with the mean colour (LLaVA-1.5), `"square"`
            by a centre crop, or `"anyres"` as a whole and in tiles (LLaVA-1.6). The processor does it.
        image_grid_pinpoints (`list`): with `"anyres"`, the `[height, width]` in pixels that tiles may cover together;
            multiples of the tower's image size, LLaVA-1.6's five when left out.
        vision_feature_layer (`int`): hidden state of the tower whose patch features are projected.

    Raises:
        ValueError: a text model of another type, a size that is no whole number above 0, heads that do not
            divide the width, an unknown type of weights, an image size that is not a multiple of the patch size, a
            feature layer the tower does not have, a grid point that is not whole tiles, an image token outside the
            vocabulary, a window below one token, layers of which only some are windowed (but Ministral's), a tower of
            another type, a class token asked of a tower without one, an unknown projector, or an unknown picture
            handling.
    """

    model_type = "llava_mistral"
    if SubConfigSpec:
        sub_configs_defaults = {
            "vision_config": LlavaConfig.sub_configs_defaults["vision_config"],
            "text_config": SubConfigSpec(AutoConfig, model_type="mistral", init_kwargs=TEXT_DEFAULTS),
        }

    # How a configuration of the original LLaVA code becomes a nested one. The plugin sets it when it is imported
    # (`original.py`, which does not travel); code in a published folder never meets such a file.
    read_original = None

    projector_type: str = "mlp2x_gelu"
    image_aspect_ratio: str = "pad"
    image_grid_pinpoints: list | None = None

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As [`PreTrainedConfig.get_config_dict`].

        Raises:
            ValueError: there is no config.json, or it is another model's. The library would go on with the defaults,
                seven billion weights, or read what is the other's as its own.
        """
        config, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if isinstance(config, dict) and "mm_vision_tower" in config and cls.read_original is not None:
            config = cls.read_original(config, str(pretrained_model_name_or_path), kwargs.get("image_token_id"))
        model_type = config.get("model_type") if isinstance(config, dict) else None
        if model_type != cls.model_type and not (isinstance(config, dict) and "mm_vision_tower" in config):
            problem = (
                f"config.json is of model_type {model_type!r}" if config != {} else "there is no config.json in it"
            )
            raise ValueError(f"{pretrained_model_name_or_path}: {problem}; give a checkpoint of {cls.model_type}")
        return config, rest

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        if "mm_vision_tower" in config_dict and cls.read_original is not None:
            config_dict = cls.read_original(config_dict, kwargs.get("name_or_path"), kwargs.get("image_token_id"))
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs):
        for part, config in (("", self), ("vision_config.", self.vision_config), ("text_config.", self.text_config)):
            _refuse_sizes(part, config)
        if not SubConfigSpec:
            given = TEXT_DEFAULTS if self.text_config is None else self.text_config
            self.text_config = {"model_type": "mistral", **given} if isinstance(given, dict) else given
        if isinstance(self.text_config, dict):  # before the library builds a model type it may not even know
            _refuse_text_model(self.text_config.get("model_type", "mistral"))
            if self.text_config.get("model_type") != "ministral":
                # Written below from the window; given to MistralConfig they would make it warn of another class.
                self.text_config = dict(self.text_config)
                _refuse_mixed_layers(self.text_config.pop("layer_types", None))
        super().__post_init__(**kwargs)
        _refuse_text_model(self.text_config.model_type)
        if self.text_config.model_type != "ministral":
            _refuse_mixed_layers(getattr(self.text_config, "layer_types", None))
        set_layer_types(self)
        side = self.vision_config.image_size
        self.image_seq_length = (side // self.vision_config.patch_size) ** 2
        if self.image_aspect_ratio == "anyres" and self.image_grid_pinpoints is None:
            self.image_grid_pinpoints = [[side * rows, side * columns] for rows, columns in LLAVA_NEXT_GRIDS]
        self.auto_map = dict(AUTO_MAP)
        self.validate_llava_mistral()  # the library's own round would turn a ValueError into what is none

    @property
    def window(self) -> int | None:
        """How many tokens a token attends to, itself included, in the layers that have a window; None: all before it.
        LLaMA has no window."""
        return window_of(self.text_config)

    @property
    def context_length(self) -> int:
        """How many tokens the text model takes in, answer included: scaled rotary positions count.

        As vLLM reckons: `factor` times the positions before scaling, where that is more than the positions.
        """
        positions = longest = self.text_config.max_position_embeddings
        rope = getattr(self.text_config, "rope_parameters", None) or {}
        if rope.get("rope_type", "default") != "default":
            before = rope.get("original_max_position_embeddings") or positions
            longest = max(positions, int(before * (rope.get("factor") or 1)))
        return longest

    def window_binds(self, length: int) -> bool:
        """Whether a sequence of `length` tokens, image tokens included, is longer than the sliding window."""
        return self.window is not None and length > self.window

    def describe_window(self, longest: int) -> str:
        """Return a line for a run's record: did the window bound anything, its longest sequence being `longest`?"""
        if self.window is None:
            return "no sliding window: every token attends to all before it"
        effect = "bound" if self.window_binds(longest) else "never bound: the attention was full"
        kinds = self.text_config.layer_types
        some = f" in {kinds.count(SLIDING)} of {len(kinds)} layers" if FULL in kinds else ""
        return f"sliding window of {self.window:,} tokens{some}, longest sequence {longest:,}: it {effect}"

    def validate_llava_mistral(self):
        vision, text = self.vision_config, self.text_config
        for part, config in (("vision_config.", vision), ("text_config.", text)):
            _refuse_sizes(part, config)
        if text.num_attention_heads % text.num_key_value_heads:
            raise ValueError(
                f"text_config.num_attention_heads {text.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{text.num_key_value_heads}; each key is shared by as many heads"
            )
        if text.model_type == "ministral" and text.sliding_window is None:  # the library's masks ask for one
            raise ValueError("text_config.sliding_window null is no window of ministral; give one, or use mistral")
        if self.window is not None and self.window < 1:
            raise ValueError(
                f"text_config.sliding_window {self.window} is not a valid window; "
                "give a positive number of tokens, or null for none"
            )
        if vision.image_size % vision.patch_size and TOWERS.get(vision.model_type) != 0:  # SigLIP cuts off: 384 by 14
            raise ValueError(
                f"vision_config.image_size {vision.image_size} is not a multiple of patch_size {vision.patch_size}; "
                "a picture must fall into whole patches"
            )
        for point in self.image_grid_pinpoints or ():
            if len(point) != 2 or any(side < vision.image_size or side % vision.image_size for side in point):
                raise ValueError(
                    f"image_grid_pinpoints {point} is not a height and a width of whole tiles of {vision.image_size}"
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
        if vision.model_type not in TOWERS:
            raise ValueError(
                f"vision_config.model_type {vision.model_type!r} is not supported; LLaVA-Mistral sees with "
                f"{' or '.join(TOWERS)}"
            )
        if not TOWERS[vision.model_type] and self.vision_feature_select_strategy == "default":
            raise ValueError(
                f"vision_feature_select_strategy 'default' drops a class token, which {vision.model_type} does not "
                "have: it would be the first patch; use 'full'"
            )
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} {value!r} is unknown; use {', '.join(known)}")


def window_of(text) -> int | None:
    """The sliding window of a text model's configuration; None: no layer has one."""
    if text.model_type == "llama" or (
        text.model_type == "ministral" and SLIDING not in (text.layer_types or [SLIDING])
    ):
        return None
    return text.sliding_window


def set_layer_types(config: LlavaMistralConfig) -> None:
    """Let every layer attend as the window says: Mistral goes by `sliding_window` alone, SGLang by `layer_types`."""
    config.text_config.layer_types = _layer_types(config.text_config)


def check_window(config: LlavaMistralConfig) -> None:
    """Refuse a window that was changed in a model's own configuration: its layers keep the one they were made with."""
    if config.text_config.layer_types != _layer_types(config.text_config):
        raise ValueError(
            "text_config.sliding_window was changed after the model was made; change it in a configuration and give "
            "that to from_pretrained(…, config=…)"
        )


def _layer_types(text) -> list[str]:
    depth, kinds = text.num_hidden_layers, getattr(text, "layer_types", None)
    if text.model_type != "ministral" or kinds is None:
        return [FULL if window_of(text) is None else SLIDING] * depth
    if len(kinds) != depth or not set(kinds) <= {FULL, SLIDING}:
        raise ValueError(f"text_config.layer_types are not {depth} of {FULL} and {SLIDING}; give each layer's kind")
    return list(kinds)


def _refuse_sizes(part: str, config) -> None:
    """Before the library reckons with them, whether `config` is a dictionary, a configuration or None."""
    fields = config if isinstance(config, dict) else vars(config or object)
    for name in SIZES:
        size = fields.get(name)
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(f"{part}{name} {size!r} is not a valid size; give a whole number above 0")
    heads, width = fields.get("num_attention_heads"), fields.get("hidden_size")
    if heads and width and width % heads and not fields.get("head_dim"):
        raise ValueError(
            f"{part}num_attention_heads {heads} does not divide hidden_size {width}; choose one that does"
        )
    for name in ("dtype", "torch_dtype"):
        dtype = fields.get(name)
        if dtype is not None and str(dtype).removeprefix("torch.") not in DTYPES:
            raise ValueError(f"{part}{name} {str(dtype)!r} is not a type of weights; give one of {', '.join(DTYPES)}")


def _refuse_text_model(model_type: str) -> None:
    if model_type not in TEXT_MODEL_TYPES:
        raise ValueError(
            f"text_config.model_type {model_type!r} is not supported; "
            f"LLaVA-Mistral speaks {' or '.join(TEXT_MODEL_TYPES)}"
        )


def _refuse_mixed_layers(layer_types: list[str] | None) -> None:
    if len(kinds := sorted(set(layer_types or ()))) > 1:
        raise ValueError(
            f"text_config.layer_types mixes {' and '.join(kinds)}, which Mistral and LLaMA cannot; "
            "leave layer_types out, sliding_window decides for all layers; only ministral has windows by layer"
        )


__all__ = ["LlavaMistralConfig"]
