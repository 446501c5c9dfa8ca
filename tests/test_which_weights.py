"""One folder, every verb: the same weights, in the library's own order, or the same refusal."""

import json
import shutil
from pathlib import Path

import pytest

from llava_mistral.ground.bad_input import BadInput

NAME = "lm_head.weight"


@pytest.fixture
def folder(stage0, tmp_path) -> Path:
    return Path(shutil.copytree(stage0, tmp_path / "checkpoint"))


def other(folder: Path) -> dict:
    """Weights of the same names that are other numbers."""
    from safetensors.torch import load_file

    return {name: weight + 1 for name, weight in load_file(folder / "model.safetensors").items()}


def save(weights: dict, file: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, file, metadata={"format": "pt"})


def index(folder: Path, names: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def stale_index(folder: Path) -> None:
    """As stock `save_pretrained` leaves it where shards were saved before."""
    index(folder, dict.fromkeys(other(folder), "model-00001-of-00001.safetensors"))


def own_index(folder: Path) -> None:
    index(folder, dict.fromkeys(other(folder), "model.safetensors"))


def empty_index(folder: Path) -> None:
    index(folder, {})


def stray_shard(folder: Path) -> None:
    save(other(folder), folder / "model-00001-of-00002.safetensors")
    index(folder, {NAME: "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"})


def variant(folder: Path) -> None:
    save(other(folder), folder / "model.fp16.safetensors")


def pickle(folder: Path) -> None:
    import torch

    torch.save(other(folder), folder / "pytorch_model.bin")


def shards(folder: Path) -> None:
    """Two shards and no single file."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    parts = {
        "model-00001-of-00002.safetensors": {NAME: weights.pop(NAME)},
        "model-00002-of-00002.safetensors": weights,
    }
    for file, part in parts.items():
        save(part, folder / file)
    index(folder, {name: file for file, part in parts.items() for name in part})
    (folder / "model.safetensors").unlink()


def link(folder: Path) -> None:
    """As the Hub's cache keeps a snapshot."""
    (folder / "blob").mkdir()
    (folder / "model.safetensors").rename(folder / "blob" / "weights")
    (folder / "model.safetensors").symlink_to(folder / "blob" / "weights")


def second_set(folder: Path) -> None:
    save(other(folder), folder / "model-00001-of-00001.safetensors")
    stale_index(folder)


def only_a_variant(folder: Path) -> None:
    variant(folder)
    (folder / "model.safetensors").unlink()


def by_loading(folder: Path, scratch: Path):
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    return LlavaMistralForConditionalGeneration.from_pretrained(folder).lm_head.weight


def by_evaluation(folder: Path, scratch: Path):
    from llava_mistral.evaluation.asking import Checkpoint

    return Checkpoint(str(folder), device="cpu").model.lm_head.weight


def by_conversion(folder: Path, scratch: Path):
    from llava_mistral.checkpoints.conversion import convert

    (scratch / "converted").mkdir()
    convert(folder, scratch / "converted", "plugin")
    return by_loading(scratch / "converted", scratch)


def by_chat(folder: Path, scratch: Path):
    from llava_mistral.commands.chat import find, open_chat

    return open_chat(find(str(folder), None)).model.lm_head.weight


def by_publishing(folder: Path, scratch: Path):
    from llava_mistral.publishing.staging import stage_model

    (scratch / "staged").mkdir()
    stage_model(folder, scratch / "staged")
    sent = sorted(path.name for path in (scratch / "staged").iterdir() if ".safetensors" in path.name)
    assert sent == ["model.safetensors"] or all("-of-" in name or name.endswith(".json") for name in sent)
    return by_loading(scratch / "staged", scratch)


VERBS = [by_loading, by_evaluation, by_conversion, by_publishing]


@pytest.mark.parametrize("change", [stale_index, own_index, empty_index, stray_shard, variant, pickle, shards, link])
@pytest.mark.parametrize("verb", [*VERBS, by_chat])
def test_every_verb_reads_the_weights_that_the_library_reads(stage0, folder, tmp_path, change, verb):
    from safetensors.torch import load_file

    change(folder)
    assert verb(folder, tmp_path).float().equal(load_file(stage0 / "model.safetensors")[NAME].float())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (second_set, "two (whole )?sets of weights, model.safetensors"),
        (only_a_variant, "model.safetensors|no weights|no safetensors"),
    ],
)
@pytest.mark.parametrize("verb", [*VERBS, by_chat])
def test_every_verb_refuses_what_only_the_owner_can_decide(folder, tmp_path, change, said, verb):
    change(folder)
    with pytest.raises((ValueError, OSError, BadInput), match=said):
        verb(folder, tmp_path)


def test_a_variant_is_loaded_by_its_name(folder):
    from safetensors.torch import load_file

    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    only_a_variant(folder)
    model = LlavaMistralForConditionalGeneration.from_pretrained(folder, variant="fp16")
    assert model.lm_head.weight.equal(load_file(folder / "model.fp16.safetensors")[NAME])


def test_a_run_knows_its_base_by_the_weights_that_are_read(folder):
    """A stray shard or a variant beside them is no other base; other weights are."""
    from llava_mistral.training.saving.resuming import _base_weights

    known = _base_weights(folder)
    for change in (stray_shard, variant, pickle):
        change(folder)
        assert _base_weights(folder) == known
    save(other(folder), folder / "model.safetensors")
    assert _base_weights(folder) != known


def test_an_adapter_beside_the_weights_is_not_lost_in_conversion(folder, tmp_path):
    from llava_mistral.checkpoints.conversion import convert

    (folder / "adapter_config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match="holds an adapter, whose weights would be lost"):
        convert(folder, tmp_path / "out", "plugin")


def test_two_processor_files_of_transformers_4_keep_their_padding(folder, tmp_path):
    """A llava-hf folder of then has the picture's settings in preprocessor_config.json alone."""
    from llava_mistral.checkpoints.conversion import convert
    from llava_mistral.checkpoints.processor_conversion import convert_processor
    from modeling_llava_mistral import LlavaMistralConfig
    from processing import LlavaMistralProcessor

    hf, out = tmp_path / "hf", tmp_path / "out"
    for made in (hf, out):
        made.mkdir()
    convert(folder, hf, "llava-hf")
    convert_processor(folder, hf, "plugin", "llava-hf")
    settings = json.loads((hf / "processor_config.json").read_text())
    (hf / "preprocessor_config.json").write_text(json.dumps(settings.pop("image_processor")))
    (hf / "processor_config.json").write_text(json.dumps(settings))
    convert(hf, out, "plugin")
    convert_processor(hf, out, "llava-hf", "plugin")
    assert LlavaMistralConfig.from_pretrained(out).image_aspect_ratio == "pad"
    assert LlavaMistralProcessor.from_pretrained(out).image_aspect_ratio == "pad"


def damage(folder: Path, kind: str) -> str:
    """Spoil one weight of the checkpoint; returns its name."""
    from safetensors.torch import load_file, save_file

    name = "model.multi_modal_projector.linear_2.weight"
    weights = load_file(folder / "model.safetensors")
    if kind == "missing":
        del weights[name]
    elif kind == "mismatched":
        weights[name] = weights[name][:-1].clone()
    elif kind == "integers":
        weights[name] = weights[name].char()
    else:
        name = "model.image_newline"
        weights[name] = weights["lm_head.weight"][0].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("kind", ["missing", "mismatched", "unexpected", "integers"])
@pytest.mark.parametrize("verb", [*VERBS, by_chat])
def test_every_verb_refuses_weights_that_are_not_whole(folder, tmp_path, kind, verb):
    name = damage(folder, kind)
    with pytest.raises((ValueError, BadInput), match=name.removeprefix("model.")):
        verb(folder, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_bad_element_anywhere_is_found_and_large_weights_are_not_bad(dtype):
    """Odd sizes, as vectorised reductions treat the last elements apart; no sum of these fits into half precision."""
    import torch

    from modeling_llava_mistral.loading_llava_mistral import _is_finite

    weight = torch.full((5, 1003), 6e4, dtype=getattr(torch, dtype))
    assert _is_finite(weight) and _is_finite(-weight) and _is_finite(weight.T) and _is_finite(weight[:0])
    for position in (0, 1, 63, 2048, 5000, 5014):
        for bad in ("nan", "inf", "-inf"):
            spoilt = weight.clone()
            spoilt.view(-1)[position] = float(bad)
            assert not _is_finite(spoilt) and not _is_finite(spoilt.T), (position, bad)


@pytest.mark.parametrize("bad", [1.0, float("nan")])
def test_types_without_a_minimum_are_looked_at_too(bad):
    """Eight-bit floats, as quantised checkpoints have them."""
    import torch

    from modeling_llava_mistral.loading_llava_mistral import _is_finite

    weight = torch.tensor([1.0, bad]).to(torch.float8_e4m3fn)
    assert _is_finite(weight) == (bad == 1.0)


@pytest.mark.parametrize("kind", ["missing", "unexpected"])
def test_with_loading_info_what_is_wrong_is_returned(folder, kind):
    """Instead of a refusal, as the library's own tools expect; a wrong shape is refused all the same."""
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    name = damage(folder, kind)
    _, info = LlavaMistralForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert list(info[f"{kind}_keys"]) == [name]
    if kind == "unexpected":
        damage(folder, "mismatched")
        with pytest.raises(ValueError, match="1 weights are mismatched"):
            LlavaMistralForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
