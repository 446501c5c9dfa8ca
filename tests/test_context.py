"""The text model's context: scaled positions count, and what would go on beyond it is cut with a word."""

import pytest

from tests.support.tiny_components import TEXT
from tests.support.tiny_plugin import tiny_model

SCALED = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 512},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
}


@pytest.fixture(scope="module")
def model(stage0):
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    return LlavaMistralForConditionalGeneration.from_pretrained(stage0).eval()


def prompt(length: int, rows: int = 1):
    import torch

    ids = torch.randint(10, 300, (rows, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_positions_count(stage0, kind):
    from llava_mistral.ground.checkpoint_headers import context_length
    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration

    config = LlavaMistralConfig.from_pretrained(stage0)
    config.text_config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, **SCALED[kind]}
    assert config.context_length == context_length(config) == 2048
    model = LlavaMistralForConditionalGeneration.from_pretrained(stage0, config=config)
    assert model.generate(**prompt(700), max_new_tokens=1, min_new_tokens=1).shape == (1, 701)


def test_positions_that_were_stretched_already_are_not_stretched_twice():
    """As Llama 3.1 says it: 131,072 positions, 8 times 8,192."""
    from modeling_llava_mistral import LlavaMistralConfig

    rope = {"rope_type": "llama3", "rope_theta": 5e5, **SCALED["llama3"], "factor": 8.0}
    rope["original_max_position_embeddings"] = 8192
    text = {"model_type": "llama", "max_position_embeddings": 131072, "rope_parameters": rope}
    assert LlavaMistralConfig(text_config=text, image_token_id=5).context_length == 131072


@pytest.mark.case("G7", "accepted")
@pytest.mark.parametrize("form", ["input_ids", "positional", "inputs_embeds"])
def test_an_answer_is_cut_where_the_context_ends(model, caplog, form):
    import logging

    logging.getLogger("transformers").addHandler(caplog.handler)
    given = prompt(505, rows=2)
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "attention_mask": given["attention_mask"]}
    if form == "inputs_embeds":
        embeddings = model.get_input_embeddings()(given["input_ids"])
        assert model.generate(inputs_embeds=embeddings, **options).shape == (2, 7)
    elif form == "positional":
        assert model.generate(given["input_ids"], None, None, None, **options).shape == (2, 512)
    else:
        assert model.generate(input_ids=given["input_ids"], **options).shape == (2, 512)
    logging.getLogger("transformers").removeHandler(caplog.handler)


@pytest.mark.case("G7", "refused")
def test_a_prompt_that_fills_the_context_comes_back_and_a_longer_one_is_refused(model):
    given = prompt(512)
    assert model.generate(**given, max_new_tokens=5).equal(given["input_ids"])
    assert model.generate(**given, max_new_tokens=5, return_dict_in_generate=True).sequences.shape == (1, 512)
    with pytest.raises(ValueError, match="the prompt has 513 tokens and the text model a context of 512") as refused:
        model.generate(**prompt(513), max_new_tokens=1)
    assert refused.value.status_code == 400


def test_padding_is_no_prompt(model):
    given = prompt(600)
    given["attention_mask"][:, :200] = 0
    assert model.generate(**given, max_new_tokens=3, min_new_tokens=3).shape == (1, 603)


def test_a_window_that_is_switched_off_later_is_off(stage0):
    import torch

    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration

    config = LlavaMistralConfig.from_pretrained(stage0)
    config.text_config.sliding_window = None
    off = LlavaMistralForConditionalGeneration.from_pretrained(stage0, config=config).eval()
    assert set(off.config.text_config.layer_types) == {"full_attention"}
    from_start = LlavaMistralForConditionalGeneration.from_pretrained(
        stage0, config=LlavaMistralConfig.from_dict(config.to_dict())
    ).eval()
    with torch.no_grad():
        assert off(**prompt(40)).logits.equal(from_start(**prompt(40)).logits)
    assert off.generate(**prompt(40), max_new_tokens=3, min_new_tokens=3).shape == (1, 43)


def test_a_window_that_is_changed_in_a_model_is_refused_by_name(stage0):
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    model = LlavaMistralForConditionalGeneration.from_pretrained(stage0)
    model.config.text_config.sliding_window = None
    with pytest.raises(ValueError, match="sliding_window was changed after the model was made"):
        model.generate(**prompt(20), max_new_tokens=1)


COUNTING = {  # decoders for which it matters where a token stands, and not only how far it is from another
    "ministral3": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16}
    | {"llama_4_scaling_beta": 0.5, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 16}
    | {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
}


@pytest.mark.parametrize("kind", COUNTING)
def test_padding_on_the_left_moves_no_position(kind):
    """One short row behind the longest padding that it can have: its logits are those it has alone."""
    import torch

    text = {**TEXT, "vocab_size": 448, "rope_parameters": {"rope_theta": 1e4, **COUNTING[kind]}}
    text |= {"model_type": kind if kind == "ministral3" else "mistral"}
    model = tiny_model(text_config=text | ({"max_position_embeddings": 20} if kind == "dynamic" else {})).eval()
    ids = torch.randint(4, 390, (1, 12), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.full((1, 18), 3), ids], 1)
    mask = (torch.arange(30) >= 18).long()[None]
    with torch.no_grad():
        alone, behind = model(input_ids=ids).logits, model(input_ids=padded, attention_mask=mask).logits[:, -12:]
        torch.testing.assert_close(behind, alone, rtol=1e-4, atol=1e-4)
        moved = model(input_ids=padded, attention_mask=mask, position_ids=torch.arange(30)[None]).logits[:, -12:]
        assert (moved - alone).abs().max() > 1e-3, "the decoder must be one for which it matters"
        first = model(input_ids=padded[:, :29], attention_mask=mask[:, :29], use_cache=True)
        last = model(input_ids=padded[:, 29:], attention_mask=mask, past_key_values=first.past_key_values).logits
        torch.testing.assert_close(last[:, -1], alone[:, -1], rtol=1e-4, atol=1e-4)
