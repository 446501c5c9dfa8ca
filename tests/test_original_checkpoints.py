"""Folders of the original LLaVA code open as they are, and give what that code computed."""

from pathlib import Path

import pytest

from tests.support.conversions import case, picture
from tests.support.tiny_components import tiny_tokenizer

FIXTURES = ("llava15_pad", "llava16_anyres")
PICTURES = ("waterview", "ironing", "tall", "wide")


@pytest.fixture(autouse=True, scope="module")
def plugin():
    import modeling_llava_mistral  # noqa: F401


@pytest.fixture(scope="module", params=FIXTURES)
def folder(request, shared) -> Path:
    return shared / "original_llava" / request.param


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def processor(folder):
    from processing import LlavaMistralProcessor

    return LlavaMistralProcessor.from_pretrained(folder, tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def expected(folder):
    from safetensors.torch import load_file

    return load_file(folder / "expected.safetensors")


def inputs(model, processor, folder: Path, name: str) -> dict:
    """The case's ids around its picture, which the processor reads."""
    import torch

    said = case(folder, name)
    ids = said["before_image"] + [model.config.image_token_id] * said["image_tokens"] + said["after_image"]
    look = processor.image_processor(picture(folder, name), return_tensors="pt")
    return {"input_ids": torch.tensor([ids]), **look}


@pytest.mark.parametrize("name", PICTURES)
def test_pixel_values_are_the_originals(processor, folder, expected, name):
    import torch

    pixels = processor.image_processor(picture(folder, name), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(pixels, expected[f"{name}.pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_takes_as_many_tokens_as_in_the_original(processor, folder, name):
    out = processor(images=picture(folder, name), text="<image>", return_tensors="pt")
    count = int((out.input_ids == processor.image_token_id).sum())
    width, height = case(folder, name)["image_size_wh"]
    assert count == case(folder, name)["image_tokens"]
    assert processor._get_num_multimodal_tokens([(height, width)])["num_image_tokens"] == [count]


@pytest.mark.parametrize("name", PICTURES)
def test_input_embeddings_and_logits_are_the_originals(model, processor, folder, expected, name):
    import torch

    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        logits = model(**inputs(model, processor, folder, name)).logits[0]
    hook.remove()
    torch.testing.assert_close(seen[0][0], expected[f"{name}.inputs_embeds"], rtol=0, atol=2e-5)
    torch.testing.assert_close(logits, expected[f"{name}.logits"], rtol=0, atol=2e-5)


def test_text_alone_gives_the_originals_logits(model, folder, expected):
    import torch

    ids = torch.tensor([case(folder, "text_only")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits[0], expected["text_only.logits"], rtol=0, atol=2e-5)


def test_a_newline_that_was_loaded_is_not_drawn_again(shared, tmp_path):
    """Where another weight is missing, and who loads has asked to be told."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(shared / "original_llava" / "llava16_anyres")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.multi_modal_projector.linear_2.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert list(info["missing_keys"]) == ["model.multi_modal_projector.linear_2.weight"]
    assert again.model.image_newline.equal(model.model.image_newline)
    assert again.model.multi_modal_projector.linear_2.weight.std() > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_pictures_of_all_shapes_and_none_gives_the_logits_of_each_alone(
    model, processor, folder, expected, side
):
    """Two pictures in one prompt, one, and none; more tiles for some than for others."""
    import torch

    prompts = [("waterview", "tall"), ("wide",), ()]
    rows, looks = [], []
    for names in prompts:
        ids = [1, 5, 9]
        for name in names:
            ids += [model.config.image_token_id] * case(folder, name)["image_tokens"] + [7]
        rows.append(ids)
        looks += [picture(folder, name) for name in names]
    longest = max(map(len, rows))
    pads = [[0] * (longest - len(row)) for row in rows]
    ids = [pad + row if side == "left" else row + pad for row, pad in zip(rows, pads, strict=True)]
    mask = [
        [0] * len(pad) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(pad)
        for row, pad in zip(rows, pads, strict=True)
    ]
    with torch.no_grad():
        together = model(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            **processor.image_processor(looks, return_tensors="pt"),
        ).logits
        for index, (names, row) in enumerate(zip(prompts, rows, strict=True)):
            own = processor.image_processor([picture(folder, n) for n in names], return_tensors="pt") if names else {}
            alone = model(input_ids=torch.tensor([row]), **own).logits[0]
            real = together[index, -len(row) :] if side == "left" else together[index, : len(row)]
            torch.testing.assert_close(real, alone, rtol=1e-4, atol=2e-5)


def test_generation_with_and_without_a_cache_and_by_beams_agrees(model, processor, folder):
    """A beam of one is greedy; each of two beams sees the tiles of its own picture."""
    asked = inputs(model, processor, folder, "tall")
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    cached, recomputed = (
        model.generate(**asked, **options, use_cache=cache)[0, -12:].tolist() for cache in (True, False)
    )
    assert cached == recomputed and len(set(cached)) > 3
    beams = model.generate(**asked, **options, num_beams=2, num_return_sequences=2)
    assert beams.shape[0] == 2 and beams[0].tolist() != beams[1].tolist()
    other = inputs(model, processor, folder, "wide")
    assert model.generate(**other, **options)[0, -12:].tolist() != cached, "another picture, another answer"


def test_the_vocabulary_stays_where_no_tokenizer_asks_for_an_image_token(model):
    assert model.config.text_config.vocab_size == 512
    assert model.get_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0] == 512


def test_what_was_opened_saves_as_a_plugin_checkpoint(model, processor, folder, tmp_path):
    """No trace of the flat configuration, and the same logits to the last bit."""
    import torch
    from transformers import AutoModelForImageTextToText

    model.save_pretrained(tmp_path)
    said = (tmp_path / "config.json").read_text()
    assert "mm_" not in said and str(folder) not in said
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    asked = inputs(model, processor, folder, "wide")
    with torch.no_grad():
        assert torch.equal(again(**asked).logits, model(**asked).logits)
