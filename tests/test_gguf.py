"""`convert --to gguf`: the files hold the model's own weights and words, and what llama.cpp computes otherwise is
refused by name. That llama.cpp answers with them is shown by `make engines`."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.conversions import convert
from tests.support.malformed import settings
from tests.support.running import run_here

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")


@pytest.fixture(scope="module")
def files(stage0, tmp_path_factory) -> Path:
    return convert(stage0, tmp_path_factory.mktemp("gguf") / "out", "gguf", "--gguf_type", "f32")


def tensors(file: Path) -> dict:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def test_another_reader_of_gguf_gets_the_text_models_logits_and_tokens(stage0, files):
    """transformers reads such files by code of its own; its LLaMA has no window, as llama.cpp's."""
    import torch
    from transformers import AutoModelForCausalLM

    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    config = LlavaMistralConfig.from_pretrained(stage0)
    config.text_config.sliding_window = None
    whole = LlavaMistralConfig(**config.to_dict())
    ours = LlavaMistralForConditionalGeneration.from_pretrained(stage0, config=whole).eval()
    theirs = AutoModelForCausalLM.from_pretrained(files, gguf_file="model.gguf", dtype=torch.float32).eval()
    tokenizer = LlavaMistralProcessor.from_pretrained(stage0).tokenizer
    ids = tokenizer("Which digit is written? A. zero B. one", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours(input_ids=ids).logits, rtol=0, atol=1e-5)
    fields = gguf.GGUFReader(files / "model.gguf").fields
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert len(tokens) == config.text_config.vocab_size
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert set(kinds[len(tokenizer) :]) <= {gguf.TokenType.UNUSED}
    assert kinds[tokenizer.convert_tokens_to_ids("<image>")] == gguf.TokenType.CONTROL


def test_the_tower_is_written_as_far_as_its_features_are_computed(stage0, files):
    import numpy as np

    from tests.support.conversions import all_weights

    weights, written = all_weights(stage0), tensors(files / "mmproj.gguf")
    config = json.loads((stage0 / "config.json").read_text())["vision_config"]
    fields = gguf.GGUFReader(files / "mmproj.gguf").fields
    layers = config["num_hidden_layers"] - 1  # `vision_feature_layer` is -2
    assert fields["clip.vision.block_count"].contents() == layers
    assert fields["clip.vision.feature_layer"].contents() == [layers]
    assert f"v.blk.{layers - 1}.ffn_up.weight" in written and f"v.blk.{layers}.ffn_up.weight" not in written
    for name, ours in {
        "v.blk.0.attn_q.weight": "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
        "v.class_embd": "model.vision_tower.embeddings.class_embedding",
        "mm.0.weight": "model.multi_modal_projector.linear_1.weight",
        "mm.2.bias": "model.multi_modal_projector.linear_2.bias",
    }.items():
        assert np.array_equal(written[name].data, weights[f".:{ours}"].numpy()), name


def test_a_picture_is_where_llama_cpp_marks_it():
    from jinja2 import Environment

    from llava_mistral.checkpoints.decoder_wording import with_pictures
    from llava_mistral.checkpoints.gguf_vocabulary import for_llama_cpp
    from processing import CHAT_TEMPLATES
    from tests.support.tiny_components import tiny_tokenizer

    marker, words = "<__media_x1__>", {"type": "text", "text": "Which <image>?"}
    shipped = [(CHAT_TEMPLATES / name).read_text("utf-8") for name in ("mistral_instruct.jinja", "vicuna_v1.jinja")]
    own = "{%- for message in messages -%}[{{ message['content'] }}]{%- endfor -%}"
    for text in (*shipped, with_pictures(own, tiny_tokenizer())):
        template = Environment().from_string(for_llama_cpp(text))  # an environment that knows no `generation`

        def said(content, template=template) -> str:
            return template.render(messages=[{"role": "user", "content": content}], bos_token="<s>", eos_token="</s>")

        for parts in (["P", words], [words, "P", words], ["P", "P", words], [words]):
            ours = said([{"type": "image"} if part == "P" else part for part in parts])
            expected = ours.replace("<image>", marker)
            assert parts.count("P") == expected.count(marker)
            assert (
                said([{"type": "media_marker", "text": marker} if part == "P" else part for part in parts]) == expected
            )
            assert said("".join(marker if part == "P" else part["text"] for part in parts)) == expected


@pytest.mark.parametrize("fault", ["bytes", "a pair that is not merged"])
def test_merging_by_scores_is_merging_by_pairs_or_it_is_refused(fault, stage0, tmp_path):
    from llava_mistral.commands.convert import main

    source = tmp_path / "source"
    shutil.copytree(stage0, source)
    state = json.loads((source / "tokenizer.json").read_text())
    if fault == "bytes":
        state["model"]["byte_fallback"] = False  # as tokenizers over bytes have it
    else:
        state["model"]["merges"].pop()
    (source / "tokenizer.json").write_text(json.dumps(state))
    error = run_here(main, source, tmp_path / "out", "--to", "gguf", code=2).error
    assert "llama.cpp would cut texts into other tokens" in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_aspect_ratio": "anyres"}, "llama.cpp cuts a picture into other tiles"),
        ({"image_aspect_ratio": "square"}, "llama.cpp pads a picture and does not crop it"),
        ({"vision_feature_select_strategy": "full"}, "llama.cpp drops the class token"),
        ({"vision_config__hidden_act": "relu"}, "llama.cpp's tower has no relu"),
        ({"vision_feature_layer": 0}, "0 is not one layer of the tower"),
        ({"text_config__hidden_act": "gelu"}, "llama.cpp's text model has no gelu"),
        (
            {"text_config__rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rotary positions of type dynamic are not written as GGUF",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_by_name(stage0, tmp_path, changes, said):
    from llava_mistral.commands.convert import main

    source = tmp_path / "source"
    shutil.copytree(stage0, source)
    settings(**changes)(source)
    if "anyres" in changes.values():
        add_newline(source)
    error = run_here(main, source, tmp_path / "out", "--to", "gguf", code=2).error
    assert said in error and not (tmp_path / "out").exists()


def add_newline(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.image_newline"] = weights["model.multi_modal_projector.linear_2.bias"].clone()
    save_file(weights, folder / "model.safetensors")


def test_a_number_beyond_f16_is_refused_and_f32_holds_it(stage0, tmp_path):
    from safetensors.torch import load_file, save_file

    from llava_mistral.commands.convert import main

    source = tmp_path / "source"
    shutil.copytree(stage0, source)
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"][0, 0] = 1e5
    save_file(weights, source / "model.safetensors")
    error = run_here(main, source, tmp_path / "out", "--to", "gguf", code=2).error
    assert "lm_head.weight" in error and "--gguf_type f32" in error
    assert (convert(source, tmp_path / "f32", "gguf", "--gguf_type", "f32") / "model.gguf").is_file()


def test_without_the_package_it_is_said_what_to_install(stage0, tmp_path, monkeypatch):
    from llava_mistral.commands.convert import main

    monkeypatch.setitem(sys.modules, "gguf", None)
    error = run_here(main, stage0, tmp_path / "out", "--to", "gguf", code=2).error
    assert "the package gguf is not installed" in error and "pip install gguf" in error


def test_the_page_of_engines_shows_its_record():
    from tests.support.engine_record import PAGE, RECORD, poured

    page = PAGE.read_text(encoding="utf-8")
    assert poured(page, json.loads(RECORD.read_text())) == page
