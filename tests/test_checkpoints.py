"""A stage-0 model is its two parts, bit for bit, and a projector whose only source is the seed."""

import json
from functools import cache

import pytest

from llava_mistral.ground.bad_input import BadInput
from tests.support.tiny_components import save_text_model, tiny_tokenizer


@cache
def known_tokens() -> int:
    """Tokens before the image token is added, which takes the next id."""
    return len(tiny_tokenizer())


@pytest.fixture(scope="module", params=["mistral", "llama"])
def parts(request, vision_folder, mistral_folder, llama_folder):
    return vision_folder, {"mistral": mistral_folder, "llama": llama_folder}[request.param]


def composed(parts, seed: int = 0, **options):
    from llava_mistral.checkpoints.stage0 import compose, stage0_config

    config = stage0_config(*parts, image_token_id=known_tokens(), vocab_size=known_tokens() + 1, **options)
    return compose(*parts, config, seed=seed)


def test_the_parts_are_taken_over_bit_for_bit(parts):
    import torch
    from transformers import AutoModelForCausalLM, CLIPVisionModel

    model = composed(parts)
    tower, text = CLIPVisionModel.from_pretrained(parts[0]), AutoModelForCausalLM.from_pretrained(parts[1])
    for part, original in ((model.model.vision_tower, tower), (model.model.language_model, text.model)):
        weights, originals = part.state_dict(), original.state_dict()
        assert weights.keys() == originals.keys()
        for name, weight in originals.items():
            assert torch.equal(weights[name][: len(weight)], weight), name
    assert torch.equal(model.lm_head.weight[: text.vocab_size], text.lm_head.weight)


def test_new_vocabulary_rows_are_the_mean_of_the_known_ones(parts):
    """So that a token nobody trained is never the likeliest one; a random row of a tiny model often is."""
    import torch

    model = composed(parts)
    known = known_tokens()
    for table in (model.get_input_embeddings().weight, model.lm_head.weight):
        assert table.shape[0] % 64 == 0 and table.shape[0] > known
        new = table[known:]
        torch.testing.assert_close(new, table[:known].mean(0).expand_as(new))


def test_the_projector_is_the_seeds(parts):
    import torch

    first, again, other = (composed(parts, seed).model.multi_modal_projector.state_dict() for seed in (3, 3, 4))
    for name, weight in first.items():
        assert torch.equal(weight, again[name])
        if name.endswith("weight"):
            assert not torch.equal(weight, other[name])
            assert weight.std() > 0, name


def test_the_whole_runs_as_composed(parts):
    """Nothing was left on the meta device, and the configuration fits what was put together."""
    import torch

    model = composed(parts)
    assert not any(weight.is_meta for weight in [*model.parameters(), *model.buffers()])
    ids = torch.tensor([[1, *[known_tokens()] * model.config.image_seq_length, 7]])
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=torch.zeros(1, 3, 32, 32)).logits
    assert logits.isfinite().all() and logits.shape[-1] == model.config.text_config.vocab_size


@pytest.mark.parametrize(("tokens", "padded"), [(401, 448), (448, 448), (449, 512)])
def test_the_vocabulary_is_padded_to_a_multiple_of_64(vision_folder, mistral_folder, tokens, padded):
    from llava_mistral.checkpoints.stage0 import stage0_config

    config = stage0_config(vision_folder, mistral_folder, image_token_id=400, vocab_size=tokens)
    assert config.text_config.vocab_size == padded


def test_settings_of_the_parts_are_kept(vision_folder, mistral_folder):
    from llava_mistral.checkpoints.stage0 import stage0_config

    config = stage0_config(
        vision_folder, mistral_folder, 400, 401, projector_type="linear", image_aspect_ratio="square"
    )
    assert (config.projector_type, config.image_aspect_ratio) == ("linear", "square")
    assert config.text_config.sliding_window == 12
    assert config.text_config.num_key_value_heads == 2
    assert config.vision_config.patch_size == 8


def test_parts_of_another_kind_are_refused_by_name(tmp_path, vision_folder, mistral_folder):
    from transformers import GPT2Config

    from llava_mistral.checkpoints.stage0 import stage0_config

    GPT2Config(n_embd=8, n_layer=1, n_head=1).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="is of type gpt2; give a mistral"):
        stage0_config(vision_folder, tmp_path, image_token_id=400, vocab_size=401)
    with pytest.raises(BadInput, match="is of type gpt2, not a CLIP or SigLIP vision tower"):
        stage0_config(tmp_path, mistral_folder, image_token_id=400, vocab_size=401)
    with pytest.raises(BadInput, match="is of type mistral, not a CLIP or SigLIP vision tower"):
        stage0_config(mistral_folder, mistral_folder, image_token_id=400, vocab_size=401)


@pytest.mark.parametrize("kind", ["foo", "siglip2_vision_model", "dinov2", "mixtral"])
def test_a_type_that_is_not_ours_is_refused_whether_the_library_knows_it_or_not(kind, tmp_path, vision_folder):
    from llava_mistral.checkpoints.stage0 import read_parts

    for field, folder in (("vision", tmp_path), ("llm", vision_folder)):
        settings = json.loads((vision_folder / "config.json").read_text()) | {"model_type": kind}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        parts = (folder, tmp_path)
        with pytest.raises(BadInput, match=f"is of type {kind}") as error:
            read_parts(*parts)
        assert error.value.field == field


def test_tied_embeddings_stay_tied_through_saving(tmp_path, vision_folder):
    """A text model whose head is its embedding table is one table in the joined model, too."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    folder = save_text_model(tmp_path / "text")
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model = composed((vision_folder, folder))
    model.save_pretrained(tmp_path / "whole")
    for whole in (model, LlavaMistralForConditionalGeneration.from_pretrained(tmp_path / "whole")):
        assert whole.lm_head.weight is whole.get_input_embeddings().weight
    ids = torch.tensor([[1, 5, 9]])
    text = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(input_ids=ids).logits[..., : known_tokens()], text(input_ids=ids).logits)
