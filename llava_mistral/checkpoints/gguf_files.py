"""Write a checkpoint as llama.cpp reads it: the text model in one GGUF file, tower and projector in another.

The names of tensors are the package's own (`gguf.get_tensor_name_map`), what llama.cpp computes from them is read from
its source (`tools/mtmd/models/llava.cpp`, `clip.cpp`, `src/llama-vocab.cpp`). Weights are read and written one by one.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llava_mistral.checkpoints.gguf_vocabulary import write_vocabulary
from llava_mistral.checkpoints.stored_weights import Stored, read_tensor
from llava_mistral.ground.bad_input import BadInput
from modeling_llava_mistral.configuration_llava_mistral import LlavaMistralConfig

TEXT, PICTURES = "model.gguf", "mmproj.gguf"
# Beside vectors, as llama.cpp wants them.
_ALWAYS_F32 = ("v.class_embd", "v.position_embd.weight", "v.patch_embd.weight")
_PADDING = (122, 116, 104)  # CLIP's mean colour of 8 bits; llama.cpp has no other
_ACTIVATIONS = ("quick_gelu", "gelu")
_TEXT, _TOWER, _PROJECTOR = "model.language_model.", "model.vision_tower.", "model.multi_modal_projector."


def write_gguf(
    folder: Path, source: Path, config: LlavaMistralConfig, weights: dict[str, Stored], processor, kind: str
) -> None:
    """Write `model.gguf` and `mmproj.gguf` into `folder`.

    Args:
        weights: by the plugin's names.
        processor: of the checkpoint; its tokenizer, its chat template and its picture settings are written.
        kind: `"f16"`, `"f32"`, `"q8_0"` or `"q4_0"`, for the text model's matrices; with the quantised ones tower and
            projector are f16.

    Raises:
        BadInput: the package gguf is absent, or llama.cpp would compute something else than this model does.
    """
    gguf = _package()
    layers = _refuse(config, source)
    if tuple(int(255 * mean) for mean in processor.image_processor.image_mean) != _PADDING:
        remedy = "use llava-hf, which vLLM and SGLang serve"
        raise BadInput("llama.cpp pads with the mean colour of CLIP", remedy=remedy, file=source, field="image_mean")
    _write_text(gguf, folder / TEXT, source, config, weights, processor, kind)
    _write_pictures(gguf, folder / PICTURES, source, config, weights, processor, layers, kind)


def _package():
    try:
        import gguf
    except ImportError as error:
        raise BadInput("the package gguf is not installed", remedy="pip install gguf", field="to") from error
    return gguf


def _refuse(config: LlavaMistralConfig, source: Path) -> int:
    """Return how many layers of the tower are computed; what llama.cpp has no graph for is refused by name."""

    def refuse(problem: str, remedy: str, field: str) -> None:
        raise BadInput(problem, remedy=remedy, file=source / "config.json", field=field)

    text, vision = config.text_config, config.vision_config
    other = "use llava-hf, which vLLM and SGLang serve"
    if text.model_type not in ("mistral", "llama"):
        refuse(f"{text.model_type} is not written as GGUF", other, "text_config.model_type")
    if text.hidden_act != "silu":
        refuse(f"llama.cpp's text model has no {text.hidden_act}", other, "text_config.hidden_act")
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in ("default", "linear"):
        refuse(f"rotary positions of type {rope} are not written as GGUF", other, "text_config.rope_parameters")
    if vision.model_type != "clip_vision_model":
        refuse(f"{vision.model_type} is not written as GGUF", other, "vision_config.model_type")
    if config.image_aspect_ratio != "pad":
        what = {"anyres": "cuts a picture into other tiles", "square": "pads a picture and does not crop it"}
        refuse(f"llama.cpp {what[config.image_aspect_ratio]}", other, "image_aspect_ratio")
    if config.projector_type != "mlp2x_gelu":
        refuse("llama.cpp puts a GELU behind a linear projector", "train an mlp2x_gelu projector", "projector_type")
    if config.vision_feature_select_strategy != "default":
        refuse("llama.cpp drops the class token", other, "vision_feature_select_strategy")
    if vision.hidden_act not in _ACTIVATIONS:
        refuse(f"llama.cpp's tower has no {vision.hidden_act}", other, "vision_config.hidden_act")
    layer = config.vision_feature_layer
    layers = layer + (vision.num_hidden_layers + 1 if layer < 0 else 0) if isinstance(layer, int) else 0
    if layers < 1:
        refuse(f"{layer!r} is not one layer of the tower", other, "vision_feature_layer")
    return layers


def _write_text(gguf, file: Path, source: Path, config, weights: dict[str, Stored], processor, kind: str) -> None:
    text = config.text_config
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
    writer.add_type("model")
    writer.add_name(source.resolve().name)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_block_count(text.num_hidden_layers)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    rope = getattr(text, "rope_parameters", None) or {}
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    if config.window is not None:
        writer.add_sliding_window(config.window)  # a reader may want it; llama.cpp's Mistral has none
    writer.add_vocab_size(text.vocab_size)
    writer.add_file_type(_file_type(gguf, kind))
    write_vocabulary(gguf, writer, processor, text.vocab_size, source)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, text.num_hidden_layers)
    heads = {"q_proj": text.num_attention_heads, "k_proj": text.num_key_value_heads}

    def found() -> Iterable[tuple[str, Stored, int | None]]:
        for name, stored in weights.items():
            if name.startswith(_TEXT) or name == "lm_head.weight":
                plain = re.sub(rf"^{re.escape(_TEXT)}", "model.", name)
                turned = next((count for part, count in heads.items() if f".{part}." in name), None)
                yield names.get_name(plain, try_suffixes=(".weight", ".bias")), stored, turned

    _write_tensors(gguf, writer, list(found()), kind)


def _write_pictures(
    gguf, file: Path, source: Path, config, weights: dict[str, Stored], processor, layers: int, kind: str
) -> None:
    vision, pictures = config.vision_config, processor.image_processor
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MMPROJ])
    kind = kind if kind == "f32" else "f16"
    writer.add_type("mmproj")
    writer.add_name(source.resolve().name)
    writer.add_file_type(_file_type(gguf, kind))
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VISION_PROJECTOR_TYPE_NAMES[gguf.constants.VISION_PROJECTOR_TYPE.MLP])
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    # Only the layers below the features are written, with the number of the last: without it llama.cpp stops one layer
    # before the last.
    writer.add_vision_block_count(layers)
    writer.add_array("clip.vision.feature_layer", [layers])
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_image_mean(list(map(float, pictures.image_mean)))
    writer.add_vision_image_std(list(map(float, pictures.image_std)))
    if vision.hidden_act == "gelu":
        writer.add_vision_use_gelu(True)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, vision.num_hidden_layers)

    def found() -> Iterable[tuple[str, Stored, None]]:
        for name, stored in weights.items():
            if name.startswith(_PROJECTOR):
                # Of the sequence linear, GELU, linear, whose numbers llama.cpp's names keep.
                number = {"linear_1": 0, "linear_2": 2}[name.split(".")[-2]]
                yield f"mm.{number}.{name.rsplit('.', 1)[1]}", stored, None
            elif name.startswith(_TOWER) and _computed(name, layers):
                plain = name.replace(_TOWER, "vision_tower.vision_model.")
                yield names.get_name(plain, try_suffixes=(".weight", ".bias")), stored, None

    _write_tensors(gguf, writer, list(found()), kind)


def _computed(name: str, layers: int) -> bool:
    """Whether the features depend on a weight of the tower: not what comes after their layer."""
    layer = re.search(r"\.layers\.(\d+)\.", name)
    return int(layer[1]) < layers if layer else ".post_layernorm." not in name


def _file_type(gguf, kind: str) -> int:
    return gguf.LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"]


def _write_tensors(gguf, writer, found: list[tuple[str, Stored, int | None]], kind: str) -> None:
    """Write names, shapes and types first, and then the weights, one in memory at a time."""
    from tqdm import tqdm

    types = {}
    for name, stored, _ in found:
        types[name] = _type_of(gguf, name, stored.shape, kind)
        size = gguf.GGML_QUANT_SIZES[types[name]]
        numbers = int(np.prod(stored.shape))
        writer.add_tensor_info(name, stored.shape, np.float32, numbers // size[0] * size[1], raw_dtype=types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, stored, heads in tqdm(found, desc="writing GGUF", delay=2):
        weight = read_tensor(stored).float()
        if heads:
            weight = _turned(weight, heads)
        written = gguf.quants.quantize(weight.contiguous().numpy(), types[name])
        if types[name] == gguf.GGMLQuantizationType.F16 and not np.isfinite(written).all():
            remedy = "convert with --gguf_type f32"
            raise BadInput("has a number beyond f16", remedy=remedy, file=stored.file, field=stored.name)
        writer.write_tensor_data(written)
    writer.close()


def _type_of(gguf, name: str, shape: tuple[int, ...], kind: str) -> Any:
    types = gguf.GGMLQuantizationType
    if len(shape) == 1 or name in _ALWAYS_F32:
        return types.F32
    wanted = types[kind.upper()]
    return wanted if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else types.F16


def _turned(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Order the rows of each head as llama.cpp rotates them: pairs side by side, not half a head apart."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape)
