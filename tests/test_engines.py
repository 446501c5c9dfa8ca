"""What vLLM's and SGLang's Transformers backends ask of a model and a processor that the library does not ship.

Both make the base model from its configuration with `AutoModel`, put attention, linear layers and a head of their own
on it, and let the processor say where pictures are. Facts about them were read in vLLM's
`model_executor/models/transformers/{base,multimodal}.py` and SGLang's `srt/models/transformers.py`.
"""

import re
from pathlib import Path

import pytest

from tests.support.engine_models import SIZES, pictures
from tests.support.tiny_components import IMAGE_TOKENS, TEXT


@pytest.fixture(scope="module")
def processor(stage0):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(stage0, trust_remote_code=True)


@pytest.fixture(scope="module")
def base(stage0):
    """The base model of a checkpoint, by its folder alone."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(stage0, trust_remote_code=True).eval()


@pytest.fixture
def recorder(monkeypatch) -> list[tuple[object, dict]]:
    """An attention function named `recorder`, as engines register theirs; a list of the calls it gets."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    calls = []

    def attend(module, query, key, value, attention_mask, **kwargs):
        calls.append((module, dict(kwargs)))
        kwargs.pop("attention_instances", None)
        return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=True, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "recorder", attend)
    assert "recorder" in ALL_ATTENTION_FUNCTIONS
    return calls


def engine_model(stage0: Path, weights: dict):
    """The model as vLLM makes it: from the configuration, with its attention asked of the text model alone."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(stage0, trust_remote_code=True)
    config.get_text_config()._attn_implementation = "recorder"
    model = AutoModel.from_config(config, trust_remote_code=True).eval()
    model.load_state_dict(weights)
    return model


def test_every_class_of_the_folder_says_that_its_attention_can_be_replaced(stage0):
    """SGLang asks the class that `auto_map` names as AutoModel, vLLM all whose name begins so, and both refuse others.

    vLLM imports the classes in the order of `auto_map`'s prefixes and wraps a model as one of several modalities when
    its configuration is not the text model's.
    """
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = AutoConfig.from_pretrained(stage0, trust_remote_code=True)
    models = {name: module for name, module in config.auto_map.items() if name.startswith("AutoModel")}
    assert "AutoModel" in models and len(models) > 1
    for name, module in models.items():
        model = get_class_from_dynamic_module(module, str(stage0))
        assert model._supports_attention_backend and model.is_backend_compatible(), name
    assert config != config.get_text_config()


def test_an_engines_attention_and_its_arguments_reach_every_text_layer_and_no_other(stage0, base, recorder):
    """vLLM finds its attention instance by `module.layer_idx` in the `attention_instances` that it passes to forward.

    It gives embeddings in place of ids, positions, no mask, and reads the first of a tuple.
    """
    import torch

    model = engine_model(stage0, base.state_dict())
    instances = dict.fromkeys(range(TEXT["num_hidden_layers"]), "one")
    embeddings = torch.randn(1, 7, TEXT["hidden_size"], generator=torch.Generator().manual_seed(0))
    options = {"position_ids": torch.arange(7)[None], "use_cache": False, "return_dict": False}
    with torch.no_grad():
        states = model(inputs_embeds=embeddings, attention_instances=instances, **options)[0]
        expected = base(inputs_embeds=embeddings, **options)[0]
    assert [module.layer_idx for module, _ in recorder] == list(range(TEXT["num_hidden_layers"]))
    assert {type(module).__name__ for module, _ in recorder} == {"MistralAttention"}
    assert all(kwargs["attention_instances"] is instances for _, kwargs in recorder)
    torch.testing.assert_close(states, expected)


def test_an_engines_arguments_pass_through_the_model_with_a_head_and_a_picture(stage0, processor, recorder):
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        stage0, trust_remote_code=True, attn_implementation={"text_config": "recorder"}
    )
    inputs = processor(images=pictures(SIZES[:1]), text=["<image> one"], return_tensors="pt")
    marker = object()
    with torch.no_grad():
        model(**inputs, attention_instances=marker)
    assert [module.layer_idx for module, _ in recorder] == list(range(TEXT["num_hidden_layers"]))
    assert all(kwargs["attention_instances"] is marker for _, kwargs in recorder)


def test_image_features_are_one_row_per_token_for_each_picture(base, processor):
    """vLLM calls `get_image_features` on the base model and lists `pooler_output`, one 2-D tensor per picture."""
    import torch

    inputs = processor(images=pictures(), text=["<image>"] * len(SIZES), return_tensors="pt")
    with torch.no_grad():
        features = list(base.get_image_features(inputs.pixel_values).pooler_output)
        alone = [base.get_image_features(pixels[None]).pooler_output[0] for pixels in inputs.pixel_values]
    assert [tuple(feature.shape) for feature in features] == [(IMAGE_TOKENS, TEXT["hidden_size"])] * len(SIZES)
    for feature, expected in zip(features, alone, strict=True):
        torch.testing.assert_close(feature, expected)


def test_the_processor_has_the_image_token_that_the_model_expects(processor, base):
    assert processor.tokenizer.convert_tokens_to_ids(processor.image_token) == processor.image_token_id
    assert processor.image_token_id == base.config.image_token_id


def test_the_processor_expands_pictures_in_its_own_hook_and_leaves_the_call_to_the_library(processor):
    """Offsets are made by the library's `__call__` out of `replace_image_token`; vLLM refuses one that makes none."""
    from transformers import ProcessorMixin

    assert "replace_image_token" in vars(type(processor))
    assert "__call__" not in vars(type(processor))
    assert type(processor).get_text_with_replacements is ProcessorMixin.get_text_with_replacements


@pytest.mark.parametrize("size", [*SIZES, (4, 800)])
def test_the_announced_number_of_image_tokens_is_the_number_emitted(processor, size):
    """Engines give (height, width) and reserve places for the answer before they see the picture."""
    out = processor(images=pictures([size]), text=["<image>"], return_tensors="pt")
    announced = processor._get_num_multimodal_tokens(image_sizes=[size[::-1]])
    assert announced["num_image_tokens"] == [int((out.input_ids == processor.image_token_id).sum())]
    assert sum(announced["num_image_patches"]) == len(out.pixel_values), "rows that vLLM cuts for each picture"


def test_the_largest_picture_an_engine_asks_about_has_a_number_of_tokens(processor):
    """vLLM sizes its memory by a picture of 10,000 by 10,000 pixels, and takes it for the one with most tokens."""
    sizes = [[10_000, 10_000], [10, 10], [10, 5_000], [336, 336]]
    counts = processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]
    assert len(counts) == len(sizes) and all(type(count) is int for count in counts)
    assert counts[0] == max(counts)


def test_replacement_offsets_point_at_the_image_tokens(processor):
    """`text_replacement_offsets`: where each `<image>` stood, where its tokens stand now, and what they are.

    vLLM (transformers 5.15 and later) encodes `replacement` by itself and expects these very tokens in the prompt.
    """
    texts = ["one <image> two", "<image><image> three"]
    options = {"return_text_replacement_offsets": True, "return_offsets_mapping": True, "padding": True}
    out = processor(images=pictures(), text=list(texts), return_tensors="pt", **options)
    offsets = out["text_replacement_offsets"]
    assert [len(entries) for entries in offsets] == [1, 2]
    for row, (text, entries) in enumerate(zip(texts, offsets, strict=True)):
        token_spans, image_tokens = out["offset_mapping"][row].tolist(), set()
        for entry in entries:
            assert entry["type"] == "image"
            assert text[slice(*entry["span"])] == entry["text"] == processor.image_token
            start, end = entry["new_span"]
            inside = [place for place, (first, last) in enumerate(token_spans) if start <= first < last <= end]
            ids = processor.tokenizer.encode(entry["replacement"], add_special_tokens=False)
            assert out["input_ids"][row, inside].tolist() == ids == [processor.image_token_id] * IMAGE_TOKENS
            image_tokens.update(inside)
        everywhere = (out["input_ids"][row] == processor.image_token_id).nonzero().flatten().tolist()
        assert sorted(image_tokens) == everywhere


def test_token_types_mark_the_image_tokens(processor):
    """By these vLLM finds the places with transformers older than 5.15."""
    out = processor(
        images=pictures(), text=["<image> a <image>", "b<image>"], padding=True, return_mm_token_type_ids=True
    )
    for ids, types in zip(out["input_ids"], out["mm_token_type_ids"], strict=True):
        assert types == [int(token == processor.image_token_id) for token in ids]


def test_image_tokens_side_by_side_in_a_prompt_of_nothing_else_are_told_apart(processor):
    """vLLM processes pictures apart from the prompt, with the bare image token once for each as their text."""
    text = processor.image_token * len(SIZES)
    out = processor(
        images=pictures(), text=text, return_text_replacement_offsets=True, add_special_tokens=False, truncation=False
    )
    assert len(out["text_replacement_offsets"][0]) == len(SIZES)
    assert out["input_ids"][0] == [processor.image_token_id] * IMAGE_TOKENS * len(SIZES)


def test_engines_find_tower_and_text_model_by_asking(base):
    """vLLM compiles, skips and pages these two parts apart, and finds them by `get_decoder` and `get_encoder`."""
    assert base.get_decoder() is base.language_model
    assert base.get_encoder(modality="image") is base.vision_tower
    assert base.get_input_embeddings() is base.language_model.embed_tokens
    assert base.config.get_text_config() is base.config.text_config


def test_layer_types_say_for_each_layer_that_the_window_is_kept(base):
    """SGLang honours `sliding_window` only where `text_config.layer_types` says so; vLLM reads an entry per layer."""
    text = base.config.text_config
    assert text.layer_types == ["sliding_attention"] * TEXT["num_hidden_layers"]
    assert text.sliding_window == 12


def test_the_base_model_opens_from_its_folder_and_says_where_it_sits_in_the_whole(stage0, base):
    from safetensors import safe_open

    assert (type(base).__name__, base.base_model_prefix) == ("LlavaMistralModel", "model")
    with safe_open(stage0 / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {f"model.{name}" for name in base.state_dict()} == names - {"lm_head.weight"}


def test_no_weight_of_a_checkpoint_is_thrown_away_by_an_engine(stage0, base):
    """vLLM drops what `_keys_to_ignore_on_load_unexpected` of the base model names; the head is needed beside it."""
    from safetensors import safe_open

    with safe_open(stage0 / "model.safetensors", "pt") as file:
        names = set(file.keys())
    patterns = base._keys_to_ignore_on_load_unexpected or ()
    assert "lm_head.weight" in names
    assert not {name for name in names for pattern in patterns if re.search(pattern, name)}


@pytest.mark.parametrize("template", ["mistral_instruct", "vicuna_v1"])
def test_vllm_sees_that_a_message_may_have_parts(template):
    """It looks for a loop over `message['content']` inside one over `messages`; without one it would write pictures
    into the words, where the template parts them."""
    import jinja2

    from processing import CHAT_TEMPLATES

    source = (CHAT_TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    from transformers.utils.chat_template_utils import _get_template_variables

    assert "protected_tokens" in _get_template_variables(source)
    source = re.sub(r"\{%-? *(end)?generation *-?%\}", "", source)  # a tag of the library's own
    loops = list(jinja2.Environment().parse(source).find_all(jinja2.nodes.For))
    messages = [loop.target.name for loop in loops if getattr(loop.iter, "name", None) == "messages"]
    contents = [
        loop
        for loop in loops
        if isinstance(loop.iter, jinja2.nodes.Getitem)
        and loop.iter.arg == jinja2.nodes.Const("content")
        and getattr(loop.iter.node, "name", None) in messages
    ]
    assert contents
