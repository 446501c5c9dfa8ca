"""CLIP, Mistral, LLaMA and their tokenizer, of a few thousand random weights, saved as the real ones are."""

from pathlib import Path

# What the tokenizer is trained on: enough for every prompt of these tests to have tokens of several letters.
TEXTS = [
    "Which digit is written? A. zero B. one C. two D. three",
    "Answer with the option's letter from the given choices directly.",
    "Context: The leaf shows the digit seven. The next day is 8. What is 2 + 2? The answer is B.",
    "USER: ASSISTANT: [INST] [/INST] A chat between a curious user and an artificial intelligence assistant.",
] * 8

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # at the usual 0.02 every prompt would be answered alike
}
IMAGE_TOKENS = (VISION["image_size"] // VISION["patch_size"]) ** 2


def save_vision(folder: Path) -> Path:
    """A whole CLIP, text side and image processor included, as OpenAI's repositories have it."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(1)
    side = VISION["image_size"]
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98}
    vision = {**VISION, "initializer_range": 0.2}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_convert_rgb=True
    ).save_pretrained(folder)
    return folder


def save_text_model(folder: Path, model_type: str = "mistral") -> Path:
    """A Mistral whose window of 12 is shorter than any prompt with a picture, or its LLaMA twin, and the tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    window = {"sliding_window": 12} if model_type == "mistral" else {}
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **special, **TEXT, **window)
    torch.manual_seed(2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer():
    """Mistral's conventions over a small vocabulary: `▁` for a space, bytes for what is unknown."""
    from llava_mistral.miniature.tokenizer import train_tokenizer

    return train_tokenizer(TEXTS, 400)


def save_rows(folder: Path, count: int = 8) -> Path:
    """`count` captioned pictures of as many colours in LLaVA's form; returns the JSON, beside which they lie."""
    import json

    from PIL import Image

    (folder / "images").mkdir(parents=True)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    records = []
    for index in range(count):
        Image.new("RGB", (40, 24), (20 * index, 200 - 20 * index, 90)).save(folder / "images" / f"{index}.png")
        turns = ["<image>\nWhich digit is written?", f"It is {names[index % 8]}."]
        turns = [{"from": speaker, "value": text} for speaker, text in zip(("human", "gpt"), turns, strict=True)]
        records.append({"id": str(index), "image": f"{index}.png", "conversations": turns})
    (folder / "rows.json").write_text(json.dumps(records))
    return folder / "rows.json"


TEXT_ROW = {
    "id": "text",
    "images": [],
    "prompt": [{"role": "user", "content": "What is 2 + 2?"}],
    "completion": [{"role": "assistant", "content": "four"}],
}


def save_clip(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
        set_seed,
    )

    letters = "abcdefghijklmnopqrstuvwxyz?. "
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": len(vocabulary), "max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1}
    vision = small | {"image_size": 16, "patch_size": 8}
    set_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(pictures, fast).save_pretrained(folder)
    return folder
