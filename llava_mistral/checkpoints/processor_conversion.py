"""The processor of a checkpoint, on its way from one layout to another."""

import shutil
from pathlib import Path

from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedConfig,
)

from llava_mistral.checkpoints.original_processor import original_picture_processor, read_processor
from llava_mistral.ground.bad_input import BadInput
from processing.processing_llava_mistral import LlavaMistralProcessor

# What has the same form in every layout, and is carried over as it is.
CARRIED = ("generation_config.json", "LICENSE", "LICENSE.txt")


def convert_processor(source: Path, folder: Path, layout: str, to: str) -> str:
    """Write the processor of `source`, which is in `layout`, into `folder` as `to` has it.

    Returns what was found: "processor", "image processor" (there is no tokenizer), or "no processor".
    """
    for name in CARRIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    try:
        processor = _read(source, layout)
    except (BadInput, OSError, ValueError):
        return _convert_pictures(source, folder, layout, to)
    for settings in (processor.tokenizer.init_kwargs, vars(processor.image_processor)):
        settings.pop(
            "auto_map", None
        )  # the plugin's code is in no other layout; in the plugin's, saving says so again
    parts = {
        "image_processor": processor.image_processor,
        "tokenizer": processor.tokenizer,
        "patch_size": processor.patch_size,
        "vision_feature_select_strategy": processor.vision_feature_select_strategy,
        "chat_template": processor.chat_template,
        "image_token": processor.image_token,
        "num_additional_image_tokens": processor.num_additional_image_tokens,
    }
    if to == "plugin":
        LlavaMistralProcessor(**parts).save_pretrained(folder)
    elif to == "llava-hf":
        family = LlavaNextProcessor if _tiles(processor.image_processor) else LlavaProcessor
        family(**parts).save_pretrained(folder)
    else:
        if processor.chat_template:
            processor.tokenizer.chat_template = processor.chat_template
        processor.tokenizer.save_pretrained(folder)
        _save_tower_settings(processor.image_processor, folder)
    return "processor"


def _read(source: Path, layout: str):
    if layout == "original":
        return read_processor(source)
    return (LlavaMistralProcessor if layout == "plugin" else AutoProcessor).from_pretrained(source)


def _tiles(image_processor) -> bool:
    return hasattr(image_processor, "image_grid_pinpoints")


def _convert_pictures(source: Path, folder: Path, layout: str, to: str) -> str:
    try:
        if layout == "original":
            flat, _ = PreTrainedConfig.get_config_dict(source)
            image_processor, _ = original_picture_processor(source, flat)
        else:
            image_processor = AutoImageProcessor.from_pretrained(source)
    except (BadInput, OSError, ValueError):
        return "no processor"
    if to == "original":
        _save_tower_settings(image_processor, folder)
    else:
        image_processor.save_pretrained(folder)
    return "image processor"


def _save_tower_settings(image_processor, folder: Path) -> None:
    """The original reads CLIP's settings beside the tower; padding and tiles stand in its own configuration."""
    settings = {key: getattr(image_processor, key) for key in ("size", "crop_size", "image_mean", "image_std")}
    CLIPImageProcessorPil(**settings, do_convert_rgb=True).save_pretrained(folder / "vision_tower")
