"""Exact greedy farthest-first traversal (the max-min rule) under L2, at any scale, never with an N x N matrix.

Start with one sample; then always take the sample whose nearest picked sample is farthest away, the lowest index where
several are equally far. The radius within which the picks cover all samples is at most twice the best possible
(Gonzalez 1985, Clustering to minimize the maximum intercluster distance).

The plain loop reads the whole matrix once per pick. Here one pass serves many picks:

1. Every row carries an approximate squared distance to its nearest pick, in float32, with a proven error bound.
2. The `block` farthest rows are lifted to float64, and picks are committed from among them, one by one, while the best
   of them is certainly farther than everything outside: a row outside only ever comes nearer.
3. One matrix product brings all rows up to date with all picks of the pass.

What decides is never a rounded number: in the block, distances are `squared_distance` in float64, whose value for two
rows does not depend on block size, threads, processes or BLAS. So neither do the picks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.pruning.rows import Rows, rounding

# Measured at 200,000 x 512 -> 1,000: 22 passes with a block of 128, 11 with 1,024, 8 with 4,096, whose own work then
# costs more than the passes it saves. It costs the more the fewer rows there are, hence the share.
BLOCK, BLOCK_SHARE = (128, 1024), 1 / 32
FAR = (-np.inf, np.inf)  # a key (distance, index) that every row comes before


@dataclass(frozen=True)
class Selection:
    """What was picked, and how well it covers the rest.

    Attributes:
        picks: (k,) row indices in pick order.
        distances: (k,) distance of each pick to those before it (the first: infinity); never rises.
        radius: largest distance of any row to its nearest pick.
        passes: how often the matrix was read.
        computed: distances computed, as a fraction of the N·k of the plain loop.
        nearest: (N,) float32 distance of this process's rows to their nearest picks, for pictures: it is rounded.
    """

    picks: np.ndarray
    distances: np.ndarray
    radius: float
    passes: int
    computed: float
    nearest: np.ndarray

    @property
    def minimum_distance(self) -> float:
        """Smallest distance between two picks."""
        return float(self.distances[1:].min()) if len(self.picks) > 1 else float("inf")


@dataclass(frozen=True)
class Block:
    """The farthest rows, and what bounds all others: they are no farther than `ceiling`, or come after `rival`."""

    indices: np.ndarray  # (b,) in the whole matrix
    vectors: np.ndarray  # (b, d) float64
    distances: np.ndarray  # (b,) exact squared distance to the nearest pick
    ceiling: float  # every other row is at most this far (squared), except those compared exactly:
    rival: tuple[float, float]  # the (squared distance, index) that comes first among these
    compared: int  # distances computed for this block


def farthest_first(
    rows: Rows,
    size: int,
    *,
    start: int = 0,
    block: int | None = None,
    groups: np.ndarray | None = None,
    quotas: np.ndarray | None = None,
    first_row: int = 0,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    progress: Callable[[int], None] = lambda picks: None,
) -> Selection:
    """Pick `size` rows.

    Args:
        rows: this process's rows.
        size: how many to pick from the rows of all processes.
        start: the first pick. Before it all rows are equally (infinitely) far: the lowest index, 0.
        block: how many of the farthest rows to look at in one pass (None: by the number of rows); changes the speed,
            never the picks.
        groups: (N,) group of each row of the whole matrix, 0 ≤ group < len(quotas).
        quotas: most picks of each group; a row of a full group is passed over.
        first_row: index of this process's first row in the whole matrix.
        gather: a collective that returns the values of all processes, in the same order everywhere.
        progress: called with the number of new picks after each pass.

    Raises:
        BadInput: `size` is below one, or above the number of rows or of places in `quotas`.
    """
    _check_size(size, total := sum(gather(len(rows))), groups, quotas)
    block = block or min(max(int(total * BLOCK_SHARE), BLOCK[0]), BLOCK[1])
    left = None if quotas is None else np.array(quotas)
    largest = max(gather(float(rows.norms.max(initial=0))))
    error = rounding(rows.matrix.shape[1], largest, 2.0**-24)
    nearest = np.full(len(rows), np.inf, np.float32)
    own = start - first_row
    found = [rows.take(np.array([own]))] if 0 <= own < len(rows) else []
    centres = next(vectors for share in gather(found) for vectors in share)  # (picks, d)
    picks, squared, fresh, passes, compared = [start], [np.inf], centres, 0, 0
    while True:
        if left is not None:
            np.subtract.at(left, groups[picks[len(picks) - len(fresh) :]], 1)
        rows.approach(nearest, fresh)
        passes, compared = passes + 1, compared + total * len(fresh)
        progress(len(fresh))
        if len(picks) == size:
            break
        open_rows = _open(nearest, picks, groups, left, first_row)
        top = max(gather(float(open_rows.max(initial=-np.inf))))
        own_block = _farthest_block(rows, open_rows, centres, block, top, error, first_row)
        merged = _merge(gather(own_block), block)
        compared += merged.compared
        chosen = _commit(merged, size - len(picks), groups, left)
        picks += [int(merged.indices[place]) for place, _ in chosen]
        squared += [distance for _, distance in chosen]
        fresh = merged.vectors[[place for place, _ in chosen]]
        centres = np.vstack([centres, fresh])
    radius = _radius(rows, _open(nearest, picks, None, None, first_row), centres, error, gather)
    nearest, computed = np.sqrt(nearest.clip(0)), compared / (total * size)
    return Selection(np.array(picks), np.sqrt(squared), radius, passes, computed, nearest)


def squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (n,) squared distances of the rows of `a` and `b` (n, d) float64: the value that decides.

    Each row is summed by itself in NumPy's fixed pairwise order, so it is the same alone and among others.
    """
    difference = np.ascontiguousarray(a - b)
    np.square(difference, out=difference)
    return difference.sum(1)


def nearest_exactly(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the (n,) smallest `squared_distance` of each of `vectors` (n, d) to any of `centres` (c, d).

    One matrix product in float64 tells which centres can be the nearest (one, but for ties); those are computed again.
    """
    result = np.empty(len(vectors))
    step = max(1, (4 << 20) // len(centres))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step]
        result[start : start + step] = _nearest_of_part(part, centres)
    return result


def _nearest_of_part(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    products, slack = _products(vectors, centres)
    limit = products.min(1) + 2 * slack
    row, centre = np.nonzero(products <= limit[:, None])
    exact = np.empty(len(row))
    step = max(1, (4 << 20) // vectors.shape[1])
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        exact[part] = squared_distance(vectors[row[part]], centres[centre[part]])
    return np.minimum.reduceat(exact, np.searchsorted(row, np.arange(len(vectors))))


def _products(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (len(a), len(b)) squared distances by one float64 matrix product, and a bound on their error."""
    a_norms, b_norms = np.square(a).sum(1), np.square(b).sum(1)
    products = a @ b.T
    products *= -2
    products += a_norms[:, None]
    products += b_norms
    return products, rounding(a.shape[1], max(a_norms.max(), b_norms.max()), 2.0**-53)


def _check_size(size: int, total: int, groups: np.ndarray | None, quotas: np.ndarray | None) -> None:
    places = total
    if quotas is not None:
        places = int(np.minimum(np.bincount(groups, minlength=len(quotas)), quotas).sum())
    if not 1 <= size <= places:
        raise BadInput(f"{size} of {places} samples cannot be picked", remedy=f"use 1 to {places}", field="size")


def _open(
    nearest: np.ndarray, picks: list[int], groups: np.ndarray | None, left: np.ndarray | None, first_row: int
) -> np.ndarray:
    """Return `nearest` with -infinity for the rows that cannot be picked (again)."""
    result = nearest.copy()
    own = np.array(picks) - first_row
    result[own[(own >= 0) & (own < len(result))]] = -np.inf
    if left is not None:
        result[left[groups[first_row : first_row + len(result)]] == 0] = -np.inf
    return result


def _farthest_block(
    rows: Rows, nearest: np.ndarray, centres: np.ndarray, block: int, top: float, error: float, first_row: int
) -> Block:
    """Return the rows of this process that can be the next picks.

    Rows whose approximate distance is within the error of the farthest, `top`, may all be the farthest; there are few
    unless the data is full of ties (copies, a grid). If they exceed the block, all of them are compared exactly.
    """
    tied = np.flatnonzero(nearest >= top - 2 * error)
    if len(tied) > block:
        exact = _exact_distances(rows, tied, centres)
        order = np.lexsort((tied, -exact))
        inside, rival = order[:block], (exact[order[block]], first_row + int(tied[order[block]]))
        ceiling = float(np.delete(nearest, tied).max(initial=-np.inf)) + error
        compared = len(tied) * len(centres)
        return Block(first_row + tied[inside], rows.take(tied[inside]), exact[inside], ceiling, rival, compared)
    count = min(block, len(nearest))
    order = np.argpartition(-nearest, count - 1) if count < len(nearest) else np.arange(count)
    inside = order[:count]
    ceiling = float(nearest[order[count:]].max(initial=-np.inf)) + error
    inside = inside[nearest[inside] > -np.inf]
    exact = _exact_distances(rows, inside, centres)
    return Block(first_row + inside, rows.take(inside), exact, ceiling, FAR, len(inside) * len(centres))


def _exact_distances(rows: Rows, indices: np.ndarray, centres: np.ndarray) -> np.ndarray:
    exact = np.empty(len(indices))
    for start in range(0, len(indices), 1024):
        part = slice(start, start + 1024)
        exact[part] = nearest_exactly(rows.take(indices[part]), centres)
    return exact


def _merge(blocks: list[Block], block: int) -> Block:
    """Return the first `block` rows of all processes' blocks in order of index; what is left over bounds them."""
    indices = np.concatenate([b.indices for b in blocks])
    distances = np.concatenate([b.distances for b in blocks])
    order = np.lexsort((indices, -distances))
    rivals = [b.rival for b in blocks]
    rivals += [(distances[i], int(indices[i])) for i in order[block : block + 1]]
    kept = order[:block]
    kept = kept[np.argsort(indices[kept])]
    vectors = np.concatenate([b.vectors for b in blocks])[kept]
    rival = max(rivals, key=lambda key: (key[0], -key[1]))
    ceiling, compared = max(b.ceiling for b in blocks), sum(b.compared for b in blocks)
    return Block(indices[kept], vectors, distances[kept], ceiling, rival, compared + len(kept) ** 2)


def _commit(block: Block, wanted: int, groups: np.ndarray | None, left: np.ndarray | None) -> list[tuple[int, float]]:
    """Return (place in the block, squared distance) of the next picks, as far as the block alone decides them."""
    products, slack = _products(block.vectors, block.vectors)
    distances, chosen = block.distances.copy(), []
    left = None if left is None else left.copy()
    while len(chosen) < min(wanted, len(distances)):
        place = int(distances.argmax())  # the first of equals, and the block is in order of index
        key = (distances[place], -block.indices[place])
        if key[0] <= block.ceiling or key <= (block.rival[0], -block.rival[1]):
            break
        chosen.append((place, float(key[0])))
        nearer = np.flatnonzero(products[place] <= distances + slack)
        exact = squared_distance(block.vectors[nearer], block.vectors[place])
        distances[nearer] = np.minimum(distances[nearer], exact)
        distances[place] = -np.inf
        if left is not None:
            group = groups[block.indices[place]]
            left[group] -= 1
            if left[group] == 0:
                distances[groups[block.indices] == group] = -np.inf
    if not chosen:
        raise RuntimeError("the farthest row was not decided; the rounding bound of the matrix product does not hold")
    return chosen


def _radius(
    rows: Rows, nearest: np.ndarray, centres: np.ndarray, error: float, gather: Callable[[Any], list[Any]]
) -> float:
    """Return the largest distance of a row to its nearest pick, from the rows that can have it."""
    top = max(gather(float(nearest.max(initial=-np.inf))))
    far = np.flatnonzero(nearest >= top - 2 * error) if top > -np.inf else np.array([], int)
    exact = _exact_distances(rows, far, centres)
    return float(np.sqrt(max(gather(float(exact.max(initial=0))))))
