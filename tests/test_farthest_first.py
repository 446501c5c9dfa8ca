"""The picks are those of the plain greedy in float64, whatever the block, the threads or the number of processes."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.pruning.farthest_first import farthest_first, nearest_exactly, squared_distance
from llava_mistral.pruning.rows import Rows, bytes_of, open_embeddings


def plain(matrix: np.ndarray, size: int, groups=None, quotas=None):
    """The definition: one pick at a time, float64, ties to the lowest index."""
    matrix = matrix.astype(np.float64)
    nearest, open_rows, picks = np.full(len(matrix), np.inf), np.ones(len(matrix), bool), [0]
    left = None if quotas is None else np.array(quotas)
    while True:
        open_rows[picks[-1]] = False
        nearest = np.minimum(nearest, squared_distance(matrix, matrix[picks[-1]]))
        if left is not None:
            left[groups[picks[-1]]] -= 1
            open_rows[left[groups] == 0] = False
        if len(picks) == size:
            return picks, np.sqrt(nearest.max())
        picks.append(int(np.where(open_rows, nearest, -1).argmax()))


def clustered(rows: int = 2000, dimensions: int = 48, dtype=np.float16) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, dimensions))
    return (centres[rng.integers(60, size=rows)] + 0.3 * rng.standard_normal((rows, dimensions))).astype(dtype)


def matrices():
    rng = np.random.default_rng(1)
    yield "clusters", clustered(dtype=np.float32)
    yield "float16", clustered()
    yield "grid", (rng.integers(0, 4, (2000, 4)) + 1).astype(np.float16)
    yield "copies", np.repeat(rng.standard_normal((40, 8)), 25, axis=0).astype(np.float32)
    yield "corners of a simplex", np.tile(np.eye(64, dtype=np.float32), (8, 1))
    yield "far from the origin", (1 + 1e-4 * rng.standard_normal((800, 32))).astype(np.float32)


MATRICES = dict(matrices())


@pytest.mark.parametrize("block", [1, 40, 1024])
@pytest.mark.parametrize("name", MATRICES)
def test_picks_are_those_of_the_plain_greedy(name, block):
    matrix = MATRICES[name]
    picks, radius = plain(matrix, 120)
    found = farthest_first(Rows(matrix, threads=2), 120, block=block)
    assert found.picks.tolist() == picks
    assert found.radius == pytest.approx(radius, abs=1e-12)


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_picks_do_not_depend_on_the_number_of_threads(threads):
    matrix = clustered()
    picks = farthest_first(Rows(matrix, threads=2), 300).picks
    assert (farthest_first(Rows(matrix, threads=threads), 300).picks == picks).all()


@pytest.mark.parametrize("device", ["cpu:0", "cuda"])
def test_picks_do_not_depend_on_the_device(device):
    """The name cpu:0 takes the way through torch that a GPU takes."""
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    matrix = clustered()
    found, expected = farthest_first(Rows(matrix, device=device), 300), farthest_first(Rows(matrix), 300)
    assert (found.picks == expected.picks).all() and found.radius == expected.radius


def test_a_tie_closer_than_float32_can_see_is_decided_by_float64():
    """Row 2 is farther than row 1 by 1e-9: in float32 the two squared distances are equal, or the wrong way round."""
    tail = np.float32(3e-5)
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0, 1, tail], [0.5, 0.5, 0]], np.float32)
    assert np.float32(((matrix[1] - matrix[0]) ** 2).sum()) == np.float32(((matrix[2] - matrix[0]) ** 2).sum())
    for block in (1, 2, 1024):
        assert farthest_first(Rows(matrix), 2, block=block).picks.tolist() == [0, 2]


def test_equally_far_rows_are_picked_by_lowest_index():
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    assert farthest_first(Rows(square), 4).picks.tolist() == [0, 3, 1, 2]


def test_the_radius_is_within_twice_the_optimum_and_distances_never_rise():
    matrix = clustered(400, 6)
    found = farthest_first(Rows(matrix), 20)
    assert (np.diff(found.distances) <= 0).all()
    # 21 points pairwise at least `radius` apart: two of them share a centre of any 20, so its radius is half at least
    following = farthest_first(Rows(matrix), 21)
    assert following.minimum_distance == pytest.approx(found.radius)
    assert found.nearest.max() == pytest.approx(found.radius, rel=1e-4)
    assert found.minimum_distance >= found.radius


def test_quotas_are_kept_and_filled_with_the_farthest_that_fit():
    matrix, rng = clustered(1000, 8), np.random.default_rng(2)
    groups, quotas = rng.integers(0, 5, 1000), np.array([10, 1, 30, 2, 7])
    picks, radius = plain(matrix, 50, groups, quotas)
    for block in (1, 16, 1024):
        found = farthest_first(Rows(matrix), 50, block=block, groups=groups, quotas=quotas)
        assert found.picks.tolist() == picks
        assert found.radius == pytest.approx(radius, abs=1e-12)
        assert np.bincount(groups[found.picks]).tolist() == quotas.tolist()


@pytest.mark.parametrize(("processes", "rows", "size"), [(2, 1000, 150), (5, 1001, 150), (4, 3, 2)])
def test_shares_of_the_rows_give_the_picks_of_the_whole(processes, rows, size):
    """Each thread plays one process; `gather` is a barrier and a shared list, as all_gather is between machines."""
    matrix = MATRICES["copies"] if processes == 2 else clustered(rows, 16)
    expected = farthest_first(Rows(matrix), size)
    bounds = np.linspace(0, len(matrix), processes + 1).astype(int)
    barrier, board, found = threading.Barrier(processes), [None] * processes, [None] * processes

    def play(rank: int) -> None:
        def gather(value):
            board[rank] = value
            barrier.wait()
            everyone = list(board)
            barrier.wait()
            return everyone

        share = Rows(matrix[bounds[rank] : bounds[rank + 1]], threads=1)
        found[rank] = farthest_first(share, size, block=32, first_row=int(bounds[rank]), gather=gather)

    players = [threading.Thread(target=play, args=(rank,)) for rank in range(processes)]
    for player in players:
        player.start()
    for player in players:
        player.join(timeout=60)
    for one in found:
        assert (one.picks == expected.picks).all()
        assert one.radius == expected.radius


def test_all_rows_and_more_than_all():
    matrix = clustered(50, 4)
    everything = farthest_first(Rows(matrix), 50)
    assert sorted(everything.picks) == list(range(50)) and everything.radius == 0
    with pytest.raises(BadInput, match="51 of 50 samples cannot be picked; use 1 to 50"):
        farthest_first(Rows(matrix), 51)


def test_the_deciding_distance_of_two_rows_is_the_same_alone_and_among_others():
    rng = np.random.default_rng(3)
    for dimensions in (3, 8, 129, 1024, 9000):
        a, b = rng.standard_normal((2, 9, dimensions))
        together = squared_distance(a, b)
        assert all(squared_distance(a[i : i + 1], b[i : i + 1])[0] == together[i] for i in range(9))
        assert (nearest_exactly(a, b[:1]) == squared_distance(a, b[0])).all()


def test_a_memory_mapped_file_is_read_out_of_core_with_the_same_picks(tmp_path):
    matrix = clustered(20_000, 64)
    np.save(tmp_path / "vectors.npy", matrix)
    expected = farthest_first(Rows(matrix), 100).picks
    mapped = open_embeddings(tmp_path / "vectors.npy", 20_000)
    assert isinstance(mapped, np.memmap)
    assert (farthest_first(Rows(mapped, release=True), 100).picks == expected).all()
    share = Rows(mapped[5_003:9_000], release=True)  # one process's rows: a slice does not begin where the file does
    assert (share.take(np.array([0, 17])) == matrix[[5_003, 5_020]]).all()
    assert (farthest_first(share, 50).picks == farthest_first(Rows(matrix[5_003:9_000]), 50).picks).all()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_peak_memory_stays_far_below_the_file_when_pages_are_released(tmp_path):
    code = """
        import sys, numpy as np
        from llava_mistral.pruning.farthest_first import farthest_first
        from llava_mistral.pruning.rows import Rows, open_embeddings
        def peak():
            return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
        before = peak()
        farthest_first(Rows(open_embeddings(sys.argv[1]), release=True), 20)
        print(peak() - before)
    """
    out = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float16, (400_000, 256))
    for start in range(0, 400_000, 50_000):
        out[start : start + 50_000] = np.random.default_rng(start).standard_normal((50_000, 256), np.float32)
    del out
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "big.npy")]
    home = Path(__file__).parents[1]
    grown = int(subprocess.run(command, cwd=home, check=True, capture_output=True, text=True).stdout)
    assert grown < 120_000  # kB; the file has 200,000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.__setitem__((7, 1), np.nan), "record 7: is not finite"),
        (lambda m: m.__setitem__((7, 1), np.inf), "record 7: is not finite"),
        (lambda m: m.__setitem__(7, 0), "record 7: is all zeros"),
    ],
)
def test_rows_that_have_no_direction_are_refused(change, says):
    matrix = clustered(20, 4)
    change(matrix)
    with pytest.raises(BadInput, match=says):
        Rows(matrix)


def test_files_that_are_no_embeddings_are_refused(tmp_path):
    path = tmp_path / "vectors.npy"
    with pytest.raises(BadInput, match="no such file"):
        open_embeddings(path)
    path.write_text("not an array")
    with pytest.raises(BadInput, match=r"is not a \.npy file"):
        open_embeddings(path)
    for wrong in (np.zeros((3, 2)), np.zeros(3, np.float32), np.zeros((0, 2), np.float32)):
        np.save(path, wrong)
        with pytest.raises(BadInput, match="save a float16 or float32 matrix"):
            open_embeddings(path)
    np.save(path, np.ones((3, 2), np.float32))
    with pytest.raises(BadInput, match="has 3 rows for 4 samples"):
        open_embeddings(path, 4)


def test_sizes_of_memory_are_read_as_they_are_written():
    assert [bytes_of(text) for text in ("1GB", "1.5 GiB", "900m", "12")] == [10**9, 3 * 2**29, 9 * 10**8, 12]
    with pytest.raises(BadInput, match="write it like 1GB"):
        bytes_of("plenty")
