"""The recipe of a pruned set: everything that decides what is in it. What it is made on has no say (`Machine`)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput

METHODS = ("principles", "farthest", "random", "full")
# What has a say in one method only.
ONLY_FOR = {"within": "farthest", "embeddings": "farthest", "embedder": "farthest", "max_memory": "farthest"}
ONLY_FOR |= {"stratified": "random", "scorer": "principles"}
# What a set is made from; it may lie elsewhere when the set is made again.
PLACES = ("dataset", "embeddings", "embedder", "pid_splits", "image_folder", "scorer")


@dataclass(frozen=True)
class PruneRecipe:
    """What `llava-mistral prune` is asked for, by the names of its flags; the manifest keeps it whole.

    Attributes:
        size: how many samples to keep; None with "full": all.
        necessity: "principles": from what score on an image is needed.
        coverage: "principles": cover the labels of all pictured samples ("images") or of those that fit ("fitting").
        within: "farthest": the level whose every label gets a fair share.
    """

    dataset: str
    method: str
    size: int | None = None
    seed: int = 0
    split: str | None = None
    pool: str = "all"
    necessity: float = 0.5
    coverage: str = "images"
    scorer: str | None = None
    stratified: bool = False
    within: str | None = None
    embeddings: str | None = None
    embedder: str | None = None
    answer_style: str = "letter"
    pid_splits: str | None = None
    image_folder: str | None = None
    llava_json: bool = False
    source: str | None = None
    license: str | None = None
    columns: str | None = None
    check_pictures: str = "full"
    on_bad_sample: str = "error"
    max_bad_samples: float = 0.01
    dataset_config: str | None = None
    conversations: str = "whole"

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any], file: Path) -> "PruneRecipe":
        """Return the recipe that a set was made by.

        Raises:
            BadInput: the manifest, which lies at `file`, lacks a part of it.
        """
        given = {"dataset_config": None, "conversations": "answers"} | manifest["recipe"]  # as before there were two
        missing = [name for name in NAMES if name not in given]
        if missing:
            problem = f"lacks {', '.join(missing)}"
            raise BadInput(problem, remedy="make the set again", file=file, field="recipe")
        # The name of a folder that moved would be another source.
        told = {"source": manifest.get("source"), "license": manifest.get("license")}
        return cls(**{name: given[name] for name in NAMES} | told)

    def moved(self, places: Mapping[str, str | None]) -> "PruneRecipe":
        """Return the recipe with what it is made from at other `places`; None leaves a place as it is."""
        return replace(self, **{name: place for name, place in places.items() if place})

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as the manifest keeps it."""
        return asdict(self)


NAMES = tuple(field.name for field in fields(PruneRecipe))


@dataclass(frozen=True)
class Machine:
    """With what a set is made; none of it changes what is chosen.

    Attributes:
        device: a torch device; by default the GPU when there is one.
        threads: by default all cores.
        max_memory: resident memory to stay within, such as "1GB".
    """

    device: str | None = None
    threads: int | None = None
    max_memory: str | None = None
