"""Convert between the three checkpoint layouts: configuration and weights, byte for byte."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig, LlavaNextConfig

from llava_mistral.checkpoints.layouts import (
    flat_config,
    from_plugin_name,
    layout_of,
    llava_hf_config,
    plugin_config,
    to_plugin_name,
)
from llava_mistral.checkpoints.original import VOCABULARY_TABLES, grown_table, original_weights
from llava_mistral.checkpoints.stored_weights import Stored, read_stored, read_tensor, stored_weights, write_weights
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import opening, read_config_file
from llava_mistral.ground.strict_json import read_json, write_json
from modeling_llava_mistral.configuration_llava_mistral import LlavaMistralConfig
from modeling_llava_mistral.modeling_llava_mistral import LlavaMistralForConditionalGeneration

_TOWER = "model.vision_tower."


def convert(
    source: str | Path, folder: str | Path, to: str, *, max_shard_size: int = 5_000_000_000, gguf_type: str = "f16"
) -> str:
    """Write the checkpoint in `source` into `folder` in the layout `to`; returns the layout that `source` has.

    Weights are copied, never computed; memory stays at one buffer. Exceptions: an original checkpoint whose tokenizer
    has no image token, two tables of which get rows for it, and lose them again on the way back; and GGUF.

    Args:
        to: `"plugin"`, `"llava-hf"`, `"original"` or `"gguf"`.
        max_shard_size: bytes of the largest weight file.
        gguf_type: of the text model's matrices in GGUF: `"f16"`, `"f32"`, `"q8_0"` or `"q4_0"`.

    Raises:
        BadInput: `source` is no LLaVA, is incomplete, or has what `to` cannot say.
    """
    source, folder = Path(source), Path(folder)
    raw = read_config_file(source)
    layout = layout_of(raw, source)
    with opening(source, "config.json"):
        config = _plugin_config(source, raw, layout)
    nested = json.loads(config.to_json_string(use_diff=False))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        weights = _weights(source, raw, layout, Path(scratch))
        if layout == "original" and (known := nested.get("original_vocab_size")):
            weights = _resized(weights, known, config.text_config.vocab_size, Path(scratch))
        _refuse_incomplete(weights, config, source)
        if to == "gguf":
            from llava_mistral.checkpoints.gguf_files import write_gguf
            from llava_mistral.checkpoints.processor_conversion import processor_of

            write_gguf(folder, source, config, weights, processor_of(source, layout), gguf_type)
        elif to == "plugin":
            _write_plugin(folder, config, weights, max_shard_size)
        elif to == "llava-hf":
            hf = llava_hf_config(nested, source)
            write_json(folder / "config.json", hf)
            write_weights(folder, {from_plugin_name(to, name): w for name, w in weights.items()}, max_shard_size)
        else:
            _write_original(folder, nested, weights, max_shard_size, Path(scratch))
    return layout


def _plugin_config(source: Path, raw: dict[str, Any], layout: str) -> LlavaMistralConfig:
    if layout == "llava-hf":
        # As the library reads it: what config.json leaves out has the library's default, and names its older spelling.
        family = LlavaNextConfig if raw["model_type"] == "llava_next" else LlavaConfig
        read = family.from_dict(raw).to_dict()
        return LlavaMistralConfig(**plugin_config(read, "pad" if _pads(source) else "square", source))
    return LlavaMistralConfig.from_pretrained(source)


def _pads(source: Path) -> bool:
    """Whether the folder's image processor pads to a square; stock Llava's configuration does not say."""
    for name in ("processor_config.json", "preprocessor_config.json"):  # one file, or two as transformers 4 wrote them
        settings = read_json(source / name) if (source / name).is_file() else {}
        if isinstance(settings, dict) and isinstance(settings.get("image_processor"), dict):
            settings = settings["image_processor"]
        if isinstance(settings, dict) and "image_processor_type" in settings:
            return bool(settings.get("do_pad"))
    return False


def _weights(source: Path, raw: dict[str, Any], layout: str, scratch: Path) -> dict[str, Stored]:
    if layout == "original":
        return original_weights(source, raw, scratch)
    stored = stored_weights(source, scratch).items()
    renamed = ((to_plugin_name(layout, name), weight) for name, weight in stored)
    return {name: weight for name, weight in renamed if name}


def _resized(weights: dict[str, Stored], known: int, rows: int, scratch: Path) -> dict[str, Stored]:
    """Give the vocabulary's tables of `known` rows `rows` of them; one of any other size is left to be refused."""
    from safetensors.torch import save_file

    for name in VOCABULARY_TABLES:
        if name in weights and weights[name].shape[:1] == (known,):
            table = read_tensor(weights[name])
            table = grown_table(table, rows) if known < rows else table[:rows].clone()
            file = scratch / f"{name}-{rows}.safetensors"
            save_file({name: table}, file)
            weights = weights | read_stored(file)
    return weights


def _refuse_incomplete(weights: dict[str, Stored], config: LlavaMistralConfig, source: Path) -> None:
    expected = {name: tuple(weight.shape) for name, weight in _empty_model(config).state_dict().items()}
    if config.tie_word_embeddings:
        expected = {name: shape for name, shape in expected.items() if name != "lm_head.weight" or name in weights}
    again = "the checkpoint is damaged or of another model, download or build it again"
    for kind, names in (
        ("missing", expected.keys() - weights.keys()),
        ("unexpected", weights.keys() - expected.keys()),
    ):
        if names:
            raise BadInput(f"{len(names)} weights are {kind}, first {min(names)}", remedy=again, file=source)
    for name, shape in expected.items():
        if weights[name].shape != shape:
            problem = f"weight {name} is {list(weights[name].shape)}, not {list(shape)}"
            raise BadInput(problem, remedy=again, file=source)


def _empty_model(config: LlavaMistralConfig) -> LlavaMistralForConditionalGeneration:
    with torch.device("meta"):
        return LlavaMistralForConditionalGeneration(config)


def _write_plugin(folder: Path, config: LlavaMistralConfig, weights: dict[str, Stored], max_shard_size: int) -> None:
    from transformers.dynamic_module_utils import custom_object_save

    config.architectures = ["LlavaMistralForConditionalGeneration"]
    config.save_pretrained(folder)
    custom_object_save(_empty_model(config), folder)
    write_weights(folder, weights, max_shard_size)


def _write_original(
    folder: Path, nested: dict[str, Any], weights: dict[str, Stored], max_shard_size: int, scratch: Path
) -> None:
    """The tower gets a folder of its own; a release in tiles (LLaVA-1.6) carries it in the weights, too."""
    if rows := nested.get("original_vocab_size"):
        weights = _resized(weights, nested["text_config"]["vocab_size"], rows, scratch)
        nested["text_config"]["vocab_size"] = rows
    write_json(folder / "config.json", flat_config(nested))
    tower = {name: weight for name, weight in weights.items() if name.startswith(_TOWER)}
    rest = (
        weights if nested["image_aspect_ratio"] == "anyres" else {n: w for n, w in weights.items() if n not in tower}
    )
    projector = nested["projector_type"]
    write_weights(
        folder, {from_plugin_name("original", name, projector): w for name, w in rest.items()}, max_shard_size
    )
    (folder / "vision_tower").mkdir()
    write_json(
        folder / "vision_tower" / "config.json", nested["vision_config"] | {"architectures": ["CLIPVisionModel"]}
    )
    named = {"vision_model." + name.removeprefix(_TOWER): weight for name, weight in tower.items()}
    write_weights(folder / "vision_tower", named, max_shard_size)
