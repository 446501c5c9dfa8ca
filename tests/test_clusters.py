"""Farthest-first seeks what lies apart, junk included; the guard takes it out, clusters are even, seeds have a say."""

import json

import numpy as np
import pytest

from llava_mistral.commands.prune import main
from tests.support.running import run_here
from tests.support.small_problems import save_problems

pytest.importorskip("sklearn")
GROUPS, EACH, JUNK = 4, 50, 10


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """Samples in four tight groups, and ten that lie alone; the groups come first in the file, in order."""
    folder = save_problems(tmp_path_factory.mktemp("blobs") / "data", count=GROUPS * EACH + JUNK)
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(16)[:GROUPS]
    tight = np.repeat(centres, EACH, 0) + 0.1 * rng.standard_normal((GROUPS * EACH, 16))
    alone = 40 * rng.standard_normal((JUNK, 16))
    np.save(folder / "vectors.npy", np.concatenate([tight, alone]).astype(np.float32))
    return folder


def prune(blobs, output, method, *given):
    given = ("--dataset", blobs, "--method", method, "--embeddings", blobs / "vectors.npy", *given)
    said = run_here(main, *given, "--output", output).stdout
    return said, json.loads((output / "manifest.json").read_text())


def junk(manifest) -> int:
    return sum(int(pid) >= GROUPS * EACH for pid in manifest["kept"])


def test_the_guard_leaves_out_what_lies_alone_before_farthest_first_finds_it(blobs, tmp_path):
    _, bare = prune(blobs, tmp_path / "bare", "farthest", "--size", 12)
    said, guarded = prune(blobs, tmp_path / "guarded", "farthest", "--size", 12, "--drop_outliers", 0.05)
    assert junk(bare) == JUNK and junk(guarded) == 0
    reason = "an outlier: its 10th nearest neighbour is among the farthest 5 %"
    dropped = {int(pid) for pid, why in guarded["dropped"].items() if why == reason}
    assert dropped == set(range(GROUPS * EACH, GROUPS * EACH + JUNK))
    assert guarded["selection"]["outliers"] == JUNK and f"10  {reason}" in said
    assert sum(guarded["counts"].values()) == GROUPS * EACH + JUNK
    assert "byte for byte" in run_here(main, "--verify", tmp_path / "guarded").stdout


def test_farther_than_its_neighbours_is_by_distances_to_all_rows():
    from llava_mistral.pruning.clusters import outliers_of

    matrix = np.random.default_rng(1).standard_normal((200, 5)).astype(np.float32)
    distances = np.linalg.norm(matrix[:, None].astype(float) - matrix, axis=2)
    tenth = np.sort(distances, 1)[:, 10]
    assert outliers_of(matrix, 0.1, 0) == sorted(np.argsort(-tenth)[:20].tolist())


def test_the_first_pick_of_farthest_first_is_drawn_by_the_seed_and_recorded(blobs, tmp_path):
    starts = set()
    for seed in range(3):
        _, manifest = prune(blobs, tmp_path / str(seed), "farthest", "--size", 5, "--seed", seed)
        assert manifest["selection"]["start"] == manifest["kept"][0]
        starts.add(manifest["kept"][0])
    assert len(starts) == 3


def test_every_cluster_gives_the_same(blobs, tmp_path):
    _, manifest = prune(blobs, tmp_path / "a", "clusters", "--size", 20, "--clusters", 4, "--drop_outliers", 0.05)
    groups = [int(pid) // EACH for pid in manifest["kept"]]
    assert [groups.count(group) for group in range(GROUPS)] == [5] * GROUPS
    assert sorted(groups[:4]) == [0, 1, 2, 3]
    assert manifest["selection"]["clusters"] == 4 and manifest["selection"]["largest_cluster"] == EACH
    assert "byte for byte" in run_here(main, "--verify", tmp_path / "a").stdout
    _, other = prune(blobs, tmp_path / "b", "clusters", "--size", 20, "--clusters", 4, "--seed", 1)
    assert other["kept"] != manifest["kept"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--drop_outliers", 1), "--drop_outliers 1.0 is not a share from 0 to below 1"),
        (("--drop_outliers", -0.1), "is not a share"),
        (("--drop_outliers", 0.5, "--size", 106), "106 of 105 samples cannot be picked"),
        (("--clusters", 3), "--clusters has no effect with --method farthest, only with --method clusters"),
        (("--method", "clusters", "--clusters", 0), "--clusters 0 is below 1"),
        (("--method", "clusters", "--within", "skill"), "--within has no effect with --method clusters"),
        (("--method", "random", "--drop_outliers", 0.1), "only with --method farthest or clusters"),
    ],
)
def test_options_without_a_meaning_are_refused(blobs, tmp_path, given, says):
    whole = ("--dataset", blobs, "--method", "farthest", "--embeddings", blobs / "vectors.npy", "--size", 5)
    if "random" in given:
        whole = ("--dataset", blobs, "--size", 5)
    assert says in run_here(main, *whole, "--output", tmp_path / "out", *given, code=2).error
    assert not (tmp_path / "out").exists()
