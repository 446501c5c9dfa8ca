"""Configurations mean here what they mean to the library, however they are spelled; a conversion never guesses."""

import json
from pathlib import Path

import pytest

from llava_mistral.checkpoints.conversion import convert
from llava_mistral.checkpoints.layouts import grid_pinpoints, nested_config
from llava_mistral.ground.bad_input import BadInput
from tests.support.tiny_plugin import config


@pytest.fixture
def hf(stage0, tmp_path) -> Path:
    """The checkpoint in llava-hf's layout."""
    (tmp_path / "hf").mkdir()
    convert(stage0, tmp_path / "hf", "llava-hf")
    return tmp_path / "hf"


def change(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name, value in fields.items():
        config.pop(name, None)
        if value is not None:
            config[name] = value
    (folder / "config.json").write_text(json.dumps(config))


def converted(hf: Path, tmp_path: Path):
    from modeling_llava_mistral import LlavaMistralConfig

    (tmp_path / "out").mkdir()
    convert(hf, tmp_path / "out", "plugin")
    return LlavaMistralConfig.from_pretrained(tmp_path / "out")


def test_the_image_token_by_its_other_name(stage0, hf, tmp_path):
    from modeling_llava_mistral import LlavaMistralConfig

    token = LlavaMistralConfig.from_pretrained(stage0).image_token_id
    change(hf, image_token_index=None, image_token_id=token)
    assert converted(hf, tmp_path).image_token_id == token


def test_an_image_token_that_is_left_out_is_the_librarys_default(hf, tmp_path):
    change(hf, image_token_index=None)
    with pytest.raises(BadInput, match="image_token_id 32000 is outside the vocabulary"):
        converted(hf, tmp_path)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_type_of_the_weights_by_either_name(hf, tmp_path, name):
    change(hf, dtype=None, torch_dtype=None)
    change(hf, **{name: "bfloat16"})
    assert str(converted(hf, tmp_path).dtype) == "torch.bfloat16"


def test_a_text_model_that_is_not_named_is_llama_as_stock_has_it(hf, tmp_path):
    config = json.loads((hf / "config.json").read_text())
    text = {key: value for key, value in config["text_config"].items() if key not in ("model_type", "sliding_window")}
    change(hf, text_config=text)
    assert converted(hf, tmp_path).text_config.model_type == "llama"


def test_tiles_without_their_grids_have_the_librarys(hf, tmp_path):
    from transformers import LlavaNextConfig

    from llava_mistral.checkpoints.layouts import plugin_config

    read = LlavaNextConfig.from_dict({"model_type": "llava_next", "image_token_id": 7}).to_dict()
    grids = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    assert plugin_config(read, "anyres")["image_grid_pinpoints"] == grids
    with pytest.raises(BadInput, match="use_image_newline_parameter"):
        plugin_config(read | {"use_image_newline_parameter": False}, "anyres")


@pytest.mark.parametrize("field", ["text_config", "vision_config", "model_type", "dtype", "image_grid_pinpoints"])
@pytest.mark.parametrize("value", [3, [], {}, "nonsense"])
def test_what_is_no_configuration_is_refused_and_no_key_error(hf, tmp_path, field, value):
    change(hf, **{field: value})
    try:
        converted(hf, tmp_path)
    except BadInput as error:
        assert str(hf) in str(error)


FLAT = {"model_type": "llava_mistral", "mm_vision_tower": "tower", "mm_projector_type": "mlp2x_gelu"}
TOWER = {"model_type": "clip_vision_model", "image_size": 32}


@pytest.mark.parametrize(
    ("points", "read"),
    [
        ("(1x1),...,(2x3)", [[32, 32], [64, 32], [96, 32], [32, 64], [64, 64], [96, 64]]),
        ("[(32, 64), (64, 32)]", [[64, 32], [32, 64]]),
        ([[32, 64]], [[64, 32]]),
        (None, None),
    ],
)
def test_grids_of_tiles_in_every_spelling_of_the_original_code(points, read):
    assert grid_pinpoints({"image_grid_pinpoints": points}, 32) == read


@pytest.mark.parametrize("points", ["anyres", "(1,2", [3], [["a", "b"]], {"a": 1}])
def test_grids_that_cannot_be_read_are_refused(points):
    with pytest.raises(BadInput, match="field image_grid_pinpoints"):
        grid_pinpoints({"image_grid_pinpoints": points}, 32)


def test_an_original_configuration_has_the_librarys_defaults_and_older_names():
    nested = nested_config(FLAT | {"rope_scaling": {"type": "linear", "factor": 2.0}}, TOWER, "config.json")
    assert nested["image_token_id"] == 31_999 and nested["vision_feature_layer"] == -2
    assert nested["text_config"]["rope_parameters"] == {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(BadInput, match="field mm_vision_select_feature"):
        nested_config(FLAT | {"mm_vision_select_feature": "both"}, TOWER, "config.json")


def test_a_configuration_reads_back_as_it_was_saved(tmp_path):
    from modeling_llava_mistral import LlavaMistralConfig

    config = LlavaMistralConfig(image_aspect_ratio="anyres")
    config.save_pretrained(tmp_path)
    assert LlavaMistralConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(("text", "size"), [("500MiB", 500 << 20), ("0.5MB", 500_000), ("5GB", 5 * 10**9), ("7", 7)])
def test_shard_sizes_as_the_library_takes_them(text, size):
    from llava_mistral.commands.convert import shard_size

    assert shard_size(text) == size
    for none in ("0.0000001MB", "MB", "1.5.2GB", "-1MB", "5PB", ""):
        with pytest.raises(BadInput, match="not a valid size"):
            shard_size(none)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"text_config": {"model_type": "gpt2"}},
            "'gpt2' is not supported; LLaVA-Mistral speaks mistral or ministral",
        ),
        ({"text_config": {"model_type": "nonsense"}}, "'nonsense' is not supported"),
        ({"vision_config": {"model_type": "clip_vision_model", "image_size": 30, "patch_size": 8}}, "not a multiple"),
        ({"vision_feature_layer": 4}, "vision_feature_layer 4 does not exist: the tower has 4 hidden states"),
        ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer -5 does not exist"),
        ({"image_token_id": 448}, "image_token_id 448 is outside the vocabulary of 448"),
        ({"image_token_id": -1}, "image_token_id -1 is outside"),
        ({"vision_config": {"model_type": "vit"}}, "'vit' is not supported"),
        (
            {"vision_config": {"model_type": "siglip_vision_model"}},
            "drops a class token, which siglip_vision_model does not have",
        ),
        ({"projector_type": "qformer"}, "projector_type 'qformer' is unknown; use mlp2x_gelu, linear"),
        ({"image_aspect_ratio": "round"}, "image_aspect_ratio 'round' is unknown; use pad, square, anyres"),
        (
            {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[32, 50]]},
            r"\[32, 50\] is not a height and a width",
        ),
        (
            {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[0, 32]]},
            r"\[0, 32\] is not a height and a width",
        ),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):  # not what the library wraps it in, which is no ValueError
        config(**changes)
