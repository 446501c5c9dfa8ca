"""Prompts and pictures become what the model expects, and disagreements between them become errors."""

import shutil

import pytest
from PIL import Image

from tests.support.tiny_components import IMAGE_TOKENS, tiny_tokenizer

PICTURE = Image.new("RGB", (60, 20), (10, 200, 90))


@pytest.fixture(scope="module")
def processor(stage0):
    from processing import LlavaMistralProcessor

    return LlavaMistralProcessor.from_pretrained(stage0)


def turns(text: str, *images) -> list[dict]:
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


@pytest.mark.case("G4", "accepted")
def test_every_image_token_becomes_one_token_per_patch(processor):
    out = processor(
        images=[PICTURE] * 3, text=["<image> one", "<image><image> two"], padding=True, return_tensors="pt"
    )
    counts = (out.input_ids == processor.image_token_id).sum(1).tolist()
    assert counts == [IMAGE_TOKENS, 2 * IMAGE_TOKENS]
    assert tuple(out.pixel_values.shape) == (3, 3, 32, 32)


def test_pictures_of_a_sample_come_in_their_order_asked_and_trained(processor):
    import torch

    from llava_mistral.training.collator import AnswerCollator

    own = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    alone = torch.cat([processor.image_processor([one], return_tensors="pt").pixel_values for one in own])
    out = processor(
        images=[own[:2], own[2:]], text=["<image><image> two", "<image> one"], padding=True, return_tensors="pt"
    )
    assert torch.equal(out.pixel_values, alone)
    said = {
        "prompt": [{"role": "user", "content": "which?"}],
        "completion": [{"role": "assistant", "content": "this"}],
    }
    rows = [{"id": str(place), "images": pictures, **said} for place, pictures in enumerate((own[:2], own[2:]))]
    assert torch.equal(AnswerCollator(processor)(rows)["pixel_values"], alone)


def test_padding_is_on_the_left_and_masked(processor):
    out = processor(text=["one", "one two three zero"], padding=True, return_tensors="pt")
    short = out.attention_mask[0].tolist()
    assert short == sorted(short) and 0 in short
    assert (out.input_ids[0][out.attention_mask[0] == 0] == processor.tokenizer.pad_token_id).all()


@pytest.mark.case("G4", "refused")
@pytest.mark.parametrize(
    ("text", "images", "said"),
    [
        ("<image> <image>", 1, "Found total 2 <image> tokens and 1 images"),
        ("<image>", 2, "Found total 1 <image> tokens and 2 images"),
        ("no picture", 1, "Found total 0 <image> tokens and 1 images"),
        ("<image>", 0, "Found 1 <image> tokens in the text but no images"),
    ],
)
def test_pictures_and_image_tokens_that_disagree_are_an_error(processor, text, images, said):
    with pytest.raises(ValueError, match=said):
        processor(images=[PICTURE] * images or None, text=[text], return_tensors="pt")


def test_a_tokenizer_without_the_image_token_is_refused(processor):
    from processing import LlavaMistralProcessor

    with pytest.raises(ValueError, match="'<image>' is not in the tokenizer's vocabulary; add it"):
        LlavaMistralProcessor(image_processor=processor.image_processor, tokenizer=tiny_tokenizer())


def test_pad_makes_a_square_by_the_mean_colour_and_keeps_the_whole_picture(processor):
    """LLaVA-1.5's `expand2square`: after normalisation the added bars are nothing (below one grey level)."""
    pixels = processor(images=[PICTURE], text=["<image>"], return_tensors="pt").pixel_values[0]
    grey_level = 1 / 255 / min(processor.image_processor.image_std)
    assert pixels[:, :8].abs().max() < grey_level and pixels[:, -8:].abs().max() < grey_level
    for channel, value in enumerate((10, 200, 90)):
        mean, std = processor.image_processor.image_mean[channel], processor.image_processor.image_std[channel]
        row = pixels[channel, 16]
        assert row.sub((value / 255 - mean) / std).abs().max() < 1e-4, "the picture reaches from edge to edge"


def test_square_crops_the_middle(vision_folder, mistral_folder):
    from llava_mistral.checkpoints.stage0_processor import build_processor

    processor = build_processor(vision_folder, mistral_folder, "square", "")
    halves = Image.new("RGB", (96, 32), "black")
    halves.paste("white", (32, 0, 64, 32))  # only the middle third is white
    pixels = processor.image_processor(halves, return_tensors="pt").pixel_values[0]
    white = (1 - processor.image_processor.image_mean[0]) / processor.image_processor.image_std[0]
    assert pixels[0].sub(white).abs().max() < 1e-4


def test_a_conversation_is_tokenised_as_its_words_are(processor):
    worded = processor.apply_chat_template(turns("Which digit?", PICTURE), add_generation_prompt=True)
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    out = processor.apply_chat_template(turns("Which digit?", PICTURE), **options)
    plain = processor(images=[PICTURE], text=[worded], add_special_tokens=False, return_tensors="pt")
    assert worded == "<s>[INST] <image>\nWhich digit? [/INST]"
    assert out["input_ids"].tolist() == plain["input_ids"].tolist()
    assert out["pixel_values"].equal(plain["pixel_values"])


def test_a_tokenizer_that_adds_bos_by_itself_does_not_double_it(stage0):
    """Mistral's and LLaMA's do, and the template writes one too."""
    from tokenizers.processors import TemplateProcessing

    from processing import LlavaMistralProcessor

    processor = LlavaMistralProcessor.from_pretrained(stage0)
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", processor.tokenizer.bos_token_id)]
    )
    assert processor.tokenizer("one").input_ids[0] == processor.tokenizer.bos_token_id
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    ids = processor.apply_chat_template(turns("Which digit?", PICTURE), **options)["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.bos_token_id) == 1 and ids[0] == processor.tokenizer.bos_token_id


def test_saving_and_loading_keeps_every_setting(processor, tmp_path):
    from processing import LlavaMistralProcessor

    processor.save_pretrained(tmp_path)
    again = LlavaMistralProcessor.from_pretrained(tmp_path)
    for name in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens", "chat_template"):
        assert getattr(again, name) == getattr(processor, name), name
    assert again.tokenizer.padding_side == "left"
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()


def test_nothing_of_the_call_that_opened_it_is_saved(stage0, tmp_path):
    """The library notes `local_files_only` and writes it into a folder that may be published."""
    from processing import LlavaMistralProcessor

    call = {"local_files_only": True, "cache_dir": str(tmp_path / "cache"), "token": "not-for-others"}
    LlavaMistralProcessor.from_pretrained(stage0, **call).save_pretrained(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("local_files_only", "is_local", "not-for-others", str(tmp_path)) if word in text]


@pytest.mark.parametrize("size", [(32, 32), (1, 5000), (10_000, 10_000)])
def test_the_number_of_image_tokens_is_known_without_the_picture(processor, size):
    """What serving engines ask for; a picture of any size becomes one square."""
    assert processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"] == [IMAGE_TOKENS]


def test_full_keeps_the_class_token(stage0, tmp_path):
    from processing import LlavaMistralProcessor

    folder = tmp_path / "checkpoint"
    shutil.copytree(stage0, folder)
    processor = LlavaMistralProcessor.from_pretrained(folder, vision_feature_select_strategy="full")
    ids = processor(images=[PICTURE], text=["<image>"], return_tensors="pt").input_ids
    assert int((ids == processor.image_token_id).sum()) == IMAGE_TOKENS + 1


def test_sentencepiece_alone_gives_the_tokens_mistral_was_taught_and_a_copy_gives_them_too(
    vision_folder, shared, tmp_path
):
    """LLaMA's tokenizer class reads `legacy` and does not save it: `[INST]` became 28792 in the copy, not 733."""
    pytest.importorskip("google.protobuf", reason="pip install '.[original]' brings protobuf")
    from transformers import AutoProcessor

    from llava_mistral.checkpoints.stage0_processor import build_processor

    processor = build_processor(vision_folder, shared / "mistral_tokenizer", "pad", "")
    processor.save_pretrained(tmp_path)
    copy = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    for one in (processor, copy):
        assert one(text="<s>[INST] Hi", add_special_tokens=False).input_ids[0] == [1, 733, 16289, 28793, 15359]


def test_the_plugin_opens_a_processor_without_remote_code(stage0):
    from transformers import AutoProcessor, pipeline

    import modeling_llava_mistral  # noqa: F401
    from processing import LlavaMistralProcessor

    assert type(AutoProcessor.from_pretrained(stage0)) is LlavaMistralProcessor
    assert type(pipeline("image-text-to-text", model=str(stage0)).processor) is LlavaMistralProcessor


def test_opening_the_processor_asks_nobody_whether_to_run_code(stage0):
    """AutoTokenizer would ask on the terminal, because the model's configuration has code of its own."""
    from tests.support.running import run_apart

    opens = f"from processing import LlavaMistralProcessor as it; it.from_pretrained({str(stage0)!r})"
    assert run_apart("-c", opens).stdout == ""


def test_a_processor_that_does_not_know_the_patches_says_so(processor):
    from processing import LlavaMistralProcessor

    unset = LlavaMistralProcessor(image_processor=processor.image_processor, tokenizer=processor.tokenizer)
    with pytest.raises(ValueError, match="patch_size is not set"):
        unset(images=PICTURE, text="<image> one")
