"""The model is stock Llava's arithmetic, loads complete or not at all, and opens wherever its folder is carried."""

import filecmp
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.support.running import run_apart
from tests.support.tiny_components import IMAGE_TOKENS, TEXT
from tests.support.tiny_plugin import tiny_model

CODE = {
    "configuration_llava_mistral.py": "modeling_llava_mistral",
    "loading_llava_mistral.py": "modeling_llava_mistral",
    "modeling_llava_mistral.py": "modeling_llava_mistral",
    "pictures_llava_mistral.py": "processing",
    "processing_llava_mistral.py": "processing",
}
AUTO_MAP = {
    "AutoConfig": "configuration_llava_mistral.LlavaMistralConfig",
    "AutoModel": "modeling_llava_mistral.LlavaMistralModel",
    "AutoModelForCausalLM": "modeling_llava_mistral.LlavaMistralForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_llava_mistral.LlavaMistralForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_llava_mistral.LlavaMistralForConditionalGeneration",
}
QUESTIONS = (
    "<image>\nWhich digit is written?",
    "What is 2 + 2?",
    "<image>\nWhich digit is written? A. zero B. one C. two",
)


@pytest.fixture(scope="module")
def model(stage0):
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    return LlavaMistralForConditionalGeneration.from_pretrained(stage0).eval()


@pytest.fixture(scope="module")
def processor(stage0):
    from processing import LlavaMistralProcessor

    return LlavaMistralProcessor.from_pretrained(stage0)


def pictures(*texts: str) -> list[Image.Image]:
    """One picture per `<image>`, each of another colour and shape."""
    count = sum(text.count("<image>") for text in texts)
    return [Image.new("RGB", (20 + 17 * i, 30), (70 * i, 200 - 60 * i, 90)) for i in range(count)]


def batch(processor, *texts: str, images=None, **options):
    prompts = [f"<s>[INST] {text} [/INST]" for text in texts]
    images = pictures(*texts) if images is None else images
    return processor(images=images or None, text=prompts, padding=True, return_tensors="pt", **options)


def test_logits_are_those_of_stock_llava(model, processor):
    """The same weights under the same names in the library's own class."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    names = ("vision_config", "text_config", "image_token_index", "vision_feature_layer")
    stock = LlavaForConditionalGeneration(LlavaConfig(**{name: getattr(model.config, name) for name in names})).eval()
    stock.load_state_dict(model.state_dict(), strict=True)
    inputs = batch(processor, *QUESTIONS)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**inputs).logits)


def test_an_image_feature_is_the_projected_patch_of_the_last_layer_but_one(model, processor):
    """By hand: hidden state -2 of the tower, its class token left out, linear, GELU, linear."""
    import torch
    from torch.nn.functional import gelu

    pixels = batch(processor, QUESTIONS[0]).pixel_values
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
        by_hand = second(gelu(first(states[-2][:, 1:])))  # (1, patches, text width)
        features = model.get_image_features(pixels).pooler_output
    assert by_hand.shape == (1, IMAGE_TOKENS, TEXT["hidden_size"])
    assert torch.equal(features[0], by_hand[0])


def test_the_linear_projector_is_one_affine_map():
    projector = tiny_model(projector_type="linear").model.multi_modal_projector
    shapes = {name: tuple(weight.shape) for name, weight in projector.named_parameters()}
    assert shapes == {"linear_1.weight": (32, 16), "linear_1.bias": (32,)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_the_logits_of_each_sample_alone(model, processor, side):
    """With and without pictures in one batch, and beyond the sliding window."""
    import torch

    images = pictures(*QUESTIONS)
    together = batch(processor, *QUESTIONS, padding_side=side)
    lengths = together.attention_mask.sum(1).tolist()
    assert min(lengths) < max(lengths) and max(lengths) > model.config.text_config.sliding_window
    with torch.no_grad():
        padded = model(**together).logits
        for row, (text, own) in enumerate(zip(QUESTIONS, ([images[0]], [], [images[1]]), strict=True)):
            alone = model(**batch(processor, text, images=own)).logits[0]
            real = padded[row, -lengths[row] :] if side == "left" else padded[row, : lengths[row]]
            torch.testing.assert_close(real, alone, rtol=1e-4, atol=1e-4)


def test_text_alone_needs_no_picture(model, processor):
    import torch

    inputs = batch(processor, QUESTIONS[1], "Sure?")
    assert "pixel_values" not in inputs
    with torch.no_grad():
        logits = model(**inputs).logits
        text = model.model.language_model(**inputs).last_hidden_state
        assert torch.equal(logits, model.lm_head(text))


def test_the_picture_is_seen(model, processor):
    import torch

    red, blue = (
        batch(processor, QUESTIONS[0], images=[Image.new("RGB", (32, 32), colour)]) for colour in ("red", "blue")
    )
    with torch.no_grad():
        assert (model(**red).logits[0, -1] - model(**blue).logits[0, -1]).abs().max() > 1e-2


def test_cached_decoding_gives_the_tokens_of_decoding_without_a_cache(model, processor):
    """20 tokens past a prompt that is twice as long as the sliding window of 12."""
    inputs = batch(processor, QUESTIONS[0])
    assert inputs.input_ids.shape[1] > 2 * model.config.text_config.sliding_window
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}
    cached, recomputed = (model.generate(**inputs, **options, use_cache=cache).tolist() for cache in (True, False))
    assert cached == recomputed
    assert len(set(cached[0][-20:])) > 3, "an answer of one token repeated would hide a fault"


def test_batched_answers_are_those_of_each_question_alone(model, processor):
    images = pictures(*QUESTIONS)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    together = model.generate(**batch(processor, *QUESTIONS), **options)[:, -8:].tolist()
    for row, (text, own) in enumerate(zip(QUESTIONS, ([images[0]], [], [images[1]]), strict=True)):
        assert model.generate(**batch(processor, text, images=own), **options)[0, -8:].tolist() == together[row]


@pytest.mark.parametrize("change", ["fewer tokens", "more pictures", "no token"])
def test_image_tokens_and_pictures_that_disagree_are_an_error(model, processor, change):
    inputs = batch(processor, QUESTIONS[0])
    ids, pixels = inputs.input_ids, inputs.pixel_values
    image = ids[0] == model.config.image_token_index
    if change == "fewer tokens":
        ids = ids[:, : int(image.nonzero().max())]
    elif change == "no token":
        ids = ids[:, ~image]
    else:
        pixels = pixels.repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match="[Ii]mage features and image tokens do not match"):
        model(input_ids=ids, pixel_values=pixels)


@pytest.mark.parametrize("name", ["inputs", "input_ids", "inputs_embeds"])
def test_a_prompt_longer_than_the_context_is_refused(model, name):
    import torch

    long = torch.ones(1, TEXT["max_position_embeddings"] + 1, dtype=torch.long)
    given = model.get_input_embeddings()(long) if name == "inputs_embeds" else long
    with pytest.raises(ValueError, match="the prompt has 513 tokens and the text model a context of 512"):
        model.generate(**{name: given}, max_new_tokens=1)


@pytest.mark.parametrize("text", ["mistral", "llama"])
def test_both_text_models_of_the_study_answer_and_learn(text):
    """Loss is finite, and the projector gets a gradient through either."""
    import torch

    model = tiny_model(text_config={"model_type": text, "vocab_size": 448, **TEXT})
    assert model.model.language_model.config.model_type == text
    ids = torch.tensor([[1, *[400] * IMAGE_TOKENS, 5, 6, 7]])
    loss = model(input_ids=ids, pixel_values=torch.randn(1, 3, 32, 32), labels=ids.masked_fill(ids == 400, -100)).loss
    loss.backward()
    assert loss.isfinite()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().max() > 0


def test_saving_again_keeps_auto_map_and_code(stage0, tmp_path):
    """Loaded and saved twice: weights, words and code are those of the source, settings those of the first copy."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    source = stage0
    for round_trip in range(2):
        folder = tmp_path / str(round_trip)
        AutoModelForImageTextToText.from_pretrained(source, trust_remote_code=True).save_pretrained(folder)
        AutoProcessor.from_pretrained(source, trust_remote_code=True).save_pretrained(folder)
        source = folder
    assert_shippable(source)
    for name in ("processor_config.json", "chat_template.jinja", "tokenizer.json", "model.safetensors"):
        assert filecmp.cmp(stage0 / name, source / name, shallow=False), name
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert filecmp.cmp(tmp_path / "0" / name, source / name, shallow=False), name


@pytest.mark.parametrize("name", ["LlavaMistralForConditionalGeneration", "LlavaMistralModel"])
def test_saving_forgets_the_repository_that_a_load_noted(stage0, tmp_path, name):
    """A load from the Hub writes `owner/name--` before each class; the code now travels in the folder."""
    import modeling_llava_mistral

    model = getattr(modeling_llava_mistral, name).from_pretrained(stage0)
    model.config.auto_map = {"AutoConfig": f"owner/name--{AUTO_MAP['AutoConfig']}"}
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP


def assert_shippable(folder: Path):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map == AUTO_MAP
    processing = json.loads((folder / "processor_config.json").read_text())["auto_map"]
    assert processing == {"AutoProcessor": "processing_llava_mistral.LlavaMistralProcessor"}
    home = Path(__file__).parents[1]
    for name, package in CODE.items():
        assert filecmp.cmp(home / package / name, folder / name, shallow=False), name
    assert {path.name for path in folder.glob("*.py")} == set(CODE)


STRANGER = """
import json, sys, torch
from pathlib import Path
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

folder = Path(sys.argv[1])
trust = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained(folder, **trust)
model = AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
base = AutoModel.from_pretrained(folder, **trust).eval()
picture = Image.new("RGB", (20, 30), (0, 200, 90))
turns = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Which digit?"}]}]
words = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
inputs = processor.apply_chat_template(turns, **words)
with torch.no_grad():
    logits = model(**inputs).logits
    assert torch.equal(model.lm_head(base(**inputs).last_hidden_state), logits)
torch.save({"inputs": dict(inputs), "logits": logits}, folder / "seen.pt")
answer = pipeline("image-text-to-text", model=str(folder), **trust)(text=turns, max_new_tokens=4, do_sample=False)
generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1]:]
print(json.dumps({
    "modules": sorted({type(part).__module__.split(".")[0] for part in (processor, model, base, model.config)}),
    "again": AutoModelForImageTextToText.from_pretrained(folder, **trust).config.auto_map,
    "answer": answer[0]["generated_text"][-1]["content"],
    "generated": processor.decode(generated, skip_special_tokens=True),
}))
"""


def test_a_stranger_loads_the_folder_and_gets_the_same_logits(stage0, model, tmp_path):
    """Model, base model, processor and pipeline, in a clean process that has never seen this repository."""
    import torch

    folder = tmp_path / "checkpoint"
    shutil.copytree(stage0, folder)
    done = run_apart("-c", STRANGER, folder, cwd=tmp_path, PYTHONPATH="", HF_HOME=str(tmp_path / "home"))
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["modules"] == ["transformers_modules"], "the code must be the folder's own"
    assert said["answer"].strip() == said["generated"].strip() != ""
    seen = torch.load(folder / "seen.pt")
    with torch.no_grad():
        assert torch.equal(model(**seen["inputs"]).logits, seen["logits"])


def test_weights_on_disk_have_the_names_engines_expect(stage0):
    from safetensors import safe_open

    with safe_open(stage0 / "model.safetensors", "pt") as file:
        names = set(file.keys())
    prefixes = ("model.vision_tower.", "model.multi_modal_projector.", "model.language_model.", "lm_head.weight")
    assert all(name.startswith(prefixes) for name in names)
    assert {"model.multi_modal_projector.linear_1.weight", "model.language_model.embed_tokens.weight"} < names


def test_forward_takes_what_the_stock_model_takes_by_name_and_by_place(model):
    """The library, its trainer and its suites look at the signature."""
    import inspect

    import torch
    from transformers import LlavaModel

    from modeling_llava_mistral import LlavaMistralModel

    ours, stock = (inspect.signature(one.forward) for one in (LlavaMistralModel, LlavaModel))
    assert ours == stock
    ids = torch.tensor([[1, 5, 6, 7]])
    embedded = model.get_input_embeddings()(ids)
    by_name = model.model(inputs_embeds=embedded).last_hidden_state
    assert model.model(None, None, None, None, None, embedded).last_hidden_state.equal(by_name)
