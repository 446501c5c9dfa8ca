"""What the benchmarks promise that can be checked in seconds."""

import json

import pytest

from tests.running import HOME, run_apart
from tests.test_modeling_llava_mistral import tiny_model
from tests.tiny_components import TEXT


def gpu() -> bool:
    import torch

    return torch.cuda.is_available()


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


def test_the_backbones_are_compared_line_for_line_without_a_gpu_and_nothing_is_written():
    file = HOME / "benchmarks" / "results" / "backbones_gpu.json"
    before = file.read_bytes() if file.is_file() else None
    done = run_apart("benchmarks/backbones_gpu.py", "--size", "tiny", "--rounds", "3", "--batch_sizes", "1", "2")
    result = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert set(result) == {"prefill", "decode", "training", "memory"}
    assert all(result[name] > 0 for name in ("prefill", "decode", "training"))
    assert (file.read_bytes() if file.is_file() else None) == before


@pytest.mark.skipif(gpu(), reason="this machine has a GPU, so the benchmark would run")
def test_a_benchmark_of_a_gpu_says_that_there_is_none():
    done = run_apart("benchmarks/backbones_gpu.py", code=2)
    assert "there is no GPU; run on a machine with one" in done.error
