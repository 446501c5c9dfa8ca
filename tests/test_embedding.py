"""Vectors come from a CLIP-like model, do not depend on the batch, and are resumed where the work stopped."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.pruning import embedding
from llava_mistral.pruning.embedding import embed, flat_map
from llava_mistral.pruning.samples import read_samples
from llava_mistral.pruning.workers import Processes
from tests.support.tiny_components import save_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(save_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture
def samples(tmp_path):
    """Five problems, the last without a picture."""
    problems = {}
    for i in range(5):
        problem = {"question": f"what is {'abcde'[i]}?", "choices": ["x", "y"], "answer": 0, "split": "train"}
        problems[str(i)] = problem | {"image": "image.png" if i < 4 else None}
        if i < 4:
            (tmp_path / f"images/train/{i}").mkdir(parents=True)
            Image.new("RGB", (20, 20), (60 * i, 0, 255 - 60 * i)).save(tmp_path / f"images/train/{i}/image.png")
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    return read_samples(tmp_path)


def test_a_vector_is_the_unit_image_beside_the_unit_text(samples, clip):
    vectors = embed(samples, clip)
    assert vectors.shape == (5, 16) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors[:, 8:], axis=1) == pytest.approx(1)
    assert np.linalg.norm(vectors[:4, :8], axis=1) == pytest.approx(1)
    assert (vectors[4, :8] == 0).all()
    assert len(np.unique(vectors.round(4), axis=0)) == 5


def test_vectors_do_not_depend_on_the_batch(samples, clip):
    assert embed(samples, clip, batch=2) == pytest.approx(embed(samples, clip, batch=5), abs=1e-5)


def test_a_llava_checkpoint_gives_the_mean_of_its_last_hidden_states(samples, tmp_path):
    from tests.support.tiny_llava import save_tiny_llava

    folder = str(save_tiny_llava(tmp_path / "llava"))
    vectors = embed(samples, folder, batch=5)
    assert vectors.shape == (5, 32) and np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert embed(samples, folder, batch=1) == pytest.approx(vectors, abs=1e-5)  # padding has no say
    assert np.abs(vectors[0] - vectors[4]).max() > 0.01


def test_a_checkpoint_of_ours_gives_vectors_that_do_not_depend_on_the_batch(samples, stage0):
    vectors = embed(samples, str(stage0), batch=5)
    assert vectors.shape == (5, 32) and np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert embed(samples, str(stage0), batch=2) == pytest.approx(vectors, abs=1e-5)
    assert len(np.unique(vectors.round(4), axis=0)) == 5


def test_interrupted_work_goes_on_where_it_stopped(samples, clip, tmp_path, monkeypatch):
    path, filled = tmp_path / "vectors.npy", []
    expected, real = embed(samples, clip, batch=1), embedding._fill

    def fill(vectors, samples, embedder, batch, indices):
        if len(filled) == 1:
            raise KeyboardInterrupt
        filled.append(indices)
        real(vectors, samples, embedder, batch, indices)

    monkeypatch.setattr(embedding, "WRITE_EVERY", 2)
    monkeypatch.setattr(embedding, "_fill", fill)
    with pytest.raises(KeyboardInterrupt):
        embed(samples, clip, path, batch=1)
    assert not path.exists()
    filled.append("resumed")
    assert embed(samples, clip, path, batch=1) == pytest.approx(expected, abs=1e-6)
    assert [list(indices) for indices in filled if indices != "resumed"] == [[0, 1], [2, 3], [4]]
    assert [found.name for found in tmp_path.glob("vectors*")] == ["vectors.npy"]


def test_the_shares_of_several_processes_are_put_together_in_order(samples, clip, tmp_path):
    import threading

    path, barrier, found = tmp_path / "vectors.npy", threading.Barrier(3), [None] * 3

    def play(rank: int) -> None:
        one = Processes(rank, 3, lambda value: [barrier.wait() and value])
        found[rank] = embed(samples, clip, path, batch=2, processes=one)

    players = [threading.Thread(target=play, args=(rank,)) for rank in range(3)]
    for player in players:
        player.start()
    for player in players:
        player.join(timeout=60)
    expected = embed(samples, clip)
    assert all(vectors == pytest.approx(expected, abs=1e-5) for vectors in found)
    assert [left.name for left in tmp_path.glob("vectors*")] == ["vectors.npy"]
    with pytest.raises(BadInput, match="field embeddings: is missing for 3 processes"):
        embed(samples, clip, processes=Processes(0, 3))


def test_a_model_that_is_no_clip_is_refused(samples, tmp_path):
    from transformers import BertConfig, BertModel

    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="name a CLIP-like model or a LLaVA checkpoint"):
        embed(samples, str(tmp_path / "empty"))
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8}
    BertModel(BertConfig(**small, intermediate_size=8)).save_pretrained(tmp_path / "bert")
    with pytest.raises(BadInput, match="name a CLIP-like model or a LLaVA checkpoint"):
        embed(samples, str(tmp_path / "bert"))


def test_an_embedder_without_all_of_its_weights_is_refused(samples, clip, tmp_path):
    """The library makes up what is missing, and distances of made-up features are no error anybody would see."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(clip, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="lacks 1 weights, the first of them visual_projection.weight"):
        embed(samples, str(folder))


def test_the_map_shows_the_two_directions_of_most_spread():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((500, 10)) * np.array([9, 5, *[0.1] * 8])
    points = flat_map(matrix.astype(np.float32))
    assert np.abs(np.corrcoef(points[:, 0], matrix[:, 0])[0, 1]) > 0.999
    assert np.abs(np.corrcoef(points[:, 1], matrix[:, 1])[0, 1]) > 0.99
    assert flat_map(np.ones((3, 1), np.float32)).shape == (3, 2)
