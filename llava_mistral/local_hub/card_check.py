"""The front matter of a README, from which a Hub takes a repository's metadata."""

import re
from typing import Any

from yaml import YAMLError

from llava_mistral.ground.bounded_yaml import Unfolds, load_yaml

_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LISTS = (
    "tags",
    "datasets",
    "metrics",
    "task_categories",
    "task_ids",
    "size_categories",
    "source_datasets",
    "configs",
)


def read_front_matter(readme: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return (metadata, errors, warnings) of a README's text; the metadata is empty when there are errors."""
    match = _FRONT_MATTER.match(readme)
    if not match:
        return {}, [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = load_yaml(match.group(1) or "")
    except Unfolds:
        return {}, ["YAML metadata in README.md refers to itself, or unfolds to more than anybody wrote"], []
    except YAMLError as error:
        return {}, [f"YAML metadata in README.md is invalid: {' '.join(str(error).split())}"], []
    if metadata is None:
        return {}, [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return {}, ["YAML metadata in README.md must be a mapping of keys to values"], []
    errors = [f'"{key}" must be an array' for key in _LISTS if not isinstance(metadata.get(key, []), list)]
    if not isinstance(metadata.get("license", ""), str | list):
        errors.append('"license" must be a string or an array of strings')
    if not isinstance(metadata.get("model-index", []), list):
        errors.append('"model-index" must be an array')
    return ({} if errors else metadata), errors, []


def front_matter_tags(metadata: dict[str, Any], kind: str) -> list[str]:
    """Return the tags that a Hub's search uses: those of the card, and those derived from its other fields."""
    plain = ("tags", "library_name", "pipeline_tag", *(["language"] if kind == "models" else []))
    named = {"license": "license", "datasets": "dataset", "base_model": "base_model", "models": "model"}
    named |= {key: key for key in ("task_categories", "size_categories", "source_datasets", "annotations_creators")}
    named |= {"language": "language"} if kind == "datasets" else {}
    tags = [value for key in plain for value in _strings(metadata.get(key))]
    tags += [f"{name}:{value}" for key, name in named.items() for value in _strings(metadata.get(key))]
    return list(dict.fromkeys(tags))


def _strings(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
