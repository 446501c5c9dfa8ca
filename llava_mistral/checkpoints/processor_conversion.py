"""Convert the processor of a checkpoint from one layout to another."""

import hashlib
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
from llava_mistral.checkpoints.sentencepiece_file import NAME, write_tokenizer_model
from llava_mistral.checkpoints.text_tokenizer import make_separable
from llava_mistral.ground.bad_input import BadInput
from processing import CHAT_TEMPLATES
from processing.processing_llava_mistral import CALL_ARGUMENTS, LlavaMistralProcessor

# The chat templates of older versions of this project, by the beginning of their SHA-256. Today's of the same name
# word a chat alike, but mark the answers, part control tokens, and leave a picture among words where it stands.
OLDER_TEMPLATES = {
    "mistral_instruct": ("7650fbf2f0b83fa6", "e25db8c09b3f4942", "0fac2ffde02ffc19", "b55633a2a21d33d7"),
    "plain": ("9b7f9bae510fba1a",),
    "vicuna_v1": (
        "7c61f01d7fe84715", "ed53028fa85e9211", "4fdd9179a4529ec0", "ef1d0547f825181d", "6db304a0e707f592"
    ),
}  # fmt: skip
# What has the same form in every layout, and is carried over as it is.
CARRIED = ("generation_config.json", "LICENSE", "LICENSE.txt")


def convert_processor(source: Path, folder: Path, layout: str, to: str) -> str:
    """Write the processor of `source`, which is in `layout`, into `folder` as `to` has it.

    A chat template of an older version of this project is brought up to date; one of anybody else stays as it is.

    Returns what was found: "processor", "image processor" (there is no tokenizer), or "no processor".
    """
    for name in CARRIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    try:
        processor = _read(source, layout)
    except (BadInput, OSError, ValueError):
        return _convert_pictures(source, folder, layout, to)
    template, newer = _brought_up_to_date(processor)
    # The plugin's code is in no other layout; in the plugin's, saving says so again.
    for name in ("auto_map", *CALL_ARGUMENTS):
        processor.tokenizer.init_kwargs.pop(name, None)
    vars(processor.image_processor).pop("auto_map", None)
    parts = {
        "image_processor": processor.image_processor,
        "tokenizer": processor.tokenizer,
        "patch_size": processor.patch_size,
        "vision_feature_select_strategy": processor.vision_feature_select_strategy,
        "chat_template": template,
        "image_token": processor.image_token,
        "num_additional_image_tokens": processor.num_additional_image_tokens,
    }
    if to == "plugin":
        LlavaMistralProcessor(**parts).save_pretrained(folder)
    elif to == "llava-hf":
        family = LlavaNextProcessor if _tiles(processor.image_processor) else LlavaProcessor
        family(**parts).save_pretrained(folder)
    else:
        if template:
            processor.tokenizer.chat_template = template
        processor.tokenizer.save_pretrained(folder)
        _save_tower_settings(processor.image_processor, folder)
    written = ["processor", *(["its chat template as it is written today"] if newer else [])]
    written += [] if write_tokenizer_model(processor.tokenizer, folder) else [f"a {NAME} for llama.cpp"]
    return ", ".join(written)


def processor_of(source: Path, layout: str):
    """Return the processor of `source` as it would be converted.

    Raises:
        BadInput: there is none.
    """
    try:
        processor = _read(source, layout)
    except (OSError, ValueError) as error:
        remedy = "put the tokenizer and the image processor of the model there"
        raise BadInput("its processor does not open", remedy=remedy, file=source) from error
    processor.chat_template, _ = _brought_up_to_date(processor)
    return processor


def _brought_up_to_date(processor) -> tuple[str | None, bool]:
    template, newer = _todays(processor.chat_template)
    if isinstance(template, str):
        make_separable(processor.tokenizer, template)
    return template, newer


def _todays(template: str | None) -> tuple[str | None, bool]:
    """Return the template, or today's in its place where it is one of ours of before; and whether it is."""
    known = hashlib.sha256(template.encode()).hexdigest()[:16] if isinstance(template, str) else None
    for name, older in OLDER_TEMPLATES.items():
        if known in older:
            return (CHAT_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), True
    return template, False


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
