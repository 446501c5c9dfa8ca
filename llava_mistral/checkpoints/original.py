"""Open checkpoints of the original LLaVA code: flat `config.json`, its weight names, the tower in its own folder.

Importing the package hangs `read_config` and `read_model` into the model's `from_pretrained`.
"""

from pathlib import Path
from typing import Any

import torch

from llava_mistral.checkpoints.layouts import (
    VOCABULARY,
    is_original,
    nested_config,
    to_plugin_name,
    tower_to_plugin_name,
)
from llava_mistral.checkpoints.stored_weights import Stored, read_tensor, stored_weights
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import read_config_file, weight_files
from llava_mistral.ground.hub_access import reach_hub
from modeling_llava_mistral.configuration_llava_mistral import LlavaMistralConfig

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_WORDING = ("*.json", "*.model", "*.safetensors", "*.txt")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
VOCABULARY_MULTIPLE = 64


def local_folder(name: str | Path, *, weights: bool, **hub) -> Path:
    """Return the folder itself, or a Hub repository's snapshot; with `weights`, pickles only where nothing else is."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import HfApi, snapshot_download

    reach_hub(name)
    patterns = [pattern for pattern in _WORDING if weights or pattern != "*.safetensors"]
    folder = Path(snapshot_download(str(name), allow_patterns=patterns, **hub))
    if weights and not weight_files(folder) and not hub.get("local_files_only"):
        files = HfApi().list_repo_files(str(name), revision=hub.get("revision"), token=hub.get("token"))
        pickles = [file for file in files if file.endswith(".bin")]
        folder = Path(snapshot_download(str(name), allow_patterns=[*patterns, *pickles], **hub))
    return folder


def tower_source(flat: dict[str, Any], folder: Path) -> str:
    """Return where the vision tower lies: below `folder` when the name is a relative path there, else as it says."""
    name = str(flat["mm_vision_tower"])
    return str(folder / name) if (folder / name).is_dir() else name


def read_config(flat: dict[str, Any], name: str | None, image_token_id: int | None = None) -> dict[str, Any]:
    """Return the plugin's configuration of an original one; `LlavaMistralConfig.from_dict` asks.

    A folder with a tokenizer needs an id for `<image>`, which the original has not: it is the tokenizer's next one,
    and the vocabulary grows to hold it (to a multiple of 64). A folder without keeps its vocabulary. Of a Hub id the
    tokenizer and a relative tower are looked for at the default revision, which is all the library tells here.

    Raises:
        BadInput: the tower is not to be found or no CLIP.
    """
    folder = Path(name or ".")
    if name is not None and not folder.is_dir():
        folder = local_folder(name, weights=False)
    source = tower_source(flat, folder)
    try:
        tower = read_config_file(local_folder(source, weights=False))
    except (OSError, ValueError) as error:
        remedy = "put the tower there, or correct mm_vision_tower"
        problem = f"the vision tower {source} cannot be loaded ({str(error).splitlines()[0]})"
        raise BadInput(problem, remedy=remedy, file=name, field="mm_vision_tower") from error
    vision = tower.get("vision_config", tower) | {"model_type": "clip_vision_model"}
    if tower.get("model_type") not in ("clip", "clip_vision_model"):
        vision = tower
    if image_token_id is None and any((folder / file).is_file() for file in _TOKENIZER_FILES):
        image_token_id = _image_token_id(folder, "mistral" if "mistral" in str(flat.get("model_type")) else "llama")
    nested = nested_config(flat, vision, name or "config.json", image_token_id)
    size = flat.get("vocab_size", VOCABULARY)
    if nested["image_token_id"] >= size:
        grown = -(-(nested["image_token_id"] + 1) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        nested["text_config"]["vocab_size"] = grown
        nested["original_vocab_size"] = size
    return nested


def _image_token_id(folder: Path, text_type: str) -> int:
    from transformers import AutoConfig, AutoTokenizer

    # With a configuration given, the library does not read the folder's own, which is what is being read here.
    try:
        config = AutoConfig.for_model(text_type)
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except (ImportError, OSError, ValueError) as error:
        remedy = "pip install sentencepiece protobuf, or put a tokenizer.json beside it"
        raise BadInput(
            f"its tokenizer does not open ({str(error).splitlines()[0]})", remedy=remedy, file=folder
        ) from error
    known = tokenizer.get_vocab()
    return known.get("<image>", len(tokenizer))


def original_weights(folder: Path, flat: dict[str, Any], scratch: Path) -> dict[str, Stored]:
    """Return {plugin's name: where it is stored} of an original checkpoint; the tower's own copy gives way to one in
    the weights, which a release that trained the tower carries (LLaVA-1.6)."""
    matches = {}
    for name, stored in stored_weights(folder, scratch).items():
        if renamed := to_plugin_name("original", name):
            matches[renamed] = stored
    if not any(name.startswith("model.vision_tower.") for name in matches):
        tower = local_folder(tower_source(flat, folder), weights=True)
        for name, stored in stored_weights(tower, scratch).items():
            if renamed := tower_to_plugin_name(name):
                matches[renamed] = stored
    return matches


def grown_table(table: torch.Tensor, rows: int) -> torch.Tensor:
    """Return `table` with rows added up to `rows`, each the mean of the others: never the likeliest token."""
    mean = table.float().mean(0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])


VOCABULARY_TABLES = ("model.language_model.embed_tokens.weight", "lm_head.weight")


def read_model(name: str | Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """Return the options with which `from_pretrained` makes the model of an original checkpoint, None for any other.

    They are `options` less those of the Hub, with `config` and `state_dict` at hand.

    Weights are mapped from the files, not copied; `from_pretrained` asks.
    """
    import tempfile

    from transformers import GenerationConfig, PreTrainedConfig

    hub = {key: options[key] for key in _HUB_OPTIONS if options.get(key) is not None}
    try:
        flat, _ = PreTrainedConfig.get_config_dict(name, **hub)
    except OSError:
        return None  # the library's own message says what is absent
    if not is_original(flat):
        return None
    rest = {key: value for key, value in options.items() if key not in (*_HUB_OPTIONS, "config")}
    rest.pop("trust_remote_code", None)
    config = options.get("config") or LlavaMistralConfig.from_pretrained(name, **hub)
    folder = local_folder(name, weights=True, **hub)
    if (folder / "generation_config.json").is_file():
        rest.setdefault("generation_config", GenerationConfig.from_pretrained(folder))
    with tempfile.TemporaryDirectory() as scratch:
        stored = original_weights(folder, flat, Path(scratch))
        weights = {key: read_tensor(place) for key, place in stored.items()}
    for key in VOCABULARY_TABLES:  # of the size its own configuration says; any other is left to be refused
        if key in weights and len(weights[key]) == flat.get("vocab_size", VOCABULARY) < config.text_config.vocab_size:
            weights[key] = grown_table(weights[key], config.text_config.vocab_size)
    return {**rest, "config": config, "state_dict": weights}
