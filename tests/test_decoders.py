"""Decoders as they are published: their sizes without memory, and a tiny twin of each, whichever way it is run."""

import json

import pytest

from tests.support.published_decoders import SHAPES, twin
from tests.support.tiny_components import IMAGE_TOKENS, VISION, save_vision

LENGTH, WINDOW, IMAGE = 40, 12, 440
NAMES = sorted(SHAPES)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_shape_has_the_parameters_of_its_card(name):
    """On the meta device, with a CLIP tower; head and embeddings count once where they are tied."""
    import torch

    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration

    settings, published = SHAPES[name]["settings"], SHAPES[name]["parameters"]
    config = LlavaMistralConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config=dict(settings),
        image_token_id=7,
        tie_word_embeddings=settings.get("tie_word_embeddings", False),
    )
    with torch.device("meta"):
        model = LlavaMistralForConditionalGeneration(config)
    parts = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    count = sum(weight.numel() for weight in {id(weight): weight for weight in parts}.values())
    if published is None:
        assert name == "Ministral-3-8B-Base-2512" and 8.4e9 < count < 8.5e9
    else:
        assert count == published


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    """(the decoder alone, the same joined to a tower, the folder of both)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from llava_mistral.checkpoints.stage0 import compose, stage0_config

    folder = tmp_path_factory.mktemp("twin")
    settings = twin(SHAPES[request.param]["settings"])
    torch.manual_seed(5)
    alone = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**settings, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    )
    alone.eval().save_pretrained(folder / "decoder")
    save_vision(folder / "vision")
    parts = folder / "vision", folder / "decoder"
    joined = compose(*parts, stage0_config(*parts, image_token_id=IMAGE, vocab_size=448))
    joined.save_pretrained(folder / "joined")
    return alone, joined, folder


def prompt(rows: int = 1, length: int = LENGTH) -> dict:
    import torch

    generator = torch.Generator().manual_seed(7)
    words = torch.randint(5, 400, (rows, length - 1 - IMAGE_TOKENS), generator=generator)
    first, image = torch.ones(rows, 1, dtype=torch.long), torch.full((rows, IMAGE_TOKENS), IMAGE)
    pixels = torch.randn(rows, 3, VISION["image_size"], VISION["image_size"], generator=generator)
    return {"input_ids": torch.cat([first, image, words], dim=1), "pixel_values": pixels}


def close(found, expected) -> None:
    import torch

    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_joined_it_says_what_it_said_alone(pair):
    import torch

    alone, joined, _ = pair
    ids = torch.randint(5, 400, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(joined(input_ids=ids).logits, alone(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_the_cache_has_the_logits_of_the_whole_past_the_window(pair):
    import torch

    _, model, _ = pair
    inputs = prompt()
    with torch.no_grad():
        whole = model(**inputs, use_cache=False).logits
        start = 1 + IMAGE_TOKENS
        out = model(input_ids=inputs["input_ids"][:, :start], pixel_values=inputs["pixel_values"], use_cache=True)
        found = [out.logits]
        for place in range(start, LENGTH):
            step = inputs["input_ids"][:, place : place + 1]
            out = model(input_ids=step, past_key_values=out.past_key_values, use_cache=True)
            found.append(out.logits)
    close(torch.cat(found, dim=1), whole)


def test_a_static_cache_writes_what_a_growing_one_does(pair):
    _, model, _ = pair
    options = {"max_new_tokens": WINDOW, "min_new_tokens": WINDOW, "do_sample": False, "disable_compile": True}
    growing, static = (
        model.generate(**prompt(), **options, cache_implementation=kind).tolist() for kind in ("dynamic", "static")
    )
    assert growing == static


def test_a_batch_has_the_logits_of_single_rows(pair):
    """Padded on the left, with the positions that `generate` makes of the mask: Ministral 3 scales by them."""
    import torch

    _, model, _ = pair
    inputs, short = prompt(2), LENGTH - 9
    ids, mask = inputs["input_ids"].clone(), torch.ones(2, LENGTH, dtype=torch.long)
    ids[1] = torch.cat([torch.zeros(9, dtype=torch.long), inputs["input_ids"][1, :short]])
    mask[1, :9] = 0
    with torch.no_grad():
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        batch = model(input_ids=ids, attention_mask=mask, position_ids=places, pixel_values=inputs["pixel_values"])
        batch = batch.logits
        pictures = inputs["pixel_values"].split(1)
        for row, (words, picture) in enumerate(zip((ids[:1], ids[1:, 9:]), pictures, strict=True)):
            close(batch[row, LENGTH - words.shape[1] :], model(input_ids=words, pixel_values=picture).logits[0])


def test_packed_rows_have_the_logits_of_padded_ones(pair):
    import torch

    from llava_mistral.training.attention import use_per_sample_attention

    _, model, _ = pair
    inputs, lengths = prompt(2), (LENGTH, LENGTH - 9)
    rows = [inputs["input_ids"][row, :length] for row, length in enumerate(lengths)]
    with torch.no_grad():
        alone = [
            model(input_ids=rows[row][None], pixel_values=inputs["pixel_values"][[row]]).logits[0] for row in (0, 1)
        ]
        use_per_sample_attention(model)
        try:
            packed = model(
                input_ids=torch.cat(rows)[None],
                pixel_values=inputs["pixel_values"],
                position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
                cu_seq_lens_q=torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32),
                cu_seq_lens_k=torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32),
                max_length_q=max(lengths),
                max_length_k=max(lengths),
                use_cache=False,
            ).logits[0]
        finally:
            model.set_attn_implementation({"text_config": "sdpa"})
    close(packed, torch.cat(alone))


def test_saved_and_converted_it_stays_what_it_is(pair, tmp_path):
    """Opened again, and as stock Llava; a tied head is stored nowhere; the original's layout has mistral and llama."""
    import torch
    from safetensors import safe_open
    from transformers import LlavaForConditionalGeneration

    from llava_mistral.checkpoints.conversion import convert
    from llava_mistral.ground.bad_input import BadInput
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    _, model, folder = pair
    inputs, tied = prompt(), model.config.tie_word_embeddings
    with safe_open(folder / "joined" / "model.safetensors", "pt") as weights:
        assert ("lm_head.weight" in weights.keys()) == (not tied)  # noqa: SIM118  its `in` is none
    (tmp_path / "hf").mkdir(), (tmp_path / "original").mkdir()
    convert(folder / "joined", tmp_path / "hf", "llava-hf")
    opened = [LlavaMistralForConditionalGeneration.from_pretrained(folder / "joined")]
    opened.append(LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf"))
    if model.config.text_config.model_type in ("mistral", "llama"):
        convert(folder / "joined", tmp_path / "original", "original")
        opened.append(LlavaMistralForConditionalGeneration.from_pretrained(tmp_path / "original"))
    else:
        with pytest.raises(BadInput, match="the original code has no"):
            convert(folder / "joined", tmp_path / "original", "original")
    with torch.no_grad():
        expected = model(**inputs).logits
        for other in opened:
            kept = other.config.text_config
            assert (other.lm_head.weight is other.get_input_embeddings().weight) == tied
            assert kept.model_type == model.config.text_config.model_type
            image = other.config.image_token_id
            ids = torch.where(inputs["input_ids"] == IMAGE, image, inputs["input_ids"])
            torch.testing.assert_close(other.eval()(**{**inputs, "input_ids": ids}).logits, expected)


def test_ministral_says_in_how_many_layers_its_window_is(pair):
    _, model, _ = pair
    config, kinds = model.config, model.config.text_config.layer_types
    if config.text_config.model_type == "ministral":
        assert kinds == ["full_attention", *["sliding_attention"] * 3]
        assert "sliding window of 12 tokens in 3 of 4 layers" in config.describe_window(LENGTH)
    else:
        assert len(set(kinds)) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_types": ["full_attention"]}, "must be equal to the number of `layer_types`"),
        ({"layer_types": ["chunked_attention"] * 4}, "are not 4 of full_attention and sliding_attention"),
        ({"sliding_window": None}, "sliding_window null is no window of ministral"),
    ],
)
def test_windows_that_cannot_be_are_refused(changes, said):
    from huggingface_hub.errors import StrictDataclassError

    from modeling_llava_mistral import LlavaMistralConfig

    settings = {**twin(SHAPES["Ministral-8B-Instruct-2410"]["settings"]), **changes}
    with pytest.raises((ValueError, StrictDataclassError), match=said):
        LlavaMistralConfig(vision_config=dict(VISION), text_config=settings, image_token_id=IMAGE)


@pytest.mark.parametrize(
    ("field", "kind"), [("llm", "qwen2"), ("llm", "mistral4"), ("vision", "siglip2"), ("vision", "dinov2")]
)
def test_other_types_are_refused_by_name_before_weights(vision_folder, mistral_folder, tmp_path, field, kind):
    from transformers import AutoConfig

    from llava_mistral.commands.build import main
    from tests.support.running import run_here

    config = AutoConfig.for_model(kind).to_dict()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    given = {"vision": vision_folder, "llm": mistral_folder, field: tmp_path / "other"}
    parts = [word for name, value in given.items() for word in (f"--{name}", value)]
    done = run_here(main, *parts, "--output", tmp_path / "out", code=2)
    assert f"field {field}" in done.error and kind in done.error and "give a" in done.error
    assert not (tmp_path / "out").exists()
