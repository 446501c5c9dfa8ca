"""A stock LLaVA of a few thousand random weights, with a processor and a tokenizer, as a folder."""

from pathlib import Path

WORDS = (
    "Context : Which digit is it ? one two three four Answer with the option 's letter from given choices directly ."
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]"
    "{% for p in m['content'] %}{{ ' <image>' if p['type'] == 'image' else ' ' + p['text'] }}{% endfor %} [/INST]"
    "{% else %}{% for p in m['content'] %} {{ p['text'] }} {{ eos_token }}{% endfor %}{% endif %}{% endfor %}"
)


def save_tiny_llava(folder: Path, seed: int = 0, template: str = TEMPLATE) -> Path:
    """Write the folder and return it."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        MistralConfig,
    )

    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
        max_position_embeddings=512,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-1,
        )
    )
    with torch.no_grad():  # random weights of the usual scale answer every question alike
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(12)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder


def tiny_tokenizer():
    """Return a tokenizer of whole words, letters among them."""
    import string

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "[INST]", "[/INST]"]
    words = dict.fromkeys([*special, *string.ascii_uppercase, *WORDS.split()])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "[INST]", "[/INST]"],
    )
