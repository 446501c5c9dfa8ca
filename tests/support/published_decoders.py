"""Shapes of decoders as they are published, and a tiny twin of each.

Sizes are those of the `config.json` beside each model card, parameters those of the cards (or of the weights' headers
that the Hub shows beside them). Of Ministral 8B the card gives the pattern of its windows ("ragged", 128k, 32k, 32k,
32k). Of Ministral 3 the sizes are the library's defaults for Ministral-3-8B-Base-2512, whose card rounds to 8.4B.
"""

import math

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "max_position_embeddings": 262144,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
RAGGED = ["full_attention", *["sliding_attention"] * 3]


def _shape(model_type, vocab, hidden, inner, layers, heads, groups, parameters, **more) -> dict:
    sizes = {"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": groups, "model_type": model_type}
    return {"parameters": parameters, "settings": {**sizes, **more}}


def _rope(theta: float) -> dict:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


_FULL = {"sliding_window": None}
_TIED = {"tie_word_embeddings": True}
SHAPES = {
    "Mistral-7B-v0.1": _shape(
        "mistral", 32000, 4096, 14336, 32, 32, 8, 7_241_732_096, sliding_window=4096, **_rope(1e4)
    ),
    "Mistral-7B-Instruct-v0.2": _shape("mistral", 32000, 4096, 14336, 32, 32, 8, 7_241_732_096, **_FULL, **_rope(1e6)),
    "Mistral-7B-Instruct-v0.3": _shape("mistral", 32768, 4096, 14336, 32, 32, 8, 7_248_023_552, **_FULL, **_rope(1e6)),
    "Mistral-Nemo-Instruct-2407": _shape(
        "mistral", 131072, 5120, 14336, 40, 32, 8, 12_247_782_400, head_dim=128, **_FULL, **_rope(1e6)
    ),
    "Ministral-8B-Instruct-2410": _shape(
        "ministral", 131072, 4096, 12288, 36, 32, 8, 8_019_808_256, head_dim=128, sliding_window=32768,
        layer_types=RAGGED * 9, **_rope(1e8),
    ),
    "Mistral-Small-24B-Instruct-2501": _shape(
        "mistral", 131072, 5120, 32768, 40, 32, 8, 23_572_403_200, head_dim=128, **_FULL, **_rope(1e8)
    ),
    "Ministral-3-8B-Base-2512": _shape(
        "ministral3", 131072, 4096, 14336, 34, 32, 8, None, head_dim=128, rope_parameters=YARN
    ),
    "Llama-2-7b": _shape("llama", 32000, 4096, 11008, 32, 32, 32, 6_738_415_616, **_rope(1e4)),
    "Llama-3.1-8B": _shape("llama", 128256, 4096, 14336, 32, 32, 8, 8_030_261_248, rope_parameters=LLAMA3_ROPE),
    "Llama-3.2-1B": _shape(
        "llama", 128256, 2048, 8192, 16, 32, 8, 1_235_814_400, head_dim=64, **_TIED,
        rope_parameters={**LLAMA3_ROPE, "factor": 32.0},
    ),
    "Llama-3.2-3B": _shape(
        "llama", 128256, 3072, 8192, 28, 24, 8, 3_212_749_824, head_dim=128, **_TIED,
        rope_parameters={**LLAMA3_ROPE, "factor": 32.0},
    ),
    "SmolLM2-135M": _shape("llama", 49152, 576, 1536, 30, 9, 3, 134_515_008, **_TIED, **_rope(1e5)),
    "SmolLM2-360M": _shape("llama", 49152, 960, 2560, 32, 15, 5, 361_821_120, **_TIED, **_rope(1e5)),
    "SmolLM2-1.7B": _shape("llama", 49152, 2048, 8192, 24, 32, 32, 1_711_376_384, **_TIED, **_rope(130000.0)),
}  # fmt: skip


def twin(settings: dict, vocab: int = 448, window: int = 12) -> dict:
    """The same shape, tiny: heads per group, head size apart from the width or not, windows, scaling and tying."""
    per_group = settings["num_attention_heads"] // settings["num_key_value_heads"]
    groups = 4 if per_group == 1 else 2
    heads = groups * per_group
    apart = settings.get("head_dim", 0) * settings["num_attention_heads"] not in (0, settings["hidden_size"])
    small = {
        "vocab_size": vocab,
        "hidden_size": heads * 8 * (5 if apart else 4) // 4,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    }
    small |= {"head_dim": 8} if "head_dim" in settings else {}
    small |= {"sliding_window": window} if settings.get("sliding_window") else {}
    small |= {"layer_types": settings["layer_types"][:4]} if "layer_types" in settings else {}
    rope = dict(settings["rope_parameters"])
    if "factor" in rope:
        rope["original_max_position_embeddings"] = math.ceil(512 / rope["factor"])
        rope |= {"max_position_embeddings": 512} if "max_position_embeddings" in rope else {}
    return {**settings, **small, "rope_parameters": rope}
