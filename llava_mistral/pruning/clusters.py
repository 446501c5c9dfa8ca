"""Selection by k-means clusters of the embedding, and removal of outliers before selection by distance.

*Clusters*: k-means on re-centred vectors, an even share of each cluster, at random within. This is the core of
COINCIDE (Lee, Li and Hwang, EMNLP 2024, "Concept-skill Transferability-based Data Selection for Large Vision-Language
Models"), without its weighting of the shares. Vectors of one model point much the same way; without their mean they
tell more (PRISM, Bi et al. 2025, "PRISM: Self-Pruning Intrinsic Selection Method for Training-Free Multimodal Data
Selection").
"""

import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_mistral.data.scienceqa import Problem
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.pruning.coverage import fair_shares
from llava_mistral.pruning.principles import NO_IMAGE

if TYPE_CHECKING:
    import numpy as np

CLUSTERS = 50
MANY = 100_000  # rows from which on k-means looks at batches of them
NEIGHBOUR, REFERENCE = 10, 20_000  # which neighbour tells an outlier; among how many rows it is looked for
CLUSTER_SHARE = "not drawn: its cluster has its share"
OUTLIER = "an outlier: its {}th nearest neighbour is among the farthest {:g} %"


def _scikit_learn(flag: str) -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        remedy = "pip install scikit-learn, and run the same command again"
        raise BadInput("needs scikit-learn, which is not installed", remedy=remedy, field=flag) from error


def cluster_of(matrix: "np.ndarray", clusters: int, seed: int) -> "np.ndarray":
    """Return the (N,) cluster of each row of `matrix` (N, d), re-centred and of length one.

    One thread, so that the same rows and seed give the same clusters on any number of cores.

    Raises:
        BadInput: scikit-learn is not installed.
    """
    _scikit_learn("method")
    import numpy as np
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    vectors = np.asarray(matrix, np.float32)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors -= vectors.mean(0, dtype=np.float64).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    kind = KMeans if len(vectors) <= MANY else MiniBatchKMeans
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters: some stay empty
        return kind(min(clusters, len(vectors)), n_init=1, random_state=seed).fit_predict(vectors)


def pick_from_clusters(
    problems: Sequence[Problem], pool: Sequence[int], clusters: "np.ndarray", size: int, *, seed: int
) -> tuple[list[int], dict[int, str], dict[str, int]]:
    """Return picks of `pool`, the reasons of all others, and what the clusters are like.

    Every cluster gives the same, as far as it has samples; any first picks are spread over the clusters, too.

    Args:
        clusters: (len(pool),) cluster of each sample of the pool.

    Raises:
        BadInput: `size` is above the size of the pool.
    """
    members: dict[int, list[int]] = {}
    for i, cluster in zip(pool, clusters.tolist(), strict=True):
        members.setdefault(cluster, []).append(i)
    ordered = [members[cluster] for cluster in sorted(members)]
    if size > len(pool):
        raise BadInput(
            f"{size} of {len(pool)} samples cannot be picked", remedy=f"use at most {len(pool)}", field="size"
        )
    draw = random.Random(seed)
    draws = [
        draw.sample(own, share) for own, share in zip(ordered, fair_shares([*map(len, ordered)], size), strict=True)
    ]
    picks = [own[place] for place in range(max(map(len, draws))) for own in draws if place < len(own)]
    kept, pooled = set(picks), set(pool)
    dropped = {i: CLUSTER_SHARE if i in pooled else NO_IMAGE for i in range(len(problems)) if i not in kept}
    sizes = [len(own) for own in ordered]
    return picks, dropped, {"clusters": len(sizes), "smallest_cluster": min(sizes), "largest_cluster": max(sizes)}


def outliers_of(matrix: "np.ndarray", share: float, seed: int) -> list[int]:
    """Return the rows of `matrix` (N, d) whose `NEIGHBOUR`th nearest neighbour is the farthest, a `share` of all.

    Neighbours are looked for among all rows, or among `REFERENCE` of them drawn by `seed` where there are more.

    Raises:
        BadInput: scikit-learn is not installed.
    """
    _scikit_learn("drop_outliers")
    import numpy as np
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(seed)
    reference = np.arange(len(matrix))
    if len(matrix) > REFERENCE:
        reference = np.sort(rng.choice(len(matrix), REFERENCE, replace=False))
    neighbour = min(NEIGHBOUR, len(reference) - 1)
    search = NearestNeighbors(n_neighbors=neighbour + 1, algorithm="brute", n_jobs=1)
    search.fit(np.asarray(matrix[reference], np.float64))
    far, own = np.empty(len(matrix)), np.isin(np.arange(len(matrix)), reference)
    for start in range(0, len(matrix), 4096):
        part = slice(start, start + 4096)
        distances, _ = search.kneighbors(np.asarray(matrix[part], np.float64))
        far[part] = np.where(own[part], distances[:, neighbour], distances[:, max(neighbour - 1, 0)])
    return np.sort(np.argsort(-far, kind="stable")[: int(share * len(matrix))]).tolist()
