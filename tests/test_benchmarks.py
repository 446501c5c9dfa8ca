"""What the benchmarks promise that can be checked in seconds."""

import json

import pytest

from tests.support.running import HOME, run_apart
from tests.support.tiny_components import TEXT
from tests.support.tiny_plugin import tiny_model

RESULTS = HOME / "benchmarks" / "results"


def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    """At most 1.1 times: no weight is copied, nor checked by way of a second tensor of its size."""
    model = tiny_model(text_config={"model_type": "mistral", "vocab_size": 500_000, **TEXT})
    weights = sum(weight.nbytes for weight in model.parameters())
    assert weights > 120e6
    model.save_pretrained(tmp_path)
    done = run_apart("benchmarks/model.py", "--load", tmp_path)
    assert weights < json.loads(done.stdout.splitlines()[-1])["peak_bytes"] < 1.1 * weights


@pytest.mark.parametrize("name", ["evaluation", "model", "packing", "selection", "vision_cache"])
def test_a_rehearsal_leaves_the_committed_figures_alone(name):
    """By the one place that every benchmark writes to, and by what git is told to leave out."""
    from benchmarks.result_files import result_file

    assert result_file(f"{name}.json", quick=True).parent == RESULTS / "quick"
    assert result_file(f"{name}.json", quick=False).parent == RESULTS
    code = (HOME / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    assert f'result_file("{name}.json", ' in code and '/ "results"' not in code
    assert "benchmarks/results/quick/" in (HOME / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("rounds", ["1", "0", "-3"])
def test_too_few_rounds_for_a_median_are_refused(rounds):
    done = run_apart("benchmarks/model.py", "--rounds", rounds, code=2)
    assert f"--rounds {rounds} is too few for a median; give 10 or more" in done.error


def test_the_backbones_are_compared_line_for_line_without_a_gpu_and_nothing_is_written():
    before = sorted(RESULTS.iterdir())
    done = run_apart("benchmarks/backbones_gpu.py", "--size", "tiny", "--rounds", "3", "--batch_sizes", "1", "2")
    result = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert set(result) == {"prefill", "decode", "training", "memory"}
    assert all(result[name] > 0 for name in ("prefill", "decode", "training"))
    assert sorted(RESULTS.iterdir()) == before


@pytest.mark.slow
def test_the_gpu_benchmark_measures_the_published_shapes():
    import torch

    from benchmarks.train_gpu import SIZES
    from benchmarks.training_arms import model_config, random_model
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from tests.support.recipe_sizes import WHOLE, size

    class Tokenizer:
        def __len__(self):
            return 32002

        def convert_tokens_to_ids(self, token):
            return 32000

    config = model_config(SIZES["7b"], Tokenizer())
    model = random_model(LlavaMistralForConditionalGeneration, config, torch.device("meta"))
    assert size(model) == WHOLE["mistral"]


@pytest.mark.parametrize("name", ["train_gpu", "backbones_gpu"])
def test_without_a_gpu_the_full_size_is_refused_and_nothing_is_written(name):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = sorted(RESULTS.iterdir())
    done = run_apart(f"benchmarks/{name}.py", code=2)
    assert done.error == f"{name}.py: there is no GPU, so nothing is measured; run it where there is one"
    assert sorted(RESULTS.iterdir()) == before


def test_the_page_on_pruning_says_what_the_selection_benchmark_wrote():
    from benchmarks.selection import PAGE, as_markdown, put_into

    result = json.loads((HOME / "benchmarks/results/selection.json").read_text())
    page = PAGE.read_text(encoding="utf-8")
    assert put_into(page, as_markdown(result)) == page
    assert put_into(page, "other") != page


def test_the_selection_benchmark_keeps_what_was_demanded_of_it():
    """Of the committed run, on the machine that made it."""
    result = json.loads((HOME / "benchmarks/results/selection.json").read_text())
    assert not result["made_by"]["quick"]
    assert result["small"] >= 1.5 and result["large"] >= 4 and result["slope"] <= 1.05
    assert result["rss_over_file_mb"] <= 400
    assert all(result["runs"][case]["identical_picks"] for case in ("small", "large"))
    assert result["runs"]["large"]["ours_in_less_memory"]["peak_rss_mb"] * 2**20 <= 10**9


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
