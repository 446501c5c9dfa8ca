"""Mistral's tokenizers as mistral-common ships them: chats of texts are token for token those of its own encoding."""

import json
import shutil
from pathlib import Path

import pytest

from llava_mistral.checkpoints.decoder_wording import choose_wording
from llava_mistral.checkpoints.stage0_processor import build_processor, decoder_tokenizer

FILES = {
    "v1": "tokenizer.model.v1",
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
    "tekken": "tekken_240718.json",
    "tekken-240911": "tekken_240911.json",
}
SLOW = {"v2", "tekken-240911"}  # their kind is that of v3 and of the other Tekken
WORDS = "  two  spaces, 2024 don't — Ça va?\n\n你好 🙂\tdef f(x):\n     return x "


def chats(version: str) -> list[list[dict]]:
    one, two = {"role": "user", "content": WORDS}, {"role": "user", "content": "What is 2 + 2?"}
    answer, system = {"role": "assistant", "content": "It is 7."}, {"role": "system", "content": "Be  brief."}
    if version == "v1":  # LLaVA-1.6's words, which end every answer in a space and have marks around a system turn
        return [[one], [two]]
    spaced = {"role": "assistant", "content": " It  is 7. "}
    return [[one], [two, answer, one], [one, spaced, two], [system, one], [system, one, answer, two]]


def reference(version: str, chat: list[dict]) -> list[int]:
    from mistral_common.protocol.instruct import messages
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    kinds = {"user": messages.UserMessage, "assistant": messages.AssistantMessage, "system": messages.SystemMessage}
    request = ChatCompletionRequest(messages=[kinds[turn["role"]](content=turn["content"]) for turn in chat])
    return shipped(version)[1].encode_chat_completion(request).tokens


def shipped(version: str, known: dict = {}) -> tuple:  # noqa: B006  one for all tests
    """(the file, its tokenizer)."""
    import mistral_common
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    file = Path(mistral_common.__file__).parent / "data" / FILES[version]
    if version not in known:
        known[version] = file, MistralTokenizer.from_file(str(file))
    return known[version]


@pytest.fixture(
    scope="module", params=[pytest.param(v, marks=pytest.mark.slow) if v in SLOW else v for v in FILES], ids=str
)
def made(request, vision_folder, tmp_path_factory):
    """(version, the wording's name, the processor as made, the same opened again)."""
    from processing import LlavaMistralProcessor

    pytest.importorskip("mistral_common", reason="pip install '.[dev]' brings mistral-common")
    folder, file = tmp_path_factory.mktemp(request.param), shipped(request.param)[0]
    shutil.copy(file, folder / ("tekken.json" if file.suffix == ".json" else "tokenizer.model"))
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    name, template, _ = choose_wording(decoder_tokenizer(folder, 131072), None, str(folder))
    processor = build_processor(vision_folder, folder, "pad", template, rows=131072)
    processor.save_pretrained(folder / "saved")
    return request.param, name, processor, LlavaMistralProcessor.from_pretrained(folder / "saved")


def test_chats_are_token_for_token_those_of_mistral_common(made):
    version, name, *processors = made
    assert name == ("mistral_instruct" if version == "v1" else "own")
    for chat in chats(version):
        expected = reference(version, chat)
        for processor in processors:
            found = processor.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
            assert found == [expected]


def test_a_picture_is_one_token_before_the_words_and_the_rest_is_the_references(made):
    version, _, processor, _ = made
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}
    text = processor.apply_chat_template([turn])
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.count(processor.image_token_id) == 1
    end = reference(version, [{"role": "user", "content": "Which?"}])[-2:]
    assert ids[-2:] == end


@pytest.mark.parametrize(
    ("name", "content"),
    [("tekken.json", "{}"), ("tekken.json", "[1"), ("tokenizer.model", "xx"), ("tokenizer.model", "")],
)
def test_a_damaged_tokenizer_is_refused_by_name(name, content, tmp_path):
    from llava_mistral.ground.bad_input import BadInput

    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=str(tmp_path)):
        decoder_tokenizer(tmp_path, 32000)
