"""The processor of a checkpoint of the original LLaVA code: picture settings of its tower, words of its template."""

from pathlib import Path

from llava_mistral.checkpoints.layouts import grid_pinpoints
from llava_mistral.checkpoints.picture_processors import picture_processor
from llava_mistral.checkpoints.text_tokenizer import open_tokenizer
from llava_mistral.data.turns import IMAGE_TOKEN
from llava_mistral.ground.bad_input import BadInput
from processing import CHAT_TEMPLATES
from processing.processing_llava_mistral import LlavaMistralProcessor

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def read_processor(name: str | Path, tokenizer=None, **options) -> LlavaMistralProcessor | None:
    """Return the processor of an original checkpoint, None for a folder of another kind.

    The tokenizer is the folder's, or `tokenizer` (itself, or a folder); it gets an image token, whose id the model's
    configuration then is given, and pads with its own unknown token, as the original does.

    Raises:
        BadInput: the folder carries no tokenizer and none is given, or its tower is not to be found.
    """
    from transformers import PreTrainedConfig

    hub = {key: options[key] for key in _HUB_OPTIONS if options.get(key) is not None}
    try:
        flat, _ = PreTrainedConfig.get_config_dict(name, **hub)
    except (OSError, ValueError):
        return None
    if "mm_vision_tower" not in flat:
        return None
    if isinstance(tokenizer, str | Path):
        tokenizer = open_tokenizer(tokenizer)
    if tokenizer is None:
        try:
            tokenizer = open_tokenizer(name, **hub)
        except (ImportError, OSError, ValueError) as error:
            problem, remedy = "there is no tokenizer in it", "give one"
            if (Path(name) / "tokenizer.model").is_file():
                problem, remedy = "its tokenizer does not open", "pip install sentencepiece protobuf, or give one"
            remedy += ": LlavaMistralProcessor.from_pretrained(folder, tokenizer=…)"
            raise BadInput(problem, remedy=remedy, file=name) from error
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    image_processor, patch_size = original_picture_processor(name, flat, **hub)
    template = "mistral_instruct" if "mistral" in str(flat.get("model_type")) else "vicuna_v1"
    return LlavaMistralProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="full" if flat.get("mm_vision_select_feature") == "cls_patch" else "default",
        chat_template=(CHAT_TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8"),
        image_token=IMAGE_TOKEN,
    )


def original_picture_processor(name: str | Path, flat: dict, **hub):
    """Return the image processor of an original checkpoint and the side of the tower's patches in pixels.

    Raises:
        BadInput: the vision tower's settings are not to be found.
    """
    from transformers import AutoConfig, AutoImageProcessor

    tower = str(flat["mm_vision_tower"])
    beside = Path(name) / tower
    source = beside if beside.is_dir() else tower
    try:
        base = AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **hub)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
    except (OSError, ValueError) as error:
        remedy = "put the tower there, or correct mm_vision_tower"
        problem = f"the settings of the vision tower {source} cannot be loaded"
        raise BadInput(problem, remedy=remedy, file=name, field="mm_vision_tower") from error
    vision = getattr(config, "vision_config", config)
    points = grid_pinpoints(flat, vision.image_size, name)
    aspect = flat.get("image_aspect_ratio") or "square"
    return picture_processor(base, aspect, points, vision.image_size), vision.patch_size
