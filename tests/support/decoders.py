"""Decoders of several families and a SigLIP tower, of a few thousand random weights, with tokenizers like theirs."""

from pathlib import Path

from tests.support.tiny_components import TEXT, TEXTS, VISION

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TEKKEN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('conversation roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# Marks, names of roles, template, stop tokens, and the reserved token that a picture gets.
FAMILIES = {
    "chatml": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        {"bos": "<|im_start|>", "eos": "<|im_end|>", "unk": "<|endoftext|>", "pad": "<|im_end|>"},
        CHATML,
        ["<|im_end|>", "<|endoftext|>"],
        None,
    ),
    "llama3": (
        ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
        + ["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"],
        {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"},
        LLAMA3,
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        "<|reserved_special_token_0|>",
    ),
    "tekken": (
        ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "<SPECIAL_20>", "<SPECIAL_21>"],
        {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
        TEKKEN,
        ["</s>"],
        "<SPECIAL_20>",
    ),
}


def save_decoder(folder: Path, family: str, model_type: str = "llama", template: str | None = "own", **settings):
    """A decoder of random weights in `folder`, with the tokenizer and the generation configuration of `family`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    _, _, own, stops, _ = FAMILIES[family]
    tokenizer = byte_tokenizer(family)
    tokenizer.chat_template = own if template == "own" else template
    tokenizer.save_pretrained(folder)
    settings = {"vocab_size": len(tokenizer), **TEXT, **settings}
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    ids = tokenizer.convert_tokens_to_ids(stops)
    model.generation_config = GenerationConfig(eos_token_id=ids if len(ids) > 1 else ids[0], repetition_penalty=1.05)
    model.save_pretrained(folder)
    return folder


def byte_tokenizer(family: str):
    """Bytes and a few merges, as GPT-2's, Llama 3's and Tekken are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    marks, names, *_ = FAMILIES[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if family != "chatml":  # a tokenizer that begins every text by itself: a chat must not begin twice
        first = names["bos"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    roles = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def save_siglip(folder: Path, side: int = 30, patch: int = 8) -> Path:
    """A whole SigLIP, text side included, as its repositories have it; like the 384 by 14 its side is no multiple."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    torch.manual_seed(4)
    vision = {**VISION, "image_size": side, "patch_size": patch}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    SiglipModel(SiglipConfig(vision_config=vision, text_config={**text, "vocab_size": 99})).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder
