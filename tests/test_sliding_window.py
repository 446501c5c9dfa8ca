"""Sliding window and grouped queries: every attention, the cache and the saved folder mean the same by them."""

import json
import shutil

import pytest

from tests.support.tiny_components import IMAGE_TOKENS, TEXT
from tests.support.tiny_plugin import config, tiny_model

WINDOW = 12  # of the tiny text model; an image is 16 tokens
LENGTH = 48
FULL, SLIDING = ["full_attention"] * TEXT["num_hidden_layers"], ["sliding_attention"] * TEXT["num_hidden_layers"]
# On a CPU flex_attention is compiled on its first call, by the machine's C++ compiler.
NEEDS_COMPILER = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="no C++ compiler is here")
ATTENTIONS = ("eager", "sdpa", pytest.param("flex_attention", marks=(NEEDS_COMPILER, pytest.mark.slow)))


def text_config(**changes) -> dict:
    return {"model_type": "mistral", "vocab_size": 448, "sliding_window": WINDOW, **TEXT, **changes}


def prompt(length: int = LENGTH, rows: int = 1) -> dict:
    """An image, then different words for each row."""
    import torch

    generator = torch.Generator().manual_seed(7)
    words = torch.randint(5, 390, (rows, length - 1 - IMAGE_TOKENS), generator=generator)
    image = torch.full((rows, IMAGE_TOKENS), 400)
    return {
        "input_ids": torch.cat([torch.ones(rows, 1, dtype=torch.long), image, words], dim=1),
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=generator),
    }


def logits_of(model, attention: str, **inputs):
    import torch

    model.set_attn_implementation({"text_config": attention})
    assert model.model.language_model.config._attn_implementation == attention
    with torch.no_grad():
        return model(**inputs).logits


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@NEEDS_COMPILER
@pytest.mark.parametrize("padded", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("window", [WINDOW, pytest.param(None, marks=pytest.mark.slow)])
def test_eager_sdpa_and_flex_attention_agree(window, padded):
    """Four windows long, with an image; the window counts, or agreement would prove nothing."""
    import torch

    model = tiny_model(text_config=text_config(sliding_window=window))
    inputs = prompt(rows=2)
    mask = torch.ones_like(inputs["input_ids"])
    if padded:
        mask[1, -5:] = 0
    eager, sdpa, flex = (
        logits_of(model, attention, **inputs, attention_mask=mask) for attention in ("eager", "sdpa", "flex_attention")
    )
    torch.testing.assert_close(sdpa[mask == 1], eager[mask == 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flex[mask == 1], eager[mask == 1], rtol=1e-4, atol=1e-4)
    other = tiny_model(text_config=text_config(sliding_window=None if window else WINDOW))  # the same seed and weights
    assert (logits_of(other, "sdpa", **inputs)[0, -1] - sdpa[0, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_token_sees_exactly_the_window(attention):
    """One layer: the newest token depends on itself and the 11 before it, and on nothing else."""
    import torch

    model = tiny_model(text_config=text_config(num_hidden_layers=1))
    inputs = prompt()
    before = logits_of(model, attention, **inputs)[0, -1]
    for back, seen in ((WINDOW - 1, True), (WINDOW, False)):
        ids = inputs["input_ids"].clone()
        ids[0, -1 - back] = 391
        after = logits_of(model, attention, input_ids=ids, pixel_values=inputs["pixel_values"])[0, -1]
        assert (not torch.allclose(before, after, rtol=1e-5, atol=1e-5)) == seen, back


@pytest.mark.parametrize("prefill", [5 + IMAGE_TOKENS, LENGTH])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [WINDOW, None])
def test_cached_decoding_has_the_logits_of_the_whole_forward(window, attention, prefill):
    """Token by token to eight windows, the prompt with its image already longer than one."""
    import torch

    model, inputs = tiny_model(text_config=text_config(sliding_window=window)), prompt(8 * WINDOW)
    whole = logits_of(model, attention, **inputs)
    ids = inputs["input_ids"]
    with torch.no_grad():
        out = model(input_ids=ids[:, :prefill], pixel_values=inputs["pixel_values"], use_cache=True)
        found = [out.logits]
        for position in range(prefill, ids.shape[1]):
            step = {"input_ids": ids[:, position : position + 1], "past_key_values": out.past_key_values}
            out = model(**step, use_cache=True)
            found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", ["mistral", "no window", "llama"])
def test_a_static_cache_generates_the_tokens_of_a_growing_one(text):
    """The library makes a mask for each of `layer_types` there, which its Mistral and LLaMA do not take."""
    changes = {"mistral": {}, "no window": {"sliding_window": None}, "llama": {"model_type": "llama"}}[text]
    model, inputs = tiny_model(text_config=text_config(**changes)), prompt()
    options = {"max_new_tokens": 2 * WINDOW, "min_new_tokens": 2 * WINDOW, "do_sample": False, "disable_compile": True}
    growing, static = (
        model.generate(**inputs, **options, cache_implementation=kind).tolist() for kind in ("dynamic", "static")
    )
    assert growing == static


@pytest.mark.parametrize(("window", "bounded"), [(WINDOW, True), (None, False)])
def test_the_cache_stops_growing_at_the_window(window, bounded):
    """After 48 and after 192 tokens it holds the 11 that the next token can still see, beside itself; else all."""
    import torch
    from transformers import DynamicCache

    model = tiny_model(text_config=text_config(sliding_window=window))
    kv_heads, head_dim = TEXT["num_key_value_heads"], TEXT["hidden_size"] // TEXT["num_attention_heads"]
    token = 2 * TEXT["num_hidden_layers"] * kv_heads * head_dim * torch.float32.itemsize
    cache = DynamicCache(config=model.config)
    inputs = prompt(4 * LENGTH)
    with torch.no_grad():
        model(input_ids=inputs["input_ids"][:, :LENGTH], pixel_values=inputs["pixel_values"], past_key_values=cache)
        for length in (LENGTH, 4 * LENGTH):
            for position in range(cache.get_seq_length(), length):
                model(input_ids=inputs["input_ids"][:, position : position + 1], past_key_values=cache)
            assert cache.get_seq_length() == length
            states = [state for layer in cache.layers for state in (layer.keys, layer.values)]
            assert sum(state.nbytes for state in states) == token * (WINDOW - 1 if bounded else length)


def test_the_cache_of_generate_is_the_bounded_one(model):
    done = model.generate(
        **prompt(), max_new_tokens=4, min_new_tokens=4, do_sample=False, return_dict_in_generate=True
    )
    assert [layer.keys.shape[-2] for layer in done.past_key_values.layers] == [WINDOW - 1] * TEXT["num_hidden_layers"]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_grouped_queries_equal_full_heads_with_repeated_keys_and_values(attention):
    """Each key and value head, written out once per query head that shares it."""
    import torch

    grouped = tiny_model()
    full = tiny_model(seed=1, text_config=text_config(num_key_value_heads=TEXT["num_attention_heads"]))
    shared, head_dim = TEXT["num_attention_heads"] // TEXT["num_key_value_heads"], 8
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if "language_model" in name and name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.view(-1, head_dim, weight.shape[1])
            weights[name] = heads.repeat_interleave(shared, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    inputs = prompt()
    few, all_heads = logits_of(grouped, attention, **inputs), logits_of(full, attention, **inputs)
    torch.testing.assert_close(few, all_heads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, SLIDING),
        ({"sliding_window": None}, FULL),
        ({"model_type": "llama"}, FULL),  # it has no window, whatever its configuration holds
        ({"sliding_window": None, "layer_types": SLIDING}, FULL),
        ({"layer_types": ["full_attention"]}, SLIDING),  # written for another depth
    ],
)
def test_layer_types_say_what_the_window_says_and_survive_saving(changes, expected, tmp_path):
    """From settings and from a configuration object; the window decides, as it does in the library's Mistral."""
    from transformers import AutoConfig

    from modeling_llava_mistral import LlavaMistralConfig

    made = config(text_config=text_config(**changes))
    assert made.text_config.layer_types == expected
    made.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["layer_types"] == expected
    loaded = LlavaMistralConfig.from_pretrained(tmp_path)
    assert loaded.text_config.layer_types == expected
    assert config(text_config=loaded.text_config).text_config.layer_types == expected
    if changes.get("model_type") != "llama":
        assert loaded.text_config.sliding_window == made.text_config.sliding_window
    plain = {
        name: value for name, value in text_config(**changes).items() if name not in ("model_type", "layer_types")
    }
    part = AutoConfig.for_model(made.text_config.model_type, **plain)
    assert config(text_config=part).text_config.layer_types == expected


def test_settings_that_were_passed_in_are_left_as_they_were():
    given = text_config(layer_types=SLIDING)
    config(text_config=given)
    assert given == text_config(layer_types=SLIDING)


def test_loading_a_saved_window_warns_of_nothing(tmp_path, caplog):
    """The library's MistralConfig would recommend another model class to whoever gives it layer types."""
    import logging

    from transformers.utils import logging as library

    from modeling_llava_mistral import LlavaMistralConfig

    config().save_pretrained(tmp_path)
    root = logging.getLogger("transformers")
    root.addHandler(caplog.handler)
    verbosity = library.get_verbosity()
    library.set_verbosity_warning()
    library.get_logger("transformers").warning_once.cache_clear()
    try:
        LlavaMistralConfig.from_pretrained(tmp_path)
    finally:
        root.removeHandler(caplog.handler)
        library.set_verbosity(verbosity)
    assert "layer_types" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"layer_types": [FULL[0], SLIDING[0]]},
            "mixes full_attention and sliding_attention, which Mistral and LLaMA",
        ),
        (
            {"sliding_window": 0},
            "sliding_window 0 is not a valid window; give a positive number of tokens, or null for none",
        ),
    ],
)
def test_a_window_that_cannot_be_is_refused(changes, said):
    from huggingface_hub.errors import StrictDataclassError

    with pytest.raises((ValueError, StrictDataclassError), match=said):
        config(text_config=text_config(**changes))


@pytest.mark.parametrize(("window", "expected"), [(4096, SLIDING), (None, FULL)])
def test_stage_0_keeps_the_window_of_its_base(vision_folder, mistral_folder, tmp_path, window, expected):
    """Mistral-7B-v0.1 has 4,096; Instruct-v0.2 writes null, and the library's default of 4,096 must not creep in."""
    from llava_mistral.checkpoints.stage0 import stage0_config

    written = json.loads((mistral_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, "sliding_window": window}))
    text = stage0_config(vision_folder, tmp_path, image_token_id=5, vocab_size=400).text_config
    assert (text.sliding_window, text.layer_types) == (window, expected)


def test_the_built_checkpoint_keeps_the_window_of_its_base(stage0):
    text = json.loads((stage0 / "config.json").read_text())["text_config"]
    assert (text["sliding_window"], text["layer_types"]) == (WINDOW, SLIDING)


@pytest.mark.parametrize(
    ("changes", "length", "binds", "said"),
    [
        (
            {},
            WINDOW,
            False,
            "sliding window of 12 tokens, longest sequence 12: it never bound: the attention was full",
        ),
        ({}, WINDOW + 1, True, "sliding window of 12 tokens, longest sequence 13: it bound"),
        ({"sliding_window": None}, 9999, False, "no sliding window: every token attends to all before it"),
        ({"model_type": "llama"}, 9999, False, "no sliding window: every token attends to all before it"),
    ],
)
def test_a_run_can_say_whether_the_window_bound(changes, length, binds, said):
    made = config(text_config=text_config(**changes))
    assert (made.window_binds(length), made.describe_window(length)) == (binds, said)
