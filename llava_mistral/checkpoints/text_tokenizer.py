"""The text model's tokenizer, as the code that it was trained with had it."""

import json
from pathlib import Path

from transformers import AutoTokenizer, LlamaTokenizer


def open_tokenizer(name: str | Path, **hub):
    """Return the tokenizer of a folder or Hub id; it pads on the left, so that a batch generates what each row would.

    A folder with sentencepiece's `tokenizer.model` and no `tokenizer.json` is read by LLaMA's class, and where it does
    not say `legacy`, every piece between two special tokens begins with a space of its own, as it did when those files
    were released. Left to itself the library takes neither for granted, and `[INST]` after `<s>` becomes a token that
    Mistral was not taught (28792 for 733).
    """
    said = _of_sentencepiece(Path(name))
    if said is None:
        return AutoTokenizer.from_pretrained(name, padding_side="left", **hub)
    return LlamaTokenizer.from_pretrained(name, legacy=said.get("legacy") is not False, padding_side="left", **hub)


def _of_sentencepiece(folder: Path) -> dict | None:
    """Return what `tokenizer_config.json` says where LLaMA's `tokenizer.model` is all there is to read, else None."""
    if not (folder / "tokenizer.model").is_file() or (folder / "tokenizer.json").is_file():
        return None
    config = folder / "tokenizer_config.json"
    try:
        said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        return said if said.get("tokenizer_class", "LlamaTokenizer").startswith("LlamaTokenizer") else None
    except (AttributeError, ValueError):
        return None  # not to be read, as the library will say
