"""Original folders with and without a tokenizer: prompts, image tokens, refusals, what Auto classes make of them."""

import json
import shutil
from pathlib import Path

import pytest

from llava_mistral.ground.bad_input import BadInput
from tests.support.conversions import case, picture
from tests.support.tiny_components import tiny_tokenizer

FIXTURES = ("llava15_pad", "llava16_anyres")


@pytest.fixture(autouse=True, scope="module")
def plugin():
    import modeling_llava_mistral  # noqa: F401


@pytest.fixture(scope="module", params=FIXTURES)
def folder(request, shared) -> Path:
    return shared / "original_llava" / request.param


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def processor(folder):
    from processing import LlavaMistralProcessor

    return LlavaMistralProcessor.from_pretrained(folder, tokenizer=tiny_tokenizer())


def writable(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def test_a_folder_with_a_tokenizer_gets_an_image_token_beyond_its_vocabulary(folder, tmp_path):
    """Processor and model agree on its id, and no token that was there gives another logit."""
    import torch
    from transformers import AutoModelForImageTextToText

    from processing import LlavaMistralProcessor

    copy = writable(folder, tmp_path)
    tokenizer = tiny_tokenizer()
    config = json.loads((copy / "config.json").read_text())
    tokenizer.add_tokens([f"word{i}" for i in range(config["vocab_size"] - len(tokenizer))])
    tokenizer.save_pretrained(copy)
    model, processor = AutoModelForImageTextToText.from_pretrained(copy), LlavaMistralProcessor.from_pretrained(copy)
    assert processor.image_token_id == model.config.image_token_id == 512
    assert model.config.text_config.vocab_size == len(model.lm_head.weight) == 576
    before = AutoModelForImageTextToText.from_pretrained(folder)
    ids = torch.tensor([[1, 5, 9, 300]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits[..., :512], before(input_ids=ids).logits)
        answer = model.generate(
            **processor(images=picture(folder, "wide"), text="<s>[INST] <image> [/INST]", return_tensors="pt"),
            max_new_tokens=4,
        )
    assert answer.max() < 512 or answer[:, -4:].max() < 512


@pytest.mark.parametrize("told", [{"tokenizer_class": "LlamaTokenizer", "legacy": True}, None])
@pytest.mark.parametrize("saved", [False, True])
def test_prompts_of_an_original_folder_have_the_originals_token_ids(shared, tmp_path, told, saved):
    """With the real tokenizer.model in the folder, as the releases have it; each picture's tokens stand for a -200.

    A copy that was saved has them too: the library saves a tokenizer without `legacy`.
    """
    pytest.importorskip("google.protobuf", reason="pip install '.[original]' brings protobuf")
    from itertools import groupby

    from PIL import Image

    from processing import LlavaMistralProcessor

    copy = writable(shared / "original_llava" / "llava15_pad", tmp_path)
    shutil.copyfile(shared / "mistral_tokenizer" / "tokenizer.model", copy / "tokenizer.model")
    if told:
        (copy / "tokenizer_config.json").write_text(json.dumps(told))
    processor = LlavaMistralProcessor.from_pretrained(copy)
    if saved:
        for name in ("once", "twice"):
            processor.save_pretrained(tmp_path / name)
            processor = LlavaMistralProcessor.from_pretrained(tmp_path / name)
    assert processor.image_token_id == 32000
    cases = json.loads((shared / "original_llava" / "chat_prompts.json").read_text())
    cases = [said for said in cases if said["template"] == "mistral_instruct"]
    assert len(cases) == 4
    for said in cases:
        turns = []
        for index, text in enumerate(said["turns"]):
            look = [{"type": "image", "image": Image.new("RGB", (9, 9))}] if text.startswith("<image>") else []
            words = {"type": "text", "text": text.removeprefix("<image>\n")}
            turns.append({"role": ("user", "assistant")[index % 2], "content": [*look, words]})
        asks = turns[-1]["role"] == "user"
        out = processor.apply_chat_template(turns, tokenize=True, return_dict=True, add_generation_prompt=asks)
        ids = out["input_ids"][0] if isinstance(out["input_ids"][0], list) else out["input_ids"]
        shown = []
        for token, run in groupby(ids):
            shown += [-200] if token == processor.image_token_id else list(run)
        assert shown == said["input_ids"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mm_vision_tower": "no/where"}, "vision tower no/where cannot be loaded"),
        ({"mm_projector_type": "mlp3x_gelu"}, "'mlp3x_gelu' is not supported; use linear or mlp2x_gelu"),
        ({"image_aspect_ratio": "anyres_max_9"}, "'anyres_max_9' is not supported"),
        ({"mm_patch_merge_type": "maxpool2x2"}, "'maxpool2x2' is not supported"),
        ({"mm_use_im_start_end": True}, "convert a checkpoint that marks pictures by <image> alone"),
    ],
)
def test_an_original_that_this_model_is_not_is_refused_by_the_field(folder, tmp_path, changes, said):
    from transformers import AutoModelForImageTextToText

    copy = writable(folder, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(BadInput, match=said):
        AutoModelForImageTextToText.from_pretrained(copy)


def test_an_originals_own_ways_of_generating_are_kept(folder, tmp_path):
    from transformers import AutoModelForImageTextToText, GenerationConfig

    copy = writable(folder, tmp_path)
    GenerationConfig(max_new_tokens=7, pad_token_id=3).save_pretrained(copy)
    model = AutoModelForImageTextToText.from_pretrained(copy)
    assert (model.generation_config.max_new_tokens, model.generation_config.pad_token_id) == (7, 3)


def test_the_model_without_its_head_opens_too_and_in_half_precision(folder):
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype="bfloat16")
    assert type(model).__name__ == "LlavaMistralModel" and model.dtype == torch.bfloat16


@pytest.mark.parametrize("points", [None, "[(56, 28), (28, 84)]"])
def test_model_and_processor_read_the_same_grid(shared, tmp_path, points):
    """Where the folder names none, and where it is the text that LLaVA's command line wrote."""
    from transformers import AutoConfig

    from processing import LlavaMistralProcessor

    copy = writable(shared / "original_llava" / "llava16_anyres", tmp_path)
    flat = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(flat | {"image_grid_pinpoints": points}))
    grid = AutoConfig.from_pretrained(copy).image_grid_pinpoints
    processor = LlavaMistralProcessor.from_pretrained(copy, tokenizer=tiny_tokenizer())
    assert grid == processor.image_processor.image_grid_pinpoints
    assert len(grid) == 5 if points is None else grid == [[28, 56], [84, 28]]


def test_a_missing_weight_of_an_original_is_named(folder, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForImageTextToText

    copy = writable(folder, tmp_path)
    weights = load_file(copy / "model.safetensors")
    del weights["model.mm_projector.2.bias"]
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(ValueError, match="1 weights are missing, first model.multi_modal_projector.linear_2.bias"):
        AutoModelForImageTextToText.from_pretrained(copy)


def test_a_folder_without_a_tokenizer_says_so(folder):
    from processing import LlavaMistralProcessor

    with pytest.raises(BadInput, match="there is no tokenizer in it; give one"):
        LlavaMistralProcessor.from_pretrained(folder)


def test_anyres_without_the_sizes_of_the_pictures_is_an_error(shared):
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(shared / "original_llava" / "llava16_anyres")
    with pytest.raises(ValueError, match="image_sizes is missing"):
        model.get_image_features(torch.zeros(1, 3, 3, 28, 28))


def test_an_image_token_in_somebodys_own_words_stays_text(processor, folder):
    """A question about HTML brings no picture, and beside a real picture none is added."""
    words = {"type": "text", "text": "What does <image> mean?"}
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    alone = processor.apply_chat_template([{"role": "user", "content": [words]}], **options)
    assert processor.image_token_id not in alone["input_ids"] and "pixel_values" not in alone
    shown = processor.tokenizer.decode(alone["input_ids"][0]).replace("\u2060", "")
    assert "What does <image> mean?" in shown
    look = {"type": "image", "image": picture(folder, "wide")}
    both = processor.apply_chat_template([{"role": "user", "content": [look, words]}], **options)
    count = int((both["input_ids"] == processor.image_token_id).sum())
    assert count == case(folder, "wide")["image_tokens"]


def test_a_sample_whose_pictures_and_tokens_disagree_is_named(processor, folder):
    look = picture(folder, "wide")
    with pytest.raises(ValueError, match="sample 1 has 1 <image> tokens and 2 images"):
        processor(images=[[look], [look, look]], text=["<image>", "<image>"], return_tensors="pt")


def test_a_tokenizer_may_be_given_by_its_folder(shared):
    pytest.importorskip("google.protobuf", reason="pip install '.[original]' brings protobuf")
    from processing import LlavaMistralProcessor

    folder, tokenizer = shared / "original_llava" / "llava15_pad", shared / "mistral_tokenizer"
    processor = LlavaMistralProcessor.from_pretrained(folder, tokenizer=str(tokenizer))
    assert processor.tokenizer("<s>[INST] Hi", add_special_tokens=False).input_ids == [1, 733, 16289, 28793, 15359]


def test_auto_processor_opens_an_original_folder(shared, tmp_path):
    pytest.importorskip("google.protobuf", reason="pip install '.[original]' brings protobuf")
    from transformers import AutoProcessor

    import modeling_llava_mistral  # noqa: F401
    from processing import LlavaMistralProcessor

    copy = writable(shared / "original_llava" / "llava16_anyres", tmp_path)
    shutil.copyfile(shared / "mistral_tokenizer" / "tokenizer.model", copy / "tokenizer.model")
    processor = AutoProcessor.from_pretrained(copy)
    assert type(processor) is LlavaMistralProcessor and processor.image_aspect_ratio == "anyres"
