"""What the benchmarks promise that can be checked in seconds."""

import json

import pytest

from tests.running import run_apart
from tests.test_modeling_llava_mistral import tiny_model
from tests.tiny_components import TEXT


def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    """At most 1.1 times: no weight is copied, nor checked by way of a second tensor of its size."""
    model = tiny_model(text_config={"model_type": "mistral", "vocab_size": 500_000, **TEXT})
    weights = sum(weight.nbytes for weight in model.parameters())
    assert weights > 120e6
    model.save_pretrained(tmp_path)
    done = run_apart("benchmarks/model.py", "--load", tmp_path)
    assert weights < json.loads(done.stdout.splitlines()[-1])["peak_bytes"] < 1.1 * weights


@pytest.mark.parametrize("rounds", ["1", "0", "-3"])
def test_too_few_rounds_for_a_median_are_refused(rounds):
    done = run_apart("benchmarks/model.py", "--rounds", rounds, code=2)
    assert f"--rounds {rounds} is too few for a median; give 10 or more" in done.error


def test_one_epoch_of_pictures_is_nothing_to_store():
    done = run_apart("benchmarks/vision_cache.py", "--epochs", "1", code=2)
    assert "nothing is read twice in less than two epochs and one round; give --epochs 2 or more" in done.error


@pytest.mark.slow
def test_the_runs_whose_times_are_compared_have_equal_losses(tmp_path):
    from argparse import Namespace

    from benchmarks.vision_cache import measure

    result = measure(Namespace(quick=True, epochs=2, rounds=1), tmp_path)
    assert result["same_losses"] and result["stored_mb"] > 1
    assert 0.5 < result["shares"]["tower_gflop"] / result["shares"]["text_gflop"] < 2, "one costs what the other does"
