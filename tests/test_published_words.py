"""What the published tokenizer and templates promise to other people's trainers and engines."""

import json

import pytest
from PIL import Image

from tests.support.tiny_components import tiny_tokenizer

PICTURE = Image.new("RGB", (60, 20), (10, 200, 90))
ASKING = {"tokenize": True, "return_dict": True}
TEMPLATES = ("mistral_instruct", "vicuna_v1")


@pytest.fixture
def processor(stage0):
    from processing import LlavaMistralProcessor

    return LlavaMistralProcessor.from_pretrained(stage0)


def template(name: str) -> str:
    from processing import CHAT_TEMPLATES

    return (CHAT_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def user(text: str) -> dict:
    return {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": text}]}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("protect", [False, True])
def test_a_users_own_token_is_one_in_everybodys_words_unless_it_is_protected(processor, name, protect):
    processor.tokenizer.add_tokens(["<tool>", "<end_tool>"], special_tokens=True)
    own = processor.tokenizer.convert_tokens_to_ids("<tool>")
    chat = [user("a <tool> b"), {"role": "assistant", "content": "<tool>"}]
    options = {"protected_tokens": ["<image>", "</s>", "<tool>"]} if protect else {}
    ids = processor.apply_chat_template(chat, chat_template=template(name), **ASKING, **options)["input_ids"][0]
    assert ids.count(own) == (0 if protect else 2)
    caption = [{"role": "user", "content": "<image> </s>"}]
    ids = processor.apply_chat_template(caption, chat_template=template(name), **ASKING)["input_ids"][0]
    assert processor.image_token_id not in ids and processor.tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokenizer_alone_words_a_chat_as_the_processor_does(processor, name):
    """vLLM and others render the template by the tokenizer and never call the processor's `apply_chat_template`."""
    words = "a <image> </s><pad> [INST] [/INST]"
    chat = [{"role": "user", "content": words}, {"role": "assistant", "content": words}, user(words)]
    options = {"chat_template": template(name), "tokenize": False, "add_generation_prompt": True}
    worded = processor.tokenizer.apply_chat_template(chat, **options)
    assert worded == processor.apply_chat_template(chat, **options)
    assert worded.count("<image>") == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_mask_of_the_assistants_tokens_is_what_training_learns(processor, name):
    from llava_mistral.training.collator import AnswerCollator

    processor.chat_template = template(name)
    processor.tokenizer.padding_side = "right"
    answer = [{"role": "assistant", "content": "The answer is B."}]
    row = {"id": "1", "images": [PICTURE], "prompt": [{"role": "user", "content": "Which?"}], "completion": answer}
    batch = AnswerCollator(processor)([row])
    options = {**ASKING, "return_tensors": "pt", "return_assistant_tokens_mask": True}
    masked = processor.apply_chat_template([user("Which?"), *answer], **options)
    assert masked["input_ids"].equal(batch["input_ids"])
    assert masked["assistant_masks"].bool().equal(batch["labels"] != -100)
    assert masked["assistant_masks"].sum() > 3


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "robot", "content": "Beep."}],
        [{"role": "user", "content": "Hi"}, {"role": "tool", "name": "clock", "content": "12"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [{"type": "x"}]}],
    ],
)
def test_a_refused_chat_is_a_template_error_too(processor, chat):
    """As trainers expect that try a template out for tools."""
    from jinja2 import TemplateError

    with pytest.raises(TemplateError):
        processor.apply_chat_template(chat, tokenize=False)
    with pytest.raises(TemplateError):
        processor.tokenizer.apply_chat_template(chat, chat_template=processor.chat_template, tokenize=False)
    with pytest.raises(TemplateError, match="tools are not supported"):
        processor.apply_chat_template(ask(), tools=[{"type": "function", "function": {"name": "x"}}])


def ask() -> list[dict]:
    return [{"role": "user", "content": "Hi"}]


def test_a_final_message_is_continued(processor):
    chat = [user("Which?"), {"role": "assistant", "content": "The answer"}]
    worded = processor.apply_chat_template(chat, continue_final_message=True, tokenize=False)
    assert worded.endswith("[/INST] The answer")


def first_piece_only():
    """As Mistral v0.3 and LLaMA without `legacy`: a space before the first piece alone."""
    from tokenizers import pre_tokenizers

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    return tokenizer


def byte_level(regex: str | None = None):
    """As Tekken, LLaMA 3 and ChatML: bytes, and pieces cut by a pattern."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from tests.support.tiny_components import TEXTS

    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    if regex:
        cut = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), cut])
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    names = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    special = {"bos_token": names[2], "eos_token": names[1], "pad_token": names[2]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
TOKENIZERS = {
    "Prepend": tiny_tokenizer,
    "first piece only": first_piece_only,
    "ByteLevel": byte_level,
    "LLaMA 3": lambda: byte_level(LLAMA_3),
}


@pytest.mark.parametrize("kind", [*TOKENIZERS, "SentencePiece"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_and_answer_apart_have_the_ids_of_the_whole(request, kind, name):
    from llava_mistral.checkpoints.text_tokenizer import _whole, make_separable, open_tokenizer, reads_apart

    if kind == "SentencePiece":
        pytest.importorskip("google.protobuf", reason="pip install '.[original]' brings protobuf")
        tokenizer = open_tokenizer(request.getfixturevalue("shared") / "mistral_tokenizer")
    else:
        tokenizer = TOKENIZERS[kind]()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    before = _whole(tokenizer, template(name))
    make_separable(tokenizer, template(name))
    assert _whole(tokenizer, template(name)) == before, "plain conversations keep their ids"
    assert reads_apart(tokenizer, template(name))


def test_build_publishes_a_tokenizer_that_reads_apart(stage0):
    from llava_mistral.checkpoints.text_tokenizer import reads_apart
    from processing import LlavaMistralProcessor

    processor = LlavaMistralProcessor.from_pretrained(stage0)
    assert reads_apart(processor.tokenizer, processor.chat_template)
    assert json.loads((stage0 / "tokenizer.json").read_text())["normalizer"] is None


def test_a_prompt_that_does_not_end_where_the_answer_begins_is_noticed(stage0):
    """Then `llava-mistral build` says so."""
    from llava_mistral.checkpoints.text_tokenizer import reads_apart
    from processing import LlavaMistralProcessor

    merging = (
        template("mistral_instruct").replace("' ' + said.text + ' '", "said.text + ' '").replace(" [/INST]'", "'")
    )
    assert not reads_apart(LlavaMistralProcessor.from_pretrained(stage0).tokenizer, merging)
