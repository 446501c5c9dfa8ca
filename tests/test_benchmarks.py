"""What the benchmarks promise that can be checked in seconds."""

import json

import pytest

from tests.running import HOME, run_apart
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
