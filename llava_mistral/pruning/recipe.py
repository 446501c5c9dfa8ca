"""The recipe of a pruned set, which decides its content (the machine, `Machine`, has no influence), and its flags."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput

_SIZE = re.compile(r"(?=.*\d)([+-]?(?:\d{1,3}(?:,\d{3})+|[\d_]+)?(?:\.\d+)?(?:(?<=\d)e[+-]?\d{1,2})?)\s*([%km])?")
METHODS = ("principles", "farthest", "clusters", "random", "full")
BY_VECTORS = ("farthest", "clusters")
# What has a say in some methods only.
ONLY_FOR = dict.fromkeys(("embeddings", "embedder", "drop_outliers"), BY_VECTORS)
ONLY_FOR |= {"within": ("farthest",), "max_memory": ("farthest",), "clusters": ("clusters",)}
ONLY_FOR |= {"stratified": ("random",), "scorer": ("principles",)}
# What a set is made from; it may lie elsewhere when the set is made again.
PLACES = ("dataset", "embeddings", "embedder", "pid_splits", "image_folder", "scorer")


@dataclass(frozen=True)
class PruneRecipe:
    """What `llava-mistral prune` is asked for, by the names of its flags; the manifest keeps it whole.

    Attributes:
        size: how many samples to keep, or what share of them (a float, at most 1); None with "full": all.
        conversations: what a sample is where one record holds several answers: the "whole", or each of its "answers".
        necessity: "principles": score from which an image counts as needed.
        coverage: "principles": cover the labels of all pictured samples ("images") or of those that fit ("fitting").
        within: "farthest": the level whose every label gets a fair share.
        drop_outliers: "farthest", "clusters": the share of samples, those farthest from others, that is left out.
        clusters: "clusters": how many; None: `clusters.CLUSTERS`.
    """

    dataset: str
    method: str
    size: int | float | None = None
    seed: int = 0
    split: str | None = None
    pool: str = "all"
    necessity: float = 0.5
    coverage: str = "images"
    scorer: str | None = None
    stratified: bool = False
    within: str | None = None
    drop_outliers: float = 0.0
    clusters: int | None = None
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
        # As before there were these.
        given = {"dataset_config": None, "conversations": "answers", "drop_outliers": 0.0, "clusters": None}
        given |= manifest["recipe"]
        missing = [name for name in NAMES if name not in given]
        if missing:
            problem = f"lacks {', '.join(missing)}"
            raise BadInput(problem, remedy="make the set again", file=file, field="recipe")
        # The name of a folder that moved would be another source.
        provenance = {"source": manifest.get("source"), "license": manifest.get("license")}
        return cls(**{name: given[name] for name in NAMES} | provenance)

    def moved(self, places: Mapping[str, str | None]) -> "PruneRecipe":
        """Return the recipe with what it is made from at other `places`; None leaves a place as it is."""
        return replace(self, **{name: place for name, place in places.items() if place})

    def count(self, samples: int) -> int | None:
        """Return how many of so many samples are to be kept.

        Raises:
            BadInput: the share comes to none of them.
        """
        if not isinstance(self.size, float):
            return self.size
        count = int(self.size * samples + 0.5)
        if count < 1:
            problem = f"{100 * self.size:g} % of {samples} samples is less than one sample"
            raise BadInput(problem, remedy="give a larger share, or a number", field="size")
        return count

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as the manifest keeps it."""
        return asdict(self)


NAMES = tuple(field.name for field in fields(PruneRecipe))


def size_of(text: str) -> int | float:
    """Return the number that a size says (1000, 1,000, 1e3, 1k), or the share (10%, 0.1) as a float of at most 1.

    Raises:
        ValueError: it says neither; the message goes on after the text ("is below 1").
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if not match:
        raise ValueError("is not a size; write it like 1000, 1e3 or 10%")
    value = Decimal(re.sub("[,_]", "", match[1])) * {"%": 1, "k": 1000, "m": 1_000_000, None: 1}[match[2]]
    is_share = match[2] == "%" or 0 < value < 1
    if match[2] == "%":
        value /= 100
    if is_share and 0 < value <= 1:
        return float(value)
    if is_share or value < 1:
        raise ValueError("is not between 0% and 100%" if is_share else "is below 1")
    if value != int(value) or value == 1 and "." in text:
        raise ValueError("is neither a number of samples nor a share; write it like 1000 or 10%")
    return int(value)


@dataclass(frozen=True)
class Machine:
    """Settings of the machine that makes the set; none of them changes what is chosen.

    Attributes:
        device: a torch device; by default the GPU when there is one.
        threads: by default all cores.
        max_memory: resident memory to stay within, such as "1GB".
    """

    device: str | None = None
    threads: int | None = None
    max_memory: str | None = None


def add_data(add: Callable) -> None:
    """Add the flags that name the data."""
    add("--dataset", help="ScienceQA folder, problems.json, LLaVA JSON, datasets folder or Hub id")
    add("--split", help="split to choose from, which must exist; by default train, or the only one")
    add("--dataset_config", help="configuration of a data set that has several")
    add("--pid_splits", help="ScienceQA's pid_splits.json, where it does not lie beside problems.json")
    add("--image_folder", action="append", help="folder that the pictures lie below; may be given several times")
    conversations = "choose whole conversations, or each of their answers by itself (--choose answers)"
    names, kinds = ("--conversations", "--choose"), ["whole", "answers"]
    add(*names, type=_sample_kind, choices=kinds, default="whole", help=conversations)
    add("--pool", choices=["all", "images"], default="all", help="choose from all samples or pictured ones")
    columns = "columns of a datasets folder or Hub id: question=theirs,choices=theirs,answer=theirs,…"
    add("--columns", help=columns)
    checks = "before choosing, decode every picture, look at its header, or leave bad ones to be met later"
    add("--check_pictures", choices=["full", "header", "none"], default="full", help=checks)
    skip = "skip: left out, listed in skipped.json"
    add("--on_bad_sample", choices=["error", "skip"], default="error", help=skip)
    add("--max_bad_samples", type=float, default=0.01, help="share of skipped samples that is refused")


def _sample_kind(text: str) -> str:
    return "whole" if text == "conversations" else text


def add_method(add: Callable) -> None:
    """Add the flags of the selection method."""
    add("--method", choices=METHODS)
    add("--size", help="how many samples to keep: 1000, 1e3, or a share of all such as 10%% or 0.1 (full: all)")
    add("--seed", type=int, default=0, help="random seed, also used to break ties")
    add("--necessity", type=float, default=0.5, help="principles: score from which an image counts as needed")
    cover = "principles: cover the labels of all pictured samples, or only of those whose image is needed"
    add("--coverage", choices=["images", "fitting"], default="images", help=cover)
    scorer = "principles: checkpoint folder or OWNER/NAME@COMMIT to ask whether it needs the picture; its answers are "
    add("--scorer", help=scorer + "kept in OUTPUT.scores")
    add("--stratified", action="store_true", help="random: evenly over the skills")
    within = "farthest: give every such label its fair share of the size"
    add("--within", choices=["subject", "topic", "category", "skill"], help=within)
    outliers = (
        "farthest, clusters: first drop this share of outliers, the samples whose 10th nearest neighbour is farthest"
    )
    add("--drop_outliers", type=float, default=0.0, metavar="SHARE", help=outliers)
    add("--clusters", type=int, help="clusters: number of clusters, each giving an even share; default 50")
    add("--embeddings", help="farthest, clusters: .npy file, a float16 or float32 row per sample, in order")
    embedder = "farthest: CLIP-like model or LLaVA checkpoint that makes the vectors, kept in --embeddings"
    add("--embedder", help=embedder)
    add("--device", help="torch device, such as cuda:0; default: the GPU where there is one")
    add("--threads", type=int, help="farthest: worker threads; default: all cores")
    add("--max_memory", help="farthest: resident memory to stay within, such as 1GB")


def add_output(add: Callable) -> None:
    """Add the flags of the output."""
    add("--output", help="folder to write")
    add("--answer_style", choices=["letter", "explained"], default="letter", help="wording of the answer")
    add("--llava_json", action="store_true", help="write the rows as LLaVA JSON too")
    dry = "list all faults of the data by kind, with counts and the first records; write nothing"
    add("--dry_run", action="store_true", help=dry)
    add("--source", help="where the data comes from, for the manifest and the card")
    add("--license", help="its licence, such as cc-by-4.0")
