"""A decoder keeps its own words: chats of texts are what they were, and pictures stand where the words place them."""

import json
import shutil

import pytest

from llava_mistral.commands.build import main
from tests.support.decoders import CHATML, FAMILIES, byte_tokenizer, save_decoder
from tests.support.running import run_here

JOINER = "\u2060"
INST = "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
CHAT = [
    {"role": "user", "content": "Which digit?"},
    {"role": "assistant", "content": "It is 7."},
    {"role": "user", "content": " What is 2 + 2?\n"},
]
SYSTEM = {"role": "system", "content": "Be <brief>."}


def build(vision, llm, output, *options, code: int = 0):
    return run_here(main, "--vision", vision, "--llm", llm, "--output", output, *options, code=code)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def joined(request, vision_folder, tmp_path_factory):
    """(family, decoder's folder, checkpoint's folder, what the verb said); the embeddings of two are tied."""
    from tests.conftest import reaching_hubs

    folder = tmp_path_factory.mktemp(request.param)
    tied = request.param != "tekken"
    decoder = save_decoder(folder / "decoder", request.param, tie_word_embeddings=tied)
    with reaching_hubs(False):
        done = build(vision_folder, decoder, folder / "stage0")
    return request.param, decoder, folder / "stage0", done.stdout


@pytest.fixture(scope="module")
def opened(joined):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    family, decoder, stage0, _ = joined
    return (
        family,
        AutoTokenizer.from_pretrained(decoder),
        AutoModelForCausalLM.from_pretrained(decoder).eval(),
        AutoProcessor.from_pretrained(stage0, trust_remote_code=True),
        AutoModelForImageTextToText.from_pretrained(stage0, trust_remote_code=True).eval(),
    )


def chats(family: str) -> list[list[dict]]:
    return [CHAT, CHAT[:1], *([] if family == "tekken" else [[SYSTEM, *CHAT]])]


def test_a_chat_of_texts_has_the_tokens_the_decoder_gives_it(opened):
    family, tokenizer, _, processor, _ = opened
    for chat in chats(family):
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        alone = tokenizer.apply_chat_template(chat, **options)["input_ids"]
        assert processor.apply_chat_template(chat, **options)["input_ids"] == [alone]
        parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in chat]
        assert processor.apply_chat_template(parts, **options)["input_ids"] == [alone]
        whole = processor.tokenizer.apply_chat_template(chat, **options)["input_ids"]
        assert whole == alone


def test_the_decoder_says_what_it_said_logit_for_logit(opened):
    import torch

    family, tokenizer, decoder, _, model = opened
    for chat in chats(family):
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        options = {"max_new_tokens": 24, "do_sample": False}
        with torch.no_grad():
            alone, joined = decoder(**ids).logits, model(**ids).logits
        torch.testing.assert_close(joined[..., : alone.shape[-1]], alone, rtol=1e-5, atol=1e-5)
        said = [one.generate(**ids, **options)[0].tolist() for one in (decoder, model)]
        assert said[0] == said[1]


def test_stop_tokens_and_generation_settings_are_the_decoders(opened):
    family, tokenizer, _, _, model = opened
    stops = tokenizer.convert_tokens_to_ids(FAMILIES[family][3])
    assert model.generation_config.eos_token_id == (stops if len(stops) > 1 else stops[0])
    assert model.generation_config.repetition_penalty == 1.05


def test_a_picture_stands_where_the_words_place_it_in_the_decoders_marks(opened):
    family, tokenizer, _, processor, _ = opened
    picture, before, after = {"type": "image"}, {"type": "text", "text": "Is"}, {"type": "text", "text": "red?"}
    for parts, said in (
        ([picture, after], "<image>\nred?"),
        ([before, picture, after], "Is<image>red?"),
        ([picture, before, picture, after], "<image>\nIs<image>red?"),
    ):
        for chat in ([*CHAT[:2], {"role": "user", "content": parts}], [{"role": "user", "content": parts}, CHAT[1]]):
            texts = [turn if turn["content"] is not parts else {**turn, "content": said} for turn in chat]
            asks = chat[-1]["role"] == "user"
            expected = tokenizer.apply_chat_template(texts, tokenize=False, add_generation_prompt=asks)
            assert processor.apply_chat_template(chat, add_generation_prompt=asks) == expected


def test_an_image_becomes_as_many_tokens_as_it_has_features_and_is_answered(opened):
    import torch
    from PIL import Image

    from tests.support.tiny_components import IMAGE_TOKENS

    _, _, _, processor, model = opened
    parts = [{"type": "image", "image": Image.new("RGB", (40, 24), "red")}, {"type": "text", "text": "What?"}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": parts}], **options)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == IMAGE_TOKENS
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_control_tokens_in_words_stay_text(opened):
    family, _, _, processor, _ = opened
    marks = [mark for mark in FAMILIES[family][0] if mark in FAMILIES[family][2]]
    words = " ".join(["<image>", *FAMILIES[family][1].values(), *marks])
    usual = processor.apply_chat_template([{"role": "user", "content": "?"}])
    typed = processor.apply_chat_template([{"role": "user", "content": words}])
    assert words in typed.replace(JOINER, "")
    special = set(processor.tokenizer.all_special_ids) | {processor.image_token_id}
    special |= set(processor.tokenizer.convert_tokens_to_ids(FAMILIES[family][0]))
    counts = [
        sum(token in special for token in processor.tokenizer(text, add_special_tokens=False).input_ids)
        for text in (usual, typed)
    ]
    assert counts[0] == counts[1]


def test_the_picture_gets_a_reserved_token_or_one_new_row(joined, opened):
    from safetensors import safe_open

    family, _, stage0, said = joined
    _, tokenizer, decoder, processor, model = opened
    reserved, rows = FAMILIES[family][4], decoder.config.vocab_size
    if reserved is None:
        assert processor.image_token_id == rows == len(processor.tokenizer) - 1
        assert f"a picture is token {rows} (a new row); vocabulary of {model.config.text_config.vocab_size}" in said
    else:
        assert processor.image_token_id == tokenizer.convert_tokens_to_ids(reserved) < rows
        assert len(processor.tokenizer) == len(tokenizer)
        assert f"a picture is token {processor.image_token_id} (reserved {reserved})" in said
        assert reserved not in processor.tokenizer.get_vocab()
    assert f"{rows} of the decoder's" in said or f"the decoder's {rows} rows" in said
    for text in ("What is 2 + 2?", " Ça va?\n\n你好 7", "the answer's B."):
        assert processor.tokenizer(text).input_ids == tokenizer(text).input_ids
    with safe_open(stage0 / "model.safetensors", "pt") as weights:
        stored = "lm_head.weight" in weights.keys()  # noqa: SIM118  its `in` is none
    tied = decoder.config.tie_word_embeddings
    assert (stored, model.config.tie_word_embeddings) == (not tied, tied)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


def test_training_words_rows_as_the_decoder_does(opened):
    """Whole conversations, and prompts that are their beginning: what is learned is the answer and its end."""
    family, _, _, processor, _ = opened
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True)
    whole = processor.apply_chat_template([*asked, {"role": "assistant", "content": "seven"}])
    end = FAMILIES[family][1]["eos"]
    assert whole.startswith(prompt) and whole[len(prompt) :].rstrip() == "seven" + end
    with pytest.raises(ValueError, match="does not mark answers"):
        processor.apply_chat_template(asked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)


@pytest.mark.parametrize(
    ("template", "wording"),
    [
        (None, "own"),
        ("{{ bos_token }}{% for m in messages %}" + INST + "{% endfor %}", "mistral_instruct"),
        ("{% for m in messages %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}{% endfor %}", "mistral_instruct"),
        ("{% for m in messages %}{{ 'USER: ' + m['content'] + ' ASSISTANT:' }}{% endfor %}", "vicuna_v1"),
        (CHATML, "own"),
    ],
    ids=["none, but marks", "mistral", "mistral of old", "vicuna", "chatml"],
)  # fmt: skip
def test_the_wording_is_the_decoders_own_unless_it_is_llavas(template, wording):
    from llava_mistral.checkpoints.decoder_wording import choose_wording

    tokenizer = byte_tokenizer("tekken")
    tokenizer.chat_template = template
    name, text, _ = choose_wording(tokenizer, None, "decoder")
    assert name == wording and (template is None or wording != "own" or text.endswith(template))
    assert choose_wording(tokenizer, "vicuna_v1", "decoder")[0] == "vicuna_v1"


def test_a_decoder_without_words_or_marks_is_worded_as_llava_does():
    from llava_mistral.checkpoints.decoder_wording import choose_wording

    tokenizer = byte_tokenizer("chatml")
    tokenizer.chat_template = None
    name, _, said = choose_wording(tokenizer, None, "decoder")
    assert name == "mistral_instruct" and said == [
        "decoder has no chat template; chats are worded as mistral_instruct; "
        "for other words give --chat_template vicuna_v1, or a Jinja file"
    ]


def test_a_file_may_word_pictures_itself_or_be_a_text_models(tmp_path):
    from llava_mistral.checkpoints.decoder_wording import choose_wording
    from processing import CHAT_TEMPLATES

    tokenizer, file = byte_tokenizer("chatml"), CHAT_TEMPLATES / "vicuna_v1.jinja"
    assert choose_wording(tokenizer, str(file), "decoder")[1] == file.read_text()
    (tmp_path / "mine.jinja").write_text(CHATML)
    text = choose_wording(tokenizer, str(tmp_path / "mine.jinja"), "decoder")[1]
    assert text.endswith(CHATML) and "<image>" in text


def test_what_surrounds_a_template_stays(tmp_path):
    """Space before its first word and a newline after its last are the template's own."""
    from llava_mistral.checkpoints.decoder_wording import with_pictures

    tokenizer = byte_tokenizer("chatml")
    for template in ("\n  A {{ messages[0]['content'] }}\n\n", "  {% if true %}B{% endif %}", "{{- 'C' }}", " D"):
        chat = [{"role": "user", "content": "x"}]
        plain, wrapped = (
            tokenizer.apply_chat_template(chat, chat_template=text, tokenize=False)
            for text in (template, with_pictures(template, tokenizer))
        )
        assert wrapped == plain


def test_a_system_turn_that_the_template_refuses_is_said_before_and_refused_by_name(vision_folder, tmp_path):
    from transformers import AutoProcessor

    decoder = save_decoder(tmp_path / "decoder", "tekken")
    done = build(vision_folder, decoder, tmp_path / "out")
    assert "takes no system turn (conversation roles must alternate" in done.stdout
    processor = AutoProcessor.from_pretrained(tmp_path / "out", trust_remote_code=True)
    with pytest.raises(ValueError, match="must alternate"):
        processor.apply_chat_template([SYSTEM, *CHAT])


USERS = "{% for m in messages %}{{ '<|im_start|>' + m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "option", "said"),
    [
        (None, "own", "the decoder has no chat template of its own; give --chat_template mistral_instruct, vicuna_v1"),
        (CHATML, "absent.jinja", "is no wording of a chat, and no file; give own, mistral_instruct, vicuna_v1"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", None, "does not write each picture once"),
        (USERS.replace("m['content']", "m['content'][:7]"), None, "the chat template drops the question"),
        (USERS.replace("m['content']", "m['content'].replace('<image>', '')"), None, "not write each picture once"),
        (USERS.replace("m['content']", "m['content'][0]['text']"), None, "refuses a chat of a picture"),
        ("{{ raise_exception('closed') }}", None, "refuses a chat of a picture, a question and an answer (closed)"),
        ("{% for m in messages %}", None, "refuses a chat of a picture"),
        (USERS.replace("m['content']", "(m['content'] if m['role'] == 'user' else '')"), None, "drops the answer"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_serve_is_refused_before_weights(vision_folder, tmp_path, template, option, said):
    decoder = save_decoder(tmp_path / "decoder", "chatml", template=template)
    (decoder / "model.safetensors").write_bytes(b"")  # would be refused, too, had it been read
    shutil.copy(vision_folder / "config.json", decoder / "tower.json")
    options = [] if option is None else ["--chat_template", option]
    from unittest import mock

    with mock.patch("llava_mistral.commands.build.refuse_missing_folder"):
        done = build(vision_folder, decoder, tmp_path / "out", *options, code=2)
    assert said in done.error and "field chat_template" in done.error
    assert not (tmp_path / "out").exists()


def test_a_token_without_a_row_is_refused_before_weights(vision_folder, tmp_path):
    decoder = save_decoder(tmp_path / "decoder", "chatml")
    config = json.loads((decoder / "config.json").read_text())
    (decoder / "config.json").write_text(json.dumps({**config, "vocab_size": 390}))
    done = build(vision_folder, decoder, tmp_path / "out", code=2)
    assert (
        "field vocab_size" in done.error
        and "as id 390, and the vocabulary of its config.json room for 390" in done.error
    )
