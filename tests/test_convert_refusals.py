"""What cannot be converted is refused by name and nothing is written; what is large is converted shard by shard."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.conversions import all_weights, assert_same_weights, convert
from tests.support.malformed import settings, stored_as
from tests.support.running import run_apart, run_here
from tests.support.tiny_components import tiny_tokenizer


def refused(source: Path, folder: Path, to: str, *options: str) -> str:
    """The one line with which the verb refuses, exit code 2."""
    from llava_mistral.commands.convert import main

    error = run_here(main, source, folder, "--to", to, *options, code=2).error
    assert not folder.exists()
    return error


def test_an_original_with_too_few_rows_is_refused_and_not_filled_up(originals, tmp_path):
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    source = tmp_path / "source"
    shutil.copytree(originals["llava15_pad"], source)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(512 - len(tokenizer))])
    tokenizer.save_pretrained(source)  # without an image token, so that the vocabulary has to grow
    shorten(source)
    assert "weight lm_head.weight is [511, 64], not [576, 64]" in refused(source, tmp_path / "out", "plugin")
    with pytest.raises(ValueError, match="1 weights are mismatched"):
        LlavaMistralForConditionalGeneration.from_pretrained(source)


def spoil_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])


def drop(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.multi_modal_projector.linear_1.bias"]
    save_file(weights, folder / "model.safetensors")


def shorten(folder: Path) -> None:
    """A head of fewer words than the configuration says, which must not be filled up in silence."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:-1].clone()
    save_file(weights, folder / "model.safetensors")


def pickled_list(folder: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")


def other_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_index, "which is outside of its folder"),
        (cut, "is not a complete safetensors file"),
        (drop, "1 weights are missing, first model.multi_modal_projector.linear_1.bias"),
        (shorten, "weight lm_head.weight is ["),
        (other_model, "'gpt2' is not a LLaVA model"),
        (stored_as("int8"), "linear_2.weight is stored as I8"),
        (settings(text_config__hidden_size=0), "text_config.hidden_size 0 is not a valid size"),
        (pickled_list, "is not a pickle of weights only (list)"),
    ],
)
def test_a_damaged_source_is_refused_and_nothing_is_written(stage0, tmp_path, spoil, said):
    folder = tmp_path / "source"
    shutil.copytree(stage0, folder)
    spoil(folder)
    assert said in refused(folder, tmp_path / "out", "llava-hf")


def test_a_linear_projector_has_no_llava_hf_form(tmp_path, vision_folder, mistral_folder):
    from llava_mistral.commands.build import main

    run_here(
        main, "--vision", vision_folder, "--llm", mistral_folder, "--output", tmp_path / "s", "--projector", "linear"
    )
    assert "a linear projector has no llava-hf form" in refused(tmp_path / "s", tmp_path / "hf", "llava-hf")
    there = convert(tmp_path / "s", tmp_path / "original", "original")
    assert ".:model.mm_projector.weight" in all_weights(there)
    assert_same_weights(convert(there, tmp_path / "back", "plugin"), tmp_path / "s")


@pytest.mark.parametrize("size", ["5 bananas", "0GB", "-1", ""])
def test_a_shard_size_that_is_none_is_refused(stage0, tmp_path, size):
    assert "not a valid size" in refused(stage0, tmp_path / "out", "plugin", f"--max_shard_size={size}")


@pytest.mark.slow
@pytest.mark.parametrize("to", ["llava-hf", "original"])
def test_four_gigabytes_are_converted_in_the_memory_of_a_shard_and_500_megabytes(stage0, tmp_path, to):
    """Peak resident memory of the whole process, libraries and mapped pages included."""
    from modeling_llava_mistral import LlavaMistralConfig
    from tests.support.running import HOME

    shard = 500_000_000
    folder = generated_checkpoint(stage0, tmp_path / "large", LlavaMistralConfig.from_pretrained(stage0), shard)
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) > 4_000_000_000
    code = (
        "from llava_mistral.commands.convert import main\n"
        "main()\n"
        "status = open('/proc/self/status').read()\n"  # ru_maxrss is the parent's where that was larger
        "print('PEAK', int(status.partition('VmHWM:')[2].split()[0]) * 1024)\n"
    )
    done = run_apart("-c", code, folder, tmp_path / "out", "--to", to, "--max_shard_size", "500MB", cwd=HOME)
    peak = int(done.stdout.split("PEAK")[1])
    assert peak < shard + 500_000_000, f"{peak / 1e6:.0f} MB"


def generated_checkpoint(stage0: Path, folder: Path, config, shard: int) -> Path:
    """A plugin checkpoint of 4 GB whose text model is wide and of noise, written shard by shard."""
    import torch
    from safetensors.torch import save_file

    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    folder.mkdir()
    text = config.text_config
    wide = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 20, "layer_types": None}
    wide |= {"head_dim": 2048 // text.num_attention_heads}
    config = type(config)(**{**config.to_dict(), "text_config": {**text.to_dict(), **wide}})
    config.save_pretrained(folder)
    for file in stage0.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    with torch.device("meta"):
        model = LlavaMistralForConditionalGeneration(config)
    shards, filled = [{}], 0
    for name, weight in model.state_dict().items():
        size = weight.numel() * 4
        if filled + size > shard:
            shards.append({})
            filled = 0
        shards[-1][name] = weight.shape
        filled += size
    place = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        save_file({name: torch.rand(shape) for name, shape in names.items()}, folder / file, {"format": "pt"})
        place |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return folder
