"""Use a reserved special token of the decoder as image token, so that its vocabulary needs no new row."""

import json
import re
import tempfile
from pathlib import Path

from llava_mistral.checkpoints.text_tokenizer import open_tokenizer

# Tekken's, Llama 3's, Mistral v3's, and the usual spellings of fine-tunes.
_RESERVED = re.compile(
    r"<SPECIAL_\d+>|<\|reserved_special_token_\d+\|>|\[control_\d+\]|<\|?(reserved|unused|extra)[\w-]*?\d+\|?>"
    r"|\[(unused|UNUSED)_?\d+\]"
)
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def reserved_tokens(tokenizer, rows: int, written: str) -> list[str]:
    """Return the reserved special tokens that no text uses, ordered by id.

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
