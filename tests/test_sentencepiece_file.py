"""`tokenizer.model` in every export: sentencepiece reads texts as the checkpoint does, or there is none."""

import json
import shutil
from pathlib import Path

import pytest

from llava_mistral.checkpoints.sentencepiece_file import HOSTILE, NAME, random_texts, unlike, write_tokenizer_model
from llava_mistral.checkpoints.text_tokenizer import open_tokenizer
from tests.support.conversions import convert
from tests.support.tiny_components import tiny_tokenizer


def plain(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


@pytest.fixture(params=["the miniature's", "Mistral's"])
def tokenizer(request, shared):
    return tiny_tokenizer() if request.param == "the miniature's" else open_tokenizer(shared / "mistral_tokenizer")


def test_sentencepiece_and_llamas_class_read_hostile_texts_as_the_tokenizer_does(tokenizer, tmp_path):
    from sentencepiece import SentencePieceProcessor

    assert write_tokenizer_model(tokenizer, tmp_path) == ""
    back = SentencePieceProcessor(model_file=str(tmp_path / NAME))
    size = back.get_piece_size()
    assert [back.id_to_piece(index) for index in range(size)] == tokenizer.convert_ids_to_tokens(list(range(size)))
    texts = [*HOSTILE, *random_texts(map(back.id_to_piece, range(size)), 2000)]
    assert unlike(back, tokenizer, texts) == ""
    alone = open_tokenizer(tmp_path)
    assert all(plain(alone, text) == back.encode(text) for text in texts if not text.startswith((" ", "▁")))


@pytest.mark.parametrize(
    "file",
    [
        "tokenizer.model.v1",
        "mistral_instruct_tokenizer_240216.model.v2",
        "mistral_instruct_tokenizer_240323.model.v3",
        "mistral_instruct_tokenizer_241114.model.v7",
    ],
)
def test_mistrals_own_file_and_ours_read_the_same(file, tmp_path):
    mistral_common = pytest.importorskip("mistral_common", reason="pip install '.[dev]' brings it")
    from sentencepiece import SentencePieceProcessor

    (tmp_path / "own").mkdir()
    shutil.copy(Path(mistral_common.__file__).parent / "data" / file, tmp_path / "own" / NAME)
    assert write_tokenizer_model(open_tokenizer(tmp_path / "own"), tmp_path) == ""
    theirs, ours = (SentencePieceProcessor(model_file=str(folder / NAME)) for folder in (tmp_path / "own", tmp_path))
    vocabulary = [ours.id_to_piece(index) for index in range(ours.get_piece_size())]
    assert vocabulary == [theirs.id_to_piece(index) for index in range(theirs.get_piece_size())]
    for text in (*HOSTILE, " begins with a space", *random_texts(vocabulary, 1000)):
        assert theirs.encode(text) == ours.encode(text), text
    for role in ("bos_id", "eos_id", "unk_id"):
        assert getattr(ours, role)() == getattr(theirs, role)()


@pytest.mark.parametrize("layout", ["plugin", "llava-hf", "original"])
def test_every_export_has_it_and_opens_as_before(layout, stage0, tmp_path):
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    folder = convert(stage0, tmp_path / "out", layout)
    back = SentencePieceProcessor(model_file=str(folder / NAME))
    opened, before = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(stage0)
    for text in (*HOSTILE, "<s>[INST] <image>\nWhich digit? [/INST]"):
        assert opened(text).input_ids == before(text).input_ids
    assert unlike(back, opened, HOSTILE) == ""


def changed(tmp_path, **values):
    """The tiny tokenizer with parts of its file replaced."""
    tiny_tokenizer().save_pretrained(tmp_path / "changed")
    file = tmp_path / "changed" / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state["model"] |= values.pop("model", {})
    file.write_text(json.dumps(state | values), encoding="utf-8")
    return open_tokenizer(tmp_path / "changed")


def test_a_tokenizer_that_cannot_be_told_to_sentencepiece_exactly_gets_no_file(tmp_path):
    merges = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]["merges"]
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    for why, values in {
        "is not sentencepiece's": {"model": {"byte_fallback": False}},
        "never merges": {"model": {"merges": merges[:-1]}},
        "prepares texts otherwise": {"pre_tokenizer": bytewise},
    }.items():
        tokenizer = changed(tmp_path, **values)
        assert why in write_tokenizer_model(tokenizer, tmp_path)
        shutil.rmtree(tmp_path / "changed")
    assert not (tmp_path / NAME).exists()
