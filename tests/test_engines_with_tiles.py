"""What inference engines ask about pictures in tiles, and about how a model is spread."""

import re
from pathlib import Path

import pytest

from tests.support.engine_models import SIZES, pictures


@pytest.fixture(scope="module")
def processor(stage0):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(stage0, trust_remote_code=True)


@pytest.fixture(scope="module")
def base(stage0):
    """The base model of a checkpoint, by its folder alone."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(stage0, trust_remote_code=True).eval()


def test_the_base_model_can_be_made_without_weights(stage0):
    """Both engines make it on the meta device and fill in what they do not replace."""
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(stage0, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=True, dtype=torch.bfloat16)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_the_text_models_tensor_parallel_plan_is_carried_through(base):
    """Patterns of the plan are matched with module names from the start; every linear text layer has to be met."""
    import torch

    plan = {name: style for name, style in base.tp_plan.items() if style in ("colwise", "rowwise")}
    assert {f"language_model.{name}" for name in base.config.text_config.base_model_tp_plan} <= set(base.tp_plan)
    linear = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    planned = [name for name in linear if any(re.match(pattern, name) for pattern in plan)]
    assert planned == [name for name in linear if name.startswith("language_model.")] != []


def test_the_text_models_pipeline_plan_is_carried_through(base):
    """vLLM cuts the one list of modules that the plan names into stages."""
    import torch

    modules = [base.get_submodule(name) for name in base._pp_plan]
    lists = [module for module in modules if isinstance(module, torch.nn.ModuleList)]
    assert lists == [base.language_model.layers]


def test_the_whole_models_plan_covers_the_head(stage0):
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(stage0, trust_remote_code=True)
    assert model.tp_plan["lm_head"].startswith("colwise")
    assert "model.language_model.layers.*.self_attn.q_proj" in model.tp_plan


@pytest.fixture(scope="module")
def tiled(tmp_path_factory, vision_folder, mistral_folder) -> Path:
    """A checkpoint that sees a picture in tiles, as many as its shape asks for."""
    from llava_mistral.commands.build import main
    from tests.support.running import run_here

    folder = tmp_path_factory.mktemp("checkpoints") / "tiled"
    parts = ("--vision", vision_folder, "--llm", mistral_folder, "--image_aspect_ratio", "anyres")
    run_here(main, *parts, "--output", folder)
    return folder


def test_announced_emitted_and_computed_features_of_a_tiled_picture_are_as_many(tiled):
    """vLLM reserves by the announcement, finds places by the offsets and fills them with what the base model returns.

    It may encode a picture alone whose pixels were prepared among others, so that neighbours must not change it.
    """
    import torch
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(tiled, trust_remote_code=True)
    model = AutoModel.from_pretrained(tiled, trust_remote_code=True).eval()
    sizes = [*SIZES, (10, 90), (200, 200)]
    options = {"return_text_replacement_offsets": True, "return_tensors": "pt"}
    out = processor(images=pictures(sizes), text=processor.image_token * len(sizes), **options)
    announced = processor._get_num_multimodal_tokens(image_sizes=[size[::-1] for size in sizes])
    emitted = [entry["replacement"].count(processor.image_token) for entry in out["text_replacement_offsets"][0]]
    with torch.no_grad():
        features = list(model.get_image_features(out.pixel_values, image_sizes=out.image_sizes).pooler_output)
        rows = zip(out.pixel_values, out.image_sizes, strict=True)
        alone = [model.get_image_features(row[None], image_sizes=size[None]).pooler_output[0] for row, size in rows]
    assert announced["num_image_tokens"] == emitted == [len(feature) for feature in features]
    assert len(set(emitted)) > 1 and {feature.ndim for feature in features} == {2}
    for feature, expected in zip(features, alone, strict=True):
        torch.testing.assert_close(feature, expected)
    assert sum(announced["num_image_patches"]) == len(out.pixel_values), "rows that vLLM cuts for each picture"


def test_the_largest_tiled_picture_has_a_number_of_tokens(tiled):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiled, trust_remote_code=True)
    counts = processor._get_num_multimodal_tokens(image_sizes=[[10_000, 10_000], [33, 33], [20, 60]])
    assert counts["num_image_tokens"][0] == max(counts["num_image_tokens"])
    out = processor(images=pictures([(2_000, 2_000)]), text=["<image>"], return_tensors="pt")
    assert counts["num_image_tokens"][0] == int((out.input_ids == processor.image_token_id).sum()), (
        "shape alone counts"
    )
