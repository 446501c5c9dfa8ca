"""The processor of a stage-0 checkpoint, made from the parts' own image processor and tokenizer."""

from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor

from llava_mistral.checkpoints.picture_processors import picture_processor
from llava_mistral.checkpoints.text_tokenizer import make_separable, open_tokenizer
from llava_mistral.ground.checkpoint_headers import opening
from processing.processing_llava_mistral import LlavaMistralProcessor

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"


def build_processor(
    vision: str | Path,
    llm: str | Path,
    image_aspect_ratio: str,
    chat_template: str,
    revisions: tuple[str | None, str | None] = (None, None),
) -> LlavaMistralProcessor:
    """Join the image processor of `vision` and the tokenizer of `llm` (folders or Hub ids).

    The tokenizer gets an image token, and a padding token where it has none, as llava-hf's checkpoints do. Padding is
    on the left, so that a batch generates what each prompt would alone.

    Args:
        image_aspect_ratio: `"pad"` (LLaVA-1.5), `"square"` (centre crop) or `"anyres"` (LLaVA-1.6).
    """
    with opening(llm):
        tokenizer = open_tokenizer(llm, revision=revisions[1])
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    if chat_template:
        make_separable(tokenizer, chat_template)
    with opening(vision):
        image_processor = AutoImageProcessor.from_pretrained(vision, revision=revisions[0])
        vision_config = AutoConfig.from_pretrained(vision, revision=revisions[0])
    tile = getattr(vision_config, "vision_config", vision_config).image_size
    image_processor = picture_processor(image_processor, image_aspect_ratio, None, tile)
    return LlavaMistralProcessor(
        image_processor=image_processor, tokenizer=tokenizer, chat_template=chat_template, image_token=IMAGE_TOKEN
    )
