"""What `make demo-real` is made of, on weights of a few thousand: twins, what is still known, and the page."""

import importlib.metadata
import json
from unittest import mock

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.miniature import real_answers, smollm2
from tests.support.running import HOME, run_here


@pytest.mark.parametrize("tied", [False, True])
def test_a_llama_and_a_mistral_of_equal_weights_have_equal_logits(tied, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 99}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "initializer_range": 0.2}
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e5}
    packed = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied, rope_parameters=rope)).eval()
    ids = torch.randint(0, 99, (2, 70))
    with torch.no_grad():
        expected = packed(input_ids=ids).logits
        for name, model in smollm2.twins(packed).items():
            model.save_pretrained(tmp_path / name)
            opened = AutoModelForCausalLM.from_pretrained(tmp_path / name)
            assert opened.config.model_type == name
            assert torch.equal(opened(input_ids=ids).logits, expected)


def test_without_the_package_it_is_said_what_to_install(tmp_path):
    def absent(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    with mock.patch("importlib.metadata.version", absent):
        done = run_here(smollm2.main, "--output", tmp_path / "out", code=2)
    assert "the package gguf is not installed; run `make demo-real`, or pip install" in done.error
    assert not (tmp_path / "out").exists()


def test_the_page_has_the_runs_figures_and_no_others():
    said = dict.fromkeys(real_answers.KNOWN, "I say Paris,\nor 4 | 7.")
    found = {
        "package": "p 1.2", "file": "f.gguf", "parameters": 1234, "largest_difference_of_logits": 0.5,
        "joined_logits_apart": 0.25, "twins_say_the_same": False,
        "digits": {"n": 80, "correct": 61}, "answers": {"decoder alone": said, "trained": said},
        "known": {"mistral": real_answers.known(said), "trained": 2},
    }  # fmt: skip
    page = real_answers.page(found)
    assert found["known"]["mistral"] == 3  # Paris, 4 and 7; not Rome, not blue
    for figure in (
        "1,234",
        "0.5 apart",
        "0.25 apart",
        "other answers",
        "61 of 80",
        "answers 2 with",
        "\n  3.",
        "Paris, or 4 \\| 7.",
    ):
        assert figure in page


def test_the_committed_page_is_poured_out_of_its_figures():
    found = json.loads((HOME / "docs" / "real.json").read_text(encoding="utf-8"))
    assert (HOME / "docs" / "real.md").read_text(encoding="utf-8") == real_answers.page(found)
    assert found["digits"]["correct"] > found["digits"]["n"] / 2, "it reads digits; chance is one in ten"
    assert "Paris" in found["answers"]["trained"]["What is the capital of France?"], "it knows what it knew"
    assert found["known"]["trained"] >= 3 and found["twins_say_the_same"]
    assert found["joined_logits_apart"] < 1e-4


def test_a_joined_decoder_that_says_other_words_is_named(tmp_path):
    import torch

    alone = {"q": ([1, 2], torch.zeros(2, 5))}
    assert real_answers.apart({"q": ([1, 2], torch.full((2, 8), 0.5))}, alone, tmp_path) == 0.5
    with pytest.raises(BadInput, match="says to texts what the decoder alone does not"):
        real_answers.apart({"q": ([1, 3], torch.zeros(2, 8))}, alone, tmp_path)
