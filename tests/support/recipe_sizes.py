"""The models that the recipes name: their configurations, and how many parameters each part has."""

# Mistral-7B-Instruct-v0.2, Vicuna-7B-v1.5 and CLIP ViT-L/14-336 as their repositories' config.json have them.
MISTRAL_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "sliding_window": None,
}
VICUNA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


def config_of(tmp_path, text: str):
    """The configuration that llava-mistral build would make of the real parts; tokens: 32,000, image and padding."""
    from transformers import CLIPConfig, LlamaConfig, MistralConfig

    from llava_mistral.checkpoints.stage0 import stage0_config

    CLIPConfig(vision_config=CLIP_L_336, projection_dim=768).save_pretrained(tmp_path / "clip")
    made = MistralConfig(**MISTRAL_7B) if text == "mistral" else LlamaConfig(**VICUNA_7B)
    made.save_pretrained(tmp_path / text)
    return stage0_config(tmp_path / "clip", tmp_path / text, image_token_id=32000, vocab_size=32002)


# By hand. The tower: class token 1,024; patches 3 x 14 x 14 x 1,024 = 602,112; positions (24 x 24 + 1) x 1,024 =
# 590,848; the two layer norms outside the layers 4 x 1,024; together 1,198,080. A layer: four attention matrices with
# biases 4 x (1,024^2 + 1,024) = 4,198,400, the MLP 2 x 1,024 x 4,096 + 4,096 + 1,024 = 8,393,728, two norms 4,096;
# together 12,596,224, and there are 24.
TOWER = 303_507_456
# (1,024 + 1) x 4,096 = 4,198,400 and (4,096 + 1) x 4,096 = 16,781,312.
PROJECTOR = 20_979_712
# The 32,002 tokens padded to a multiple of 64: 32,064 x 4,096.
HEAD = 131_334_144
TEXT = {
    # Embeddings like the head. A layer: q and o 2 x 4,096^2, k and v 2 x 4,096 x 1,024 (8 of 32 heads), MLP
    # 3 x 4,096 x 14,336, two norms 8,192; together 218,112,000, and there are 32; the last norm 4,096. With the head
    # that is 7,242,256,384: the 7,241,732,096 of Mistral-7B as published and 2 x 64 x 4,096 for the padding.
    "mistral": 7_110_922_240,
    # A layer: attention 4 x 4,096^2, MLP 3 x 4,096 x 11,008, norms 8,192; together 202,383,360, 32 times, and 4,096.
    "llama": 6_607_605_760,
}
# r (in + out) for each of a layer's seven matrices, r = 128. Mistral: q and o 2 x 8,192, k and v 2 x 5,120, MLP
# 3 x 18,432; together 81,920. LLaMA: attention 4 x 8,192, MLP 3 x 15,104; together 78,080. 32 layers.
LORA = {"mistral": 128 * 81_920 * 32, "llama": 128 * 78_080 * 32}
# The sum for LLaMA is what llava-hf/llava-1.5-7b-hf holds.
WHOLE = {"mistral": 7_566_743_552, "llama": 7_063_427_072}


def size(module) -> int:
    return sum(weight.numel() for weight in module.parameters())
