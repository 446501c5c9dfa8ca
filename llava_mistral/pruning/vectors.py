"""The embedding vectors that selection by distance uses: from a file or from a model."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.devices import pick_device
from llava_mistral.ground.whole_file import sha256_of
from llava_mistral.pruning.clusters import CLUSTERS, NEIGHBOUR, OUTLIER, cluster_of, outliers_of, pick_from_clusters
from llava_mistral.pruning.embedding import embed, flat_map
from llava_mistral.pruning.measures import Embedding, distances_to
from llava_mistral.pruning.methods import Choice, by_distance, check_size
from llava_mistral.pruning.recipe import Machine, PruneRecipe
from llava_mistral.pruning.rows import Rows, bytes_of, open_embeddings
from llava_mistral.pruning.workers import Processes

if TYPE_CHECKING:
    import numpy as np

    from llava_mistral.pruning.samples import Samples


@dataclass(frozen=True)
class Vectors:
    """Where the vectors come from, and with what their rows are read.

    Attributes:
        file: .npy file of a row per sample; with `embedder`, where its vectors are kept.
        embedder: folder or Hub id of the model that makes them.
    """

    file: Path | None = None
    embedder: str | None = None
    machine: Machine = Machine()

    def matrix(self, samples: "Samples", processes: Processes) -> "np.ndarray":
        """Return the (samples, width) matrix, made by the embedder where the file is not there yet.

        Raises:
            BadInput: the file is no such matrix, or the embedder cannot make one.
        """
        if self.embedder and not (self.file and self.file.is_file()):
            return embed(samples, self.embedder, self.file, device=self.machine.device, processes=processes)
        if self.file is None:
            raise BadInput("is missing", remedy="name a .npy file or an --embedder", field="embeddings")
        return open_embeddings(self.file, len(samples.problems))

    def rows(self, matrix: "np.ndarray", share: range) -> Rows:
        """Return the rows of one process's share, as the traversal reads them."""
        most = bytes_of(self.machine.max_memory) if self.machine.max_memory else None
        return Rows(
            matrix[share.start : share.stop],
            threads=self.machine.threads,
            device=pick_device(self.machine.device),
            release=most is not None and most < 2 * matrix.nbytes,
            name=str(self.file or self.embedder),
        )

    def choose(
        self, samples: "Samples", pool: Sequence[int], size: int, recipe: PruneRecipe, processes: Processes
    ) -> tuple[Choice, Embedding]:
        """Return `size` samples of `pool` by `recipe.method`, and what the report draws of the embedding.

        Raises:
            BadInput: the vectors cannot be used, or are fewer than `size` without their outliers.
        """
        matrix = self.matrix(samples, processes)
        matrix = matrix if len(pool) == len(matrix) else matrix[pool]
        outliers: list[int] = []
        if recipe.drop_outliers:
            self.rows(matrix, range(len(matrix)))  # refuses rows that are not finite, by name
            found = outliers_of(matrix, recipe.drop_outliers, recipe.seed) if processes.rank == 0 else []
            outliers = processes.gather(found)[0]
        apart = set(outliers)
        inside = [place for place in range(len(pool)) if place not in apart]
        check_size(size, inside)
        matrix = matrix[inside] if outliers else matrix
        kept_pool = [pool[place] for place in inside]
        by = self._farthest if recipe.method == "farthest" else self._clusters
        choice, nearest = by(samples, kept_pool, matrix, size, recipe, processes)
        reason = OUTLIER.format(NEIGHBOUR, 100 * recipe.drop_outliers)
        choice.dropped.update({pool[place]: reason for place in outliers})
        if outliers:
            choice.facts["outliers"] = len(outliers)
        if self.file:
            choice.facts["embeddings_sha256"] = sha256_of(self.file)
        row = {sample: place for place, sample in enumerate(kept_pool)}
        return choice, Embedding(flat_map(matrix), row, {recipe.method: nearest})

    def _farthest(self, samples, pool, matrix, size, recipe, processes) -> "tuple[Choice, np.ndarray]":
        from tqdm import tqdm

        start = random.Random(recipe.seed).randrange(len(pool))
        rows = self.rows(matrix, processes.share(len(pool)))
        with tqdm(total=size, desc="farthest first", unit=" picks", delay=2) as bar:
            options = {"start": start, "within": recipe.within, "progress": bar.update, "processes": processes}
            return by_distance(samples.problems, pool, rows, size, **options)

    def _clusters(self, samples, pool, matrix, size, recipe, processes) -> "tuple[Choice, np.ndarray]":
        rows = self.rows(matrix, range(len(pool)))
        clusters = cluster_of(matrix, min(recipe.clusters or CLUSTERS, size), recipe.seed)
        picks, dropped, facts = pick_from_clusters(samples.problems, pool, clusters, size, seed=recipe.seed)
        place = {sample: number for number, sample in enumerate(pool)}
        return Choice(picks, dropped, facts=facts), distances_to(rows, [place[i] for i in picks])
