"""One checkpoint under three names: the plugin's layout, llava-hf's, and that of the original LLaVA code.

A layout is the spelling of the weights' names and of `config.json`. Everything is translated to the plugin's spelling
and from it; no weight is changed, so that a round trip is equal bit for bit. Sources: haotian-liu/LLaVA at c121f04
(`llava/model/llava_arch.py`, `language_model/llava_mistral.py`) and transformers' `models/llava*`.
"""

import json
import re
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput

LAYOUTS = ("plugin", "llava-hf", "original")

# The first rule that fits renames; None drops what is a buffer that every release computes by itself.
_TO_PLUGIN = {
    "plugin": [(r"^model\.vision_tower\.vision_model\.", "model.vision_tower.")],  # as older transformers wrote it
    "llava-hf": [
        (r"^(model\.)?vision_tower\.(vision_model\.)?", "model.vision_tower."),
        (r"^(model\.)?multi_modal_projector\.", "model.multi_modal_projector."),
        (r"^(model\.)?image_newline$", "model.image_newline"),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.(model\.)?|^model\.language_model\.", "model.language_model."),
    ],
    "original": [
        (r"^model\.vision_tower\.vision_tower\.(vision_model\.)?", "model.vision_tower."),
        (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
        (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
        (r"^model\.mm_projector\.(?=weight$|bias$)", "model.multi_modal_projector.linear_1."),
        (r"^model\.(?=embed_tokens\.|layers\.|norm\.)", "model.language_model."),
    ],
}
_FROM_PLUGIN = {
    "plugin": [],
    "llava-hf": [
        (r"^model\.vision_tower\.", "vision_tower.vision_model."),
        (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
        (r"^model\.image_newline$", "image_newline"),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
    ],
    "original": [
        (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
        (r"^model\.language_model\.", "model."),
    ],
}
_COMPUTED = re.compile(r"embeddings\.position_ids$|rotary_emb\.inv_freq$")
# What the tower's own repository holds besides the tower: CLIP's text half.
_NOT_TOWER = re.compile(r"^(text_model|text_projection|visual_projection)\.|^logit_scale$")

# Settings of the text model that the original writes at the top of its flat configuration.
_TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "use_cache", "attention_dropout", "attention_bias", "mlp_bias", "sliding_window", "bos_token_id", "eos_token_id",
    "pad_token_id", "tie_word_embeddings",
)  # fmt: skip
_ORIGINAL_TYPES = {"llava_mistral": "mistral", "llava_llama": "llama", "llava": "llama"}
_ORIGINAL_HAS = {"text_config": ("mistral", "llama"), "vision_config": ("clip_vision_model",)}
_FEATURES = {"patch": "default", "cls_patch": "full"}
VOCABULARY = 32_000  # of Mistral and LLaMA, where a configuration does not say
_HF_TYPES = {"llava": ("pad", "square"), "llava_next": ("anyres",)}


def is_original(config: dict[str, Any]) -> bool:
    """Whether a `config.json` is the original code's: flat, the tower named by `mm_vision_tower`."""
    return "mm_vision_tower" in config


def layout_of(config: dict[str, Any], file: str | Path) -> str:
    """Return the layout that a `config.json` is written in.

    Raises:
        BadInput: it is of another kind of model.
    """
    if is_original(config):
        return "original"
    kind = config.get("model_type")
    if kind == "llava_mistral":
        return "plugin"
    if isinstance(kind, str) and kind in _HF_TYPES:
        return "llava-hf"
    remedy = "give a checkpoint of llava_mistral, llava or llava_next"
    raise BadInput(f"{kind!r} is not a LLaVA model", remedy=remedy, file=file, field="model_type")


def to_plugin_name(layout: str, name: str) -> str | None:
    """Return the plugin's name of a weight, or None for a buffer that is computed, not stored."""
    return None if _COMPUTED.search(name) else _renamed(name, _TO_PLUGIN[layout])


def from_plugin_name(layout: str, name: str, projector_type: str = "mlp2x_gelu") -> str:
    """Return what `layout` calls the weight that the plugin calls `name`."""
    if layout == "original" and name.startswith("model.multi_modal_projector."):
        _, number, kind = name.rsplit(".", 2)
        place = "" if projector_type == "linear" else {"linear_1": "0.", "linear_2": "2."}[number]
        return f"model.mm_projector.{place}{kind}"
    return _renamed(name, _FROM_PLUGIN[layout])


def tower_to_plugin_name(name: str) -> str | None:
    """Return the plugin's name of a weight in the vision tower's own repository; None for what is not the tower."""
    if _NOT_TOWER.search(name) or _COMPUTED.search(name):
        return None
    return "model.vision_tower." + name.removeprefix("vision_model.")


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        renamed, hits = re.subn(pattern, replacement, name)
        if hits:
            return renamed
    return name


def nested_config(
    flat: dict[str, Any], vision_config: dict[str, Any], file: str | Path, image_token_id: int | None = None
) -> dict[str, Any]:
    """Return the plugin's configuration for an original one.

    Args:
        flat: the original `config.json`.
        vision_config: that of the CLIP tower it names.
        image_token_id: what stands for a picture feature. The original code has none in its vocabulary (its -200 is
            cut out before the embedding), so by default the last id of the vocabulary serves, and nothing is resized.

    Raises:
        BadInput: a projector, a tower, a text model or a merging of tiles that this model does not have.
    """

    def wrong(field: str, remedy: str) -> BadInput:
        return BadInput(f"{flat.get(field)!r} is not supported", remedy=remedy, file=file, field=field)

    text_type = _ORIGINAL_TYPES.get(str(flat.get("model_type")))
    if text_type is None:
        raise wrong("model_type", f"use one of {', '.join(_ORIGINAL_TYPES)}")
    projector = flat.get("mm_projector_type", "linear")
    if projector not in ("linear", "mlp2x_gelu"):
        raise wrong("mm_projector_type", "use linear or mlp2x_gelu")
    if vision_config.get("model_type") not in ("clip_vision_model", "clip"):
        raise wrong("mm_vision_tower", "use a CLIP tower")
    aspect = flat.get("image_aspect_ratio") or "square"
    if aspect not in ("pad", "square", "anyres"):
        raise wrong("image_aspect_ratio", "use square, pad or anyres")
    merge = flat.get("mm_patch_merge_type", "flat")
    if merge != ("spatial_unpad" if aspect == "anyres" else "flat"):
        raise wrong("mm_patch_merge_type", "use spatial_unpad with anyres and flat otherwise")
    if flat.get("mm_vision_select_feature", "patch") not in _FEATURES:
        raise wrong("mm_vision_select_feature", "use patch or cls_patch")
    if flat.get("mm_use_im_start_end"):
        raise wrong("mm_use_im_start_end", "convert a checkpoint that marks pictures by <image> alone")
    text = {key: flat[key] for key in _TEXT_KEYS if key in flat}
    # Written by transformers 5 as one object, before it as two keys, and long before it with `type`.
    scaling = dict(flat.get("rope_scaling") or {})
    scaling["rope_type"] = scaling.pop("type", scaling.get("rope_type", "default"))
    rope = flat.get("rope_parameters") or {**scaling, "rope_theta": flat.get("rope_theta", 10000.0)}
    nested = {
        "model_type": "llava_mistral",
        "architectures": ["LlavaMistralForConditionalGeneration"],
        "vision_config": vision_config,
        "text_config": {"model_type": text_type, **text, "rope_parameters": rope},
        "image_token_id": flat.get("vocab_size", VOCABULARY) - 1 if image_token_id is None else image_token_id,
        "projector_type": projector,
        "image_aspect_ratio": aspect,
        "vision_feature_layer": flat.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": _FEATURES[flat.get("mm_vision_select_feature", "patch")],
        "tie_word_embeddings": flat.get("tie_word_embeddings", False),
        "dtype": flat.get("dtype") or flat.get("torch_dtype"),
    }
    if aspect == "anyres" and (points := grid_pinpoints(flat, vision_config.get("image_size", 224), file)):
        nested["image_grid_pinpoints"] = points
    return nested


def grid_pinpoints(flat: dict[str, Any], tile: int, file: str | Path = "config.json") -> list[list[int]] | None:
    """Return the `[height, width]` in pixels that tiles may cover, or None where an original configuration has none.

    Theirs are (width, height): a list, its text "[(336, 672), …]", or LLaVA-NeXT's "(1x1),...,(6x6)", which are all
    grids of tiles between the first and the last.

    Args:
        tile: side of what the tower sees, in pixels.

    Raises:
        BadInput: they are of no such form.
    """
    points = flat.get("image_grid_pinpoints")
    if not points:
        return None
    try:
        if isinstance(points, str) and (grids := re.findall(r"\((\d+)x(\d+)\)", points)):
            (left, top), (right, bottom) = ([int(side) for side in grid] for grid in (grids[0], grids[-1]))
            every = [(wide, high) for wide in range(left, right + 1) for high in range(top, bottom + 1)]
            points = [(wide * tile, high * tile) for wide, high in every]
        elif isinstance(points, str):
            points = json.loads(points.replace("(", "[").replace(")", "]"))
        read = [[int(height), int(width)] for width, height in points]
        if not read:
            raise ValueError("no grid")
    except (TypeError, ValueError) as error:
        remedy = "give [[width, height], …] in pixels, or (1x1),...,(6x6)"
        problem = f"{str(flat['image_grid_pinpoints'])[:80]!r} are not tile grids"
        raise BadInput(problem, remedy=remedy, file=file, field="image_grid_pinpoints") from error
    return read


def flat_config(nested: dict[str, Any], vision_tower: str = "vision_tower") -> dict[str, Any]:
    """Return the original's configuration for the plugin's, or refuse; `vision_tower` is where the tower will lie."""
    text = nested["text_config"]
    for part, known in _ORIGINAL_HAS.items():
        if (kind := nested[part]["model_type"]) not in known:
            raise BadInput(
                f"the original code has no {kind}", remedy="use plugin or llava-hf", field=f"{part}.model_type"
            )
    rope = text.get("rope_parameters") or {}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    family = text["model_type"]
    flat = {
        "architectures": [f"Llava{family.title()}ForCausalLM"],
        "model_type": f"llava_{family}",
        **{key: text[key] for key in _TEXT_KEYS if key in text},
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": None if scaling.get("rope_type", "default") == "default" else scaling,
        "tie_word_embeddings": nested.get("tie_word_embeddings", False),
        "torch_dtype": nested.get("dtype"),
        "mm_vision_tower": vision_tower,
        "mm_projector_type": nested["projector_type"],
        "mm_hidden_size": nested["vision_config"]["hidden_size"],
        "mm_vision_select_layer": nested["vision_feature_layer"],
        "mm_vision_select_feature": {"default": "patch", "full": "cls_patch"}[
            nested.get("vision_feature_select_strategy", "default")
        ],
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": text.get("max_position_embeddings"),
        "image_aspect_ratio": nested["image_aspect_ratio"],
        "mm_patch_merge_type": "spatial_unpad" if nested["image_aspect_ratio"] == "anyres" else "flat",
    }
    if nested["image_aspect_ratio"] == "anyres":
        flat["image_grid_pinpoints"] = [[width, height] for height, width in nested["image_grid_pinpoints"]]
        flat["image_crop_resolution"] = flat["image_split_resolution"] = nested["vision_config"]["image_size"]
    return flat


_SHARED_KEYS = (
    "vision_config", "text_config", "vision_feature_layer", "vision_feature_select_strategy", "tie_word_embeddings",
    "multimodal_projector_bias", "projector_hidden_act", "image_seq_length", "dtype",
)  # fmt: skip


def llava_hf_config(nested: dict[str, Any], file: str | Path) -> dict[str, Any]:
    """Return stock Llava's or LlavaNext's configuration for the plugin's.

    Raises:
        BadInput: the projector is linear, which stock Llava has not.
    """
    if nested["projector_type"] != "mlp2x_gelu":
        remedy = "convert to plugin or original; stock Llava has mlp2x_gelu only"
        raise BadInput("a linear projector has no llava-hf form", remedy=remedy, file=file, field="projector_type")
    anyres = nested["image_aspect_ratio"] == "anyres"
    # The plugin derives `layer_types` from the window; stock Mistral has its window alone and warns of anything else.
    derived = () if nested["text_config"]["model_type"] == "ministral" else ("layer_types",)
    text = {key: value for key, value in nested["text_config"].items() if key not in derived}
    return {
        "architectures": [f"Llava{'Next' if anyres else ''}ForConditionalGeneration"],
        "model_type": "llava_next" if anyres else "llava",
        **{key: nested[key] for key in _SHARED_KEYS if key in nested},
        "text_config": text,
        "image_token_index": nested.get("image_token_index", nested.get("image_token_id")),
        **({"image_grid_pinpoints": nested["image_grid_pinpoints"]} if anyres else {}),
    }


def plugin_config(hf: dict[str, Any], image_aspect_ratio: str, file: str | Path = "config.json") -> dict[str, Any]:
    """Return the plugin's configuration for stock Llava's or LlavaNext's.

    Args:
        hf: whole, as the library's configuration class gives it.
        image_aspect_ratio: what the folder's image processor does, which stock Llava's configuration does not say.

    Raises:
        BadInput: tiles whose rows do not end in `image_newline`, which this model does not have.
    """
    anyres = hf["model_type"] == "llava_next"
    if anyres and hf.get("use_image_newline_parameter") is False:
        problem, field = "tiles without image_newline are not supported", "use_image_newline_parameter"
        raise BadInput(problem, remedy="give a checkpoint with image_newline", file=file, field=field)
    return {
        "architectures": ["LlavaMistralForConditionalGeneration"],
        "model_type": "llava_mistral",
        **{key: hf[key] for key in _SHARED_KEYS if key in hf},
        "image_token_index": hf["image_token_index"] if "image_token_index" in hf else hf["image_token_id"],
        "projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "anyres" if anyres else image_aspect_ratio,
        **({"image_grid_pinpoints": hf["image_grid_pinpoints"]} if anyres else {}),
    }
