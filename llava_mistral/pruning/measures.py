"""Measures of a selection: coverage, difficulty, necessity, length, redundancy, and distance to the dropped rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from llava_mistral.data.scienceqa import Problem, question_text
from llava_mistral.pruning.coverage import LEVELS
from llava_mistral.pruning.principles import Scores

if TYPE_CHECKING:
    import numpy as np

    from llava_mistral.pruning.rows import Rows

CENTRES = 256  # picks compared with all rows at a time: their products stay in the cache


@dataclass(frozen=True)
class Selection:
    """What one way of choosing kept, by index, in pick order; why it dropped the others."""

    name: str
    picks: Sequence[int]
    dropped: Mapping[int, str]
    for_coverage: Sequence[int] = ()


@dataclass(frozen=True)
class Embedding:
    """The embedded samples, as charts draw them.

    Attributes:
        points: (n, 2) places on the map.
        rows: {sample: row} where only some samples are embedded, such as those with a picture.
        nearest: by the selection's name, the (n,) distances of all rows to the nearest one it kept.
    """

    points: "np.ndarray"
    rows: Mapping[int, int]
    nearest: Mapping[str, "np.ndarray"]


def measures_of(problems: Sequence[Problem], scores: Sequence[Scores], pool: Sequence[int]) -> dict[str, float]:
    """Return the measures of the samples in `pool`, by name; those of samples are 0 to 1 unless they say otherwise."""
    labels = {f"{level} labels": len({getattr(problems[i], level) for i in pool} - {None}) for level in LEVELS}
    words = len({(problems[i].question, problems[i].hint) for i in pool})
    return {
        "samples": len(pool),
        **labels,
        "mean difficulty (0-1)": mean(scores[i].difficulty for i in pool),
        "mean necessity of the image (0-1)": mean(scores[i].necessity for i in pool),
        "mean prompt length (characters)": mean(len(question_text(problems[i])) for i in pool),
        "redundancy (share whose words are there already)": 1 - words / len(pool),
    }


def reach_of(nearest: "np.ndarray") -> dict[str, float]:
    """Return how far the samples are from the nearest kept one: the covering radius and the mean."""
    return {"covering radius": float(nearest.max()), "mean distance to the nearest kept": float(nearest.mean())}


def overlap(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, float]:
    """Return what two manifests of the same input both keep.

    `both`: how many samples; `jaccard`: that number over the size of their union; `by_chance`: how many two random
    draws of these sizes would share on average.
    """
    a, b = set(first["kept"]), set(second["kept"])
    rows = len(a | b | first["dropped"].keys() | second["dropped"].keys())
    both = len(a & b)
    return {"both": both, "jaccard": both / max(len(a | b), 1), "by_chance": len(a) * len(b) / max(rows, 1)}


def distances_to(rows: "Rows", picks: Sequence[int]) -> "np.ndarray":
    """Return the (N,) float32 distance of every row to the nearest of `picks`; rounded, for charts and means."""
    import numpy as np

    nearest = np.full(len(rows), np.inf, np.float32)
    if len(picks) < len(rows):
        for start in range(0, len(picks), CENTRES):
            rows.approach(nearest, rows.take(np.array(picks[start : start + CENTRES])))
    nearest[list(picks)] = 0
    return np.sqrt(nearest.clip(0))
