"""The processor of a stage-0 checkpoint, made from the parts' own image processor and tokenizer."""

import json
import re
import tempfile
from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor

from llava_mistral.checkpoints.picture_processors import picture_processor
from llava_mistral.checkpoints.text_tokenizer import make_separable, open_tokenizer
from llava_mistral.data.turns import IMAGE_TOKEN
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import opening
from modeling_llava_mistral.configuration_llava_mistral import TOWERS
from processing.processing_llava_mistral import LlavaMistralProcessor

PAD_TOKEN = "<pad>"
# Tekken's, Llama 3's, Mistral v3's, and the usual spellings of fine-tunes.
_RESERVED = re.compile(
    r"<SPECIAL_\d+>|<\|reserved_special_token_\d+\|>|\[control_\d+\]|<\|?(reserved|unused|extra)[\w-]*?\d+\|?>"
    r"|\[(unused|UNUSED)_?\d+\]"
)
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def decoder_tokenizer(llm: str | Path, rows: int, revision: str | None = None):
    """Return the tokenizer of `llm` (a folder or Hub id) as it was published.

    Args:
        rows: of the decoder's table of embeddings.

    Raises:
        BadInput: it has tokens without a row. A padding token without one is common and harmless: it is masked.
    """
    with opening(llm):
        tokenizer = open_tokenizer(llm, revision=revision)
    beyond = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= rows)
    beyond = [pair for pair in beyond if pair[1] not in (tokenizer.pad_token, PAD_TOKEN)]
    if beyond:
        index, token = beyond[0]
        raise BadInput(
            f"its tokenizer has {token!r} as id {index}, and the vocabulary of its config.json room for {rows} tokens",
            remedy="give a decoder with its own tokenizer, or resize its embeddings",
            file=str(llm),
            field="vocab_size",
        )
    return tokenizer


def with_picture_tokens(tokenizer, template: str, rows: int | None = None):
    """Return the tokenizer with an image token, and a padding token where it has none.

    Each is a reserved token of the vocabulary, renamed, where there is one, else the next id.

    Args:
        template: words chats; its tokens are not free.
        rows: of the decoder's table of embeddings; those of the tokenizer when None.
    """
    known = tokenizer.get_vocab()
    free = reserved_tokens(tokenizer, rows or len(known), f"{template}{tokenizer.chat_template}")
    wanted = [IMAGE_TOKEN] if IMAGE_TOKEN not in known else []
    wanted += [PAD_TOKEN] if tokenizer.pad_token is None and PAD_TOKEN not in known else []
    tokenizer = rename_tokens(tokenizer, dict(zip(free, wanted, strict=False)))
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.chat_template = None  # the processor's is the one; both are saved to one file
    return tokenizer


def build_processor(
    vision: str | Path,
    llm: str | Path,
    image_aspect_ratio: str,
    chat_template: str,
    revisions: tuple[str | None, str | None] = (None, None),
    rows: int | None = None,
) -> LlavaMistralProcessor:
    """Join the image processor of `vision` and the tokenizer of `llm` (folders or Hub ids).

    The tokenizer gets an image token and a padding token, see `with_picture_tokens`. Padding is on the left, so that a
    batch generates what each prompt would alone.

    Args:
        image_aspect_ratio: `"pad"` (LLaVA-1.5), `"square"` (as the tower itself has it) or `"anyres"` (LLaVA-1.6).
        rows: of the decoder's table of embeddings.
    """
    with opening(llm):
        tokenizer = open_tokenizer(llm, revision=revisions[1])
    tokenizer = with_picture_tokens(tokenizer, chat_template, rows)
    if chat_template:
        make_separable(tokenizer, chat_template)
    with opening(vision):
        image_processor = AutoImageProcessor.from_pretrained(vision, revision=revisions[0], trust_remote_code=False)
        vision_config = AutoConfig.from_pretrained(vision, revision=revisions[0], trust_remote_code=False)
    vision_config = getattr(vision_config, "vision_config", vision_config)
    class_tokens = TOWERS[vision_config.model_type]
    return LlavaMistralProcessor(
        image_processor=picture_processor(image_processor, image_aspect_ratio, None, vision_config.image_size),
        tokenizer=tokenizer,
        patch_size=vision_config.patch_size,
        vision_feature_select_strategy="default" if class_tokens else "full",
        num_additional_image_tokens=class_tokens,
        chat_template=chat_template,
        image_token=IMAGE_TOKEN,
    )


def reserved_tokens(tokenizer, rows: int, written: str) -> list[str]:
    """Return the reserved special tokens that no text uses, ordered by id: an image token needs no new row then.

    Args:
        rows: of the decoder's table; a token beyond it has none.
        written: a template, whose tokens are used.
    """
    used = {getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "pad", "unk")}
    return [
        str(token)
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and index < rows and _RESERVED.fullmatch(str(token))
        if str(token) not in used and str(token) not in written
    ]


def rename_tokens(tokenizer, names: dict[str, str]):
    """Return the tokenizer with each of `names` called otherwise; its id and everything else stay."""
    if not names:
        return tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in (Path(folder) / name for name in _FILES):
            if file.is_file():
                content = _renamed(json.loads(file.read_text(encoding="utf-8")), names)
                file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return open_tokenizer(folder)


def _renamed(value, names: dict[str, str]):
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value
