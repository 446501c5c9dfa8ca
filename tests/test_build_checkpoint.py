"""The verb: two parts in, one loadable folder out; bad input leaves nothing behind."""

import json

import pytest
import torch

from llava_mistral.commands.build import main
from tests.support.malformed import copy, nothing, raw, settings, text, weight
from tests.support.refusals import Trap, change
from tests.support.running import run_apart, run_here, run_light

GENERATED = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "chat_template.jinja"}


def build(vision, llm, output, *options, code: int = 0):
    return run_here(main, "--vision", vision, "--llm", llm, "--output", output, *options, code=code)


def test_the_folder_is_whole_and_opens_with_the_auto_classes(stage0):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert GENERATED.issubset(path.name for path in stage0.iterdir())
    model = AutoModelForImageTextToText.from_pretrained(stage0, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(stage0, trust_remote_code=True)
    assert (
        model.config.image_token_index
        == processor.image_token_id
        == processor.tokenizer.convert_tokens_to_ids("<image>")
    )
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    assert processor.patch_size == model.config.vision_config.patch_size
    assert processor.chat_template.startswith("{{- bos_token -}}")


def test_it_says_what_it_made(vision_folder, llama_folder, tmp_path):
    """Options reach the folder (projector, template, picture handling, precision); the counts are the weights'."""
    from safetensors.torch import load_file

    out = tmp_path / "made" / "stage0"  # a parent that does not exist yet
    options = ["--projector", "linear", "--chat_template", "vicuna_v1", "--image_aspect_ratio", "square"]
    done = build(vision_folder, llama_folder, out, *options, "--dtype", "bfloat16")
    weights = load_file(out / "model.safetensors")
    config = json.loads((out / "config.json").read_text())
    assert (config["projector_type"], config["image_aspect_ratio"]) == ("linear", "square")
    assert (config["text_config"]["model_type"], config["dtype"]) == ("llama", "bfloat16")
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.bfloat16"}
    assert "USER: " in (out / "chat_template.jinja").read_text()
    assert not json.loads((out / "processor_config.json").read_text())["image_processor"].get("do_pad")
    for part in ("vision_tower", "multi_modal_projector", "language_model"):
        count = sum(weight.numel() for name, weight in weights.items() if name.startswith(f"model.{part}."))
        assert f"{part} {count:,}" in done.stdout


def test_the_same_seed_gives_the_same_bytes(vision_folder, mistral_folder, stage0, tmp_path):
    build(vision_folder, mistral_folder, tmp_path / "again")
    build(vision_folder, mistral_folder, tmp_path / "other", "--seed", 1)
    names = {path.name for path in stage0.iterdir()}
    assert names == {path.name for path in (tmp_path / "again").iterdir()}
    for name in names:
        same = (tmp_path / "again" / name).read_bytes() == (stage0 / name).read_bytes()
        assert same, name
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (stage0 / "model.safetensors").read_bytes()


def test_an_earlier_output_is_replaced_and_nothing_stays_beside_it(vision_folder, mistral_folder, tmp_path):
    build(vision_folder, mistral_folder, tmp_path / "stage0", "--projector", "linear")
    build(vision_folder, mistral_folder, tmp_path / "stage0")
    assert json.loads((tmp_path / "stage0" / "config.json").read_text())["projector_type"] == "mlp2x_gelu"
    assert [path.name for path in tmp_path.iterdir()] == ["stage0"]


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("--vision", "./absent", "no such folder, and not a Hub id; give a folder or owner/name"),
        ("--llm", "absent", "no such folder, and not a Hub id"),
        ("--llm", "{empty}", "there is no config.json in it; name a folder that save_pretrained wrote"),
        ("--output", "{occupied}", "the output folder holds something else (no config.json in it); name an empty"),
        ("--output", "{file}", "the output is a file, not a folder; name a new folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_at_once(vision_folder, mistral_folder, tmp_path, part, value, said):
    occupied, empty, file = (tmp_path / name for name in ("occupied", "empty", "file"))
    occupied.mkdir(), empty.mkdir(), file.write_text("mine"), (occupied / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    given = {"--vision": vision_folder, "--llm": mistral_folder, "--output": tmp_path / "out"}
    given[part] = value.format(occupied=occupied, empty=empty, file=file)
    done = run_light("llava_mistral", "build", *[word for pair in given.items() for word in pair], code=2)
    assert said in done.error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_text_model_of_another_kind_is_refused_and_nothing_is_written(vision_folder, tmp_path):
    from transformers import GPT2Config

    from tests.support.tiny_components import tiny_tokenizer

    GPT2Config(n_embd=8, n_layer=1, n_head=1).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    done = build(vision_folder, tmp_path / "gpt2", tmp_path / "out", code=2)
    assert "field llm" in done.error and "give a mistral or llama model" in done.error
    assert not (tmp_path / "out").exists()


def test_a_tower_and_a_text_model_that_are_swapped_are_told_apart(vision_folder, mistral_folder, tmp_path):
    done = build(mistral_folder, vision_folder, tmp_path / "out", code=2)
    assert f"{mistral_folder} is a text model (mistral)" in done.error and "swap --vision and --llm" in done.error


NAN = weight(lambda held: held.fill_(float("nan")), "model.norm.weight")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (raw(lambda whole: whole[:-9]), "model.safetensors: is not a complete safetensors file"),
        (text("config.json", "{"), "config.json: is not valid JSON"),
        (settings(num_hidden_layers="2"), "num_hidden_layers"),
        (weight(lambda held: None, "model.norm.weight"), "1 weights are missing, first model.norm.weight"),
        (NAN, "model.norm.weight holds NaN or infinity"),
        (text("tokenizer.json", "{"), "mistral"),
    ],
    ids=["cut", "no JSON", "text for a number", "a tensor dropped", "NaN", "no tokenizer"],
)
def test_a_damaged_part_is_refused_by_name_and_nothing_is_written(
    vision_folder, mistral_folder, tmp_path, spoil, said
):
    part = copy(mistral_folder, tmp_path / "mistral", spoil)
    done = build(vision_folder, part, tmp_path / "out", code=2)
    assert str(part) in done.error and said in done.error
    assert not (tmp_path / "out").exists()


def test_a_misspelt_argument_names_the_nearest(tmp_path):
    done = run_apart("-m", "llava_mistral", "build", "--visoin", "x", code=2)
    assert done.error == "llava-mistral build: there is no flag --visoin; did you mean --vision?"


@pytest.mark.parametrize("part", ["vision", "llm"])
@pytest.mark.case("S26", "refused")
def test_a_kernel_that_a_part_names_is_refused(vision_folder, mistral_folder, tmp_path, part):
    parts = {"vision": vision_folder, "llm": mistral_folder}
    parts[part] = copy(parts[part], tmp_path / part, nothing)
    change(parts[part] / "config.json", attn_implementation="evil/kernel@main")
    assert "names a kernel of the Hub" in build(parts["vision"], parts["llm"], tmp_path / "out", code=2).error


@pytest.mark.case("S25", "accepted")
def test_code_that_a_part_brings_is_not_run(vision_folder, mistral_folder, tmp_path):
    """Many a decoder brings code for the versions of the library that did not know it yet."""
    llm = copy(mistral_folder, tmp_path / "llm", nothing)
    (llm / "custom_generate").mkdir()
    for name in ("modeling_x.py", "custom_generate/generate.py"):
        (llm / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change(llm / "config.json", auto_map={"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X"})
    build(vision_folder, llm, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.case("S25", "refused")
def test_nobody_is_asked_whether_code_may_run(vision_folder, mistral_folder, tmp_path, monkeypatch):
    """Left to itself the library asks at the keyboard, at whatever commit is newest."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    vision = copy(vision_folder, tmp_path / "vision", nothing)
    (vision / "pictures_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change(
        vision / "preprocessor_config.json", auto_map={"AutoImageProcessor": "pictures_x.X"}, image_processor_type="X"
    )
    build(vision, mistral_folder, tmp_path / "out", code=2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.case("S10", "refused")
def test_a_pickle_in_a_part_is_not_run(vision_folder, mistral_folder, tmp_path):
    llm = copy(mistral_folder, tmp_path / "llm", nothing)
    (llm / "model.safetensors").unlink()
    torch.save({"w": Trap(tmp_path / "ran")}, llm / "pytorch_model.bin")
    build(vision_folder, llm, tmp_path / "out", code=2)
    assert not (tmp_path / "ran").exists()
