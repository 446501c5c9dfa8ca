"""Whose code a checkpoint runs: its folder's own, or that of one commit on the Hub, and no other repository's."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput

COMMIT = re.compile(r"[0-9a-f]{40}")
_CONFIGS = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_COMMIT = "commit of 40 hexadecimal digits"
NAMED = f"name it OWNER/NAME@COMMIT, with its {_COMMIT}"
_AGAIN = "save the checkpoint again so that all of it lies in its folder"


def loading(
    name: str, revision: str | None = None, *, field: str = "revision", remedy: str | None = None
) -> dict[str, Any]:
    """Return the keywords with which `from_pretrained` may load `name`, after a look at what that would run.

    Without code of its own nothing is trusted; so what is committed after the look is not run either.

    Args:
        name: a folder or a Hub id, of an adapter too, whose base is looked at.
        field: the flag that names the revision, for the error.
        remedy: how to name the commit, where that flag is none of its own.

    Raises:
        BadInput: code on the Hub without a commit of 40 hexadecimal digits, code of another repository, or files,
            weights among them, that lie outside of the checkpoint.
    """
    brings_code = _brings_code(name, revision, field, remedy or f"give --{field} with its {_COMMIT}")
    return {"revision": revision, "trust_remote_code": brings_code}


def split_revision(name: str) -> tuple[str, str | None]:
    """Return the Hub id and the revision of "owner/name@revision"; a folder's name is left as it is."""
    if Path(name).exists() or name.count("@") != 1:
        return name, None
    name, _, revision = name.partition("@")
    return name, revision


def _brings_code(name: str, revision: str | None, field: str, remedy: str) -> bool:
    brings_code, shards = False, _read(name, "model.safetensors.index.json", revision).get("weight_map")
    for shard in shards.values() if isinstance(shards, dict) else ():
        if not _is_text(shard) or re.search(r"[/\\]", shard):
            problem = f"names the weights {str(shard)[:80]!r}, which are outside of its folder"
            raise BadInput(problem, remedy=_AGAIN, file=f"{name}/model.safetensors.index.json", field="weight_map")
    for config in _CONFIGS:
        told = _read(name, config, revision)
        for reference in _references(told.get("auto_map")):
            if "--" in reference and reference.split("--")[0] != name:
                problem = f"takes its code from another repository ({reference})"
                raise BadInput(problem, remedy=_AGAIN, file=f"{name}/{config}", field="auto_map")
            brings_code = True
        if config == "tokenizer_config.json":
            _check_tokenizer(told, f"{name}/{config}")
    if brings_code and not Path(name).is_dir() and not COMMIT.fullmatch(revision or ""):
        problem = f"{name} brings code of its own, which may be another at {revision or 'main'} tomorrow"
        raise BadInput(problem, remedy=remedy, field=field)
    adapter = _read(name, "adapter_config.json", revision)
    if _is_text(base := adapter.get("base_model_name_or_path")) and base != name:
        noted = f"note the base's {_COMMIT} as `revision` in {name}/adapter_config.json"
        brings_code |= _brings_code(base, adapter.get("revision"), field, noted)
    return brings_code


def _check_tokenizer(tokenizer: dict, file: str | Path) -> None:
    """Refuse a tokenizer's configuration that names a file by a path that climbs out of its folder.

    Raises:
        BadInput: naming the entry.
    """
    for key, value in tokenizer.items():
        names = value if isinstance(value, list) else [value]
        if re.search("_files?$", key) and any(".." in re.split(r"[/\\]", name) for name in names if _is_text(name)):
            raise BadInput(f"names a file outside of its folder ({value!r})", remedy=_AGAIN, file=file, field=key)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _references(auto_map: Any) -> Iterator[str]:
    """The classes of an `auto_map`, whose values are names, lists of names, or null."""
    for value in auto_map.values() if isinstance(auto_map, dict) else ():
        yield from filter(_is_text, value if isinstance(value, list) else [value])


def _read(name: str, config: str, revision: str | None) -> dict[str, Any]:
    """The configuration; empty where there is none or it cannot be had, which `from_pretrained` then says."""
    path = Path(name) / config
    if not Path(name).is_dir():
        from transformers.utils import cached_file

        try:
            path = cached_file(name, config, revision=revision)
        except (OSError, ValueError):
            return {}
    try:
        told = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
