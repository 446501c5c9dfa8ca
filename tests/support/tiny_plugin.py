"""This project's model with a few thousand random weights, in memory."""

from tests.support.tiny_components import TEXT, VISION


def config(**changes):
    from modeling_llava_mistral import LlavaMistralConfig

    parts = {
        "vision_config": {"model_type": "clip_vision_model", **VISION},
        "text_config": {"model_type": "mistral", "vocab_size": 448, "sliding_window": 12, **TEXT},
        "image_token_id": 400,
    }
    return LlavaMistralConfig(**{**parts, **changes})


def tiny_model(seed: int = 0, **changes):
    import torch

    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    torch.manual_seed(seed)
    return LlavaMistralForConditionalGeneration(config(**changes)).eval()


def tiny_config(kind: str, **text):
    from modeling_llava_mistral import LlavaMistralConfig
    from tests.support.tiny_components import TEXT, VISION

    model_type = "llama" if kind == "llama" else "mistral"
    return LlavaMistralConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": model_type, "vocab_size": 320, **TEXT, **text},
        image_token_id=300,
        image_aspect_ratio="anyres" if kind == "anyres" else "pad",
        projector_type="linear" if kind == "linear" else "mlp2x_gelu",
    )
