"""Three layouts of one checkpoint: every road between them leads back to the same bytes."""

import json
import shutil
from itertools import permutations
from pathlib import Path

import pytest

from tests.support.conversions import all_weights, assert_same_weights, convert
from tests.support.running import run_apart
from tests.support.tiny_components import tiny_tokenizer

LAYOUTS = ("plugin", "llava-hf", "original")


@pytest.mark.parametrize("name", ["llava15_pad", "llava16_anyres"])
def test_every_road_back_to_the_original_is_equal_bit_for_bit(originals, tmp_path, name):
    source = originals[name]
    for roads in permutations(("plugin", "llava-hf")):
        at = source
        for number, to in enumerate((*roads, "original")):
            at = convert(at, tmp_path / f"{'-'.join(roads)}{number}", to)
        assert_same_weights(source, at)
        then, now = (json.loads((folder / "config.json").read_text()) for folder in (source, at))
        for key in ("vocab_size", "rope_theta", "sliding_window", "mm_projector_type", "image_aspect_ratio"):
            assert now[key] == then[key], key
        assert now.get("image_grid_pinpoints") == then.get("image_grid_pinpoints")


@pytest.mark.parametrize("name", ["llava15_pad", "llava16_anyres"])
def test_llava_hf_output_opens_in_stock_classes_with_equal_logits(originals, tmp_path, shared, name):
    """The road to vLLM, SGLang and llama.cpp, which read these classes' folders."""
    import torch
    import transformers
    from PIL import Image

    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    hf = convert(originals[name], tmp_path / "hf", "llava-hf")
    family = "LlavaNext" if "anyres" in name else "Llava"
    stock, info = getattr(transformers, f"{family}ForConditionalGeneration").from_pretrained(
        hf, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    model = LlavaMistralForConditionalGeneration.from_pretrained(originals[name])
    picture = Image.open(shared / "original_llava" / name / "wide.png")
    question = {"images": picture, "text": "<s>[INST] <image>\nWhich digit? [/INST]", "return_tensors": "pt"}
    theirs = transformers.AutoProcessor.from_pretrained(hf)(**question)
    ours = LlavaMistralProcessor.from_pretrained(originals[name])(**question)
    assert theirs.input_ids.equal(ours.input_ids) and theirs.pixel_values.equal(ours.pixel_values)
    with torch.no_grad():
        torch.testing.assert_close(
            stock.eval()(**theirs).logits, model.eval()(**ours).logits, rtol=0, atol=1e-6
        )  # the projector runs on other shapes


def test_weight_names_of_llava_hf_are_those_on_the_hub(originals, tmp_path):
    names = {
        name.split(":")[1] for name in all_weights(convert(originals["llava16_anyres"], tmp_path / "hf", "llava-hf"))
    }
    assert {
        "image_newline",
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
    } < names


def test_a_plugin_checkpoint_goes_to_both_and_comes_back(stage0, tmp_path):
    for to in ("llava-hf", "original"):
        there = convert(stage0, tmp_path / to, to)
        assert_same_weights(stage0, convert(there, tmp_path / f"{to}-back", "plugin"))


def test_a_converted_plugin_folder_opens_without_the_plugin_and_answers(originals, tmp_path):
    """Code and processor travel: a stranger needs nothing of ours."""
    folder = convert(originals["llava16_anyres"], tmp_path / "plugin", "plugin")
    code = (
        "import sys; from PIL import Image; from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "folder = sys.argv[1]\n"
        "model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)\n"
        "processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)\n"
        "asked = processor(images=Image.new('RGB', (90, 40)), text='<image> Which?', return_tensors='pt')\n"
        "print(model.generate(**asked, max_new_tokens=3).shape[1] - asked.input_ids.shape[1])\n"
    )
    assert run_apart("-c", code, str(folder), cwd=tmp_path).stdout == "3\n"


def test_an_image_token_that_was_added_leaves_again(originals, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(originals["llava15_pad"], source)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(512 - len(tokenizer))])
    tokenizer.save_pretrained(source)
    plugin = convert(source, tmp_path / "plugin", "plugin")
    assert all_weights(plugin)[".:lm_head.weight"].shape[0] == 576
    assert_same_weights(source, convert(plugin, tmp_path / "back", "original"))


@pytest.mark.parametrize("to", LAYOUTS)
def test_shards_hold_what_one_file_holds(stage0, tmp_path, to):
    from safetensors.torch import load_file

    whole = convert(stage0, tmp_path / "whole", to)
    parts = convert(stage0, tmp_path / "parts", to, "--max_shard_size", "20KB")
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    files = sorted(parts.glob("model-*.safetensors"))
    assert len(files) > 3 and set(index["weight_map"].values()) == {file.name for file in files}
    merged = {name: weight for file in files for name, weight in load_file(file).items()}
    single = load_file(whole / "model.safetensors")
    assert merged.keys() == single.keys() == index["weight_map"].keys()
    assert all(merged[name].equal(weight) for name, weight in single.items())
    assert_same_weights(convert(parts, tmp_path / "back", "plugin"), stage0)


@pytest.mark.parametrize("to", ["llava-hf", "original"])
def test_another_layout_names_none_of_the_plugins_code(stage0, tmp_path, to):
    folder = convert(stage0, tmp_path / "out", to)
    assert [file for file in folder.rglob("*.json") if "llava_mistral." in file.read_text(encoding="utf-8")] == []


OLDER = Path(__file__).parent / "published_0_1_0"


@pytest.mark.parametrize("to", LAYOUTS)
def test_words_of_an_older_version_are_brought_up_to_date(tmp_path, to):
    """Ids stay; answers are marked, prompt and answer read apart, and nothing of the call is in the folder."""
    from transformers import PreTrainedTokenizerFast

    from llava_mistral.checkpoints.text_tokenizer import _whole, reads_apart
    from processing import CHAT_TEMPLATES

    folder = convert(OLDER, tmp_path / to, to)
    before, after = (PreTrainedTokenizerFast.from_pretrained(place) for place in (OLDER, folder))
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert template == (CHAT_TEMPLATES / "mistral_instruct.jinja").read_text(encoding="utf-8")
    assert not reads_apart(before, template) and reads_apart(after, template)
    assert _whole(after, template) == _whole(before, (OLDER / "chat_template.jinja").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert not settings.keys() & {"local_files_only", "is_local"}


@pytest.mark.parametrize("words", ["{{ bos_token }}{{ messages[0]['content'] }}", "{{ raise_exception('no') }}"])
def test_a_template_of_somebody_else_stays_byte_for_byte(tmp_path, words):
    source = Path(shutil.copytree(OLDER, tmp_path / "source"))
    (source / "chat_template.jinja").write_text(words, encoding="utf-8")
    for to in ("plugin", "llava-hf"):
        assert (convert(source, tmp_path / to, to) / "chat_template.jinja").read_text(encoding="utf-8") == words


def test_every_template_of_before_is_known_by_its_text():
    import hashlib

    from llava_mistral.checkpoints.processor_conversion import OLDER_TEMPLATES
    from processing import CHAT_TEMPLATES

    published = (OLDER / "chat_template.jinja").read_bytes()
    assert hashlib.sha256(published).hexdigest()[:16] in OLDER_TEMPLATES["mistral_instruct"]
    assert OLDER_TEMPLATES.keys() == {file.stem for file in CHAT_TEMPLATES.glob("*.jinja")}
