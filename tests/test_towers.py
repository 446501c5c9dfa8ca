"""CLIP has a class token and SigLIP has none; what is fed to the projector is every patch and nothing else."""

import pytest

from llava_mistral.commands.build import main
from tests.support.decoders import save_siglip
from tests.support.running import run_here
from tests.support.tiny_components import VISION

SIDES = {"siglip": (30, 3), "clip": (VISION["image_size"], VISION["image_size"] // VISION["patch_size"])}


@pytest.fixture(scope="module", params=[(t, a) for t in SIDES for a in ("square", "pad", "anyres")], ids="-".join)
def opened(request, vision_folder, mistral_folder, tmp_path_factory):
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    tower, aspect = request.param
    folder = tmp_path_factory.mktemp("tower")
    vision = vision_folder if tower == "clip" else save_siglip(folder / "siglip")
    options = ("--image_aspect_ratio", aspect)
    run_here(main, "--vision", vision, "--llm", mistral_folder, *options, "--output", folder / "stage0")
    model = LlavaMistralForConditionalGeneration.from_pretrained(folder / "stage0").eval()
    return tower, aspect, vision, LlavaMistralProcessor.from_pretrained(folder / "stage0"), model


@pytest.mark.parametrize("size", [(40, 24), (24, 90), (32, 32)])
def test_a_picture_has_as_many_tokens_as_features(opened, size):
    import torch
    from PIL import Image

    tower, aspect, _, processor, model = opened
    side, grid = SIDES[tower]
    chat = [{"role": "user", "content": [{"type": "image", "image": Image.effect_noise(size, 60)}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(chat, **options)
    tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert inputs["pixel_values"].shape[-2:] == (side, side)
    assert tokens == grid**2 if aspect != "anyres" else tokens > grid**2
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_the_projector_reads_every_patch_of_the_layer_before_the_last(opened):
    """SigLIP's first state is a patch, CLIP's is the class token; the tower's weights are the published ones."""
    import torch
    from transformers import CLIPVisionModel, SiglipVisionModel

    tower, aspect, vision, _, model = opened
    if aspect == "anyres":
        pytest.skip("its rows end in image_newline; the count of its features is tested above")
    side = SIDES[tower][0]
    alone = (CLIPVisionModel if tower == "clip" else SiglipVisionModel).from_pretrained(vision).eval()
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = alone(pixels, output_hidden_states=True).hidden_states[-2][:, int(tower == "clip") :]
        expected = model.model.multi_modal_projector(states)
        found = model.model.get_image_features(pixels, return_dict=True).pooler_output
    torch.testing.assert_close(torch.stack(list(found)), expected)


def test_mean_and_deviation_are_the_towers(opened):
    from transformers import AutoImageProcessor

    _, _, vision, processor, _ = opened
    own = AutoImageProcessor.from_pretrained(vision)
    assert processor.image_processor.image_mean == own.image_mean
    assert processor.image_processor.image_std == own.image_std


def test_a_class_token_asked_of_siglip_is_refused():
    from huggingface_hub.errors import StrictDataclassError

    from tests.support.tiny_plugin import config

    vision = {"model_type": "siglip_vision_model", **VISION}
    with pytest.raises((ValueError, StrictDataclassError), match="it would be the first patch; use 'full'"):
        config(vision_config=vision)
    assert config(vision_config=vision, vision_feature_select_strategy="full").image_seq_length == 16
