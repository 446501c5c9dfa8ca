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
