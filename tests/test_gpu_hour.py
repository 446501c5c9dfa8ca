"""`make gpu` where there is no GPU: each of its parts at a tiny size."""

import json
import re

import pytest

from tests.support.running import HOME, run_apart

NAMED = """environment attention resume cache lora qlora full_bfloat16 generation compiled
    train_stage1 train_lora train_full tower evaluation backbones selection"""


def test_the_hour_on_a_gpu_keeps_what_is_there_and_goes_on_after_a_failure(tmp_path, monkeypatch):
    """Parts that are run once, one that fails, and one that had failed before."""
    from benchmarks import gpu_hour

    ran, fails = [], {"second"}

    def part(name):
        def run(options):
            ran.append(name)
            if name in fails:
                raise RuntimeError(f"{name} is broken")
            return {"name": name}

        return run

    monkeypatch.setattr(gpu_hour, "PARTS", {name: part(name) for name in ("first", "second", "third")})
    words = ["gpu_hour.py", "--size", "tiny", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    assert gpu_hour.main() == 1 and ran == ["first", "second", "third"]
    assert "second is broken" in json.loads((tmp_path / "2_second.json").read_text())["traceback"]
    third = json.loads((tmp_path / "3_third.json").read_text())
    assert third["result"] == {"name": "third"} and third["device"] and third["versions"]["torch"]
    fails.clear()
    assert gpu_hour.main() == 0 and ran == ["first", "second", "third", "second"]
    monkeypatch.setattr("sys.argv", [*words, "--part", "1"])
    (tmp_path / "1_first.json").unlink()
    assert gpu_hour.main() == 0 and ran[4:] == ["first"]
    (tmp_path / "1_first.json").write_text(json.dumps({"result": {"left_out": "a library is absent"}}))
    assert gpu_hour.main() == 0 and ran[5:] == ["first"], "it may be there now"


def test_all_parts_are_there_and_make_installs_what_they_need():
    from benchmarks.gpu_hour import PARTS

    assert list(PARTS) == NAMED.split()
    target = re.search(r"^gpu:.*?(?=^\S)", (HOME / "Makefile").read_text(), re.M | re.S)[0]
    assert "'.[dev,qlora,eight_bit]'" in target
    extras = (HOME / "pyproject.toml").read_text()
    assert 'qlora = ["bitsandbytes"]' in extras and 'eight_bit = ["torchao"]' in extras


@pytest.mark.parametrize("name", ["environment", "attention", "qlora", "generation", "tower", "selection"])
def test_a_part_that_trains_nothing_runs_on_a_cpu(name, tmp_path):
    from benchmarks.gpu_parts import PARTS, Bench

    found = PARTS[name](Bench(tmp_path, "tiny"))
    assert json.loads(json.dumps(found)) and ("left_out" in found) == (name == "qlora")


@pytest.mark.slow
def test_the_parts_that_train_or_ask_run_on_a_cpu():
    """In a process of their own: determinism is switched on for all of it."""
    names = ["resume", "cache", "lora", "full_bfloat16", "compiled", "evaluation"]
    done = run_apart("benchmarks/gpu_parts.py", *names, "--size", "tiny", timeout=1500)
    found = [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line[:6] == "RESULT"]
    results = dict(zip(names, found, strict=True))
    assert results["resume"]["equal"] and results["cache"]["equal"] and results["evaluation"]["same_answers"]
    assert results["compiled"]["graphs"] <= 3


@pytest.mark.parametrize(
    "kind", ["lora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("stage1", "full"))]
)
def test_the_gpu_benchmark_runs_every_line_at_a_tiny_size(kind, tmp_path):
    """Which checks by itself that all arms see the same steps, and the equal ones the same micro-batches."""
    file = tmp_path / "made" / "train_gpu.json"
    done = run_apart("benchmarks/train_gpu.py", "--size", "tiny", "--kind", kind, "--output", file)
    result = json.loads(file.read_text())
    said = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert said == {name: result[name] for name in said} and {kind, f"{kind}_mfu", f"{kind}_equal"} <= said.keys()
    runs = {name.removeprefix(f"{kind}_"): figures for name, figures in result["runs"].items()}
    left_out = runs.pop("ours_bfloat16", {})
    assert set(runs) == {"ours", "ours_equal", "stock", "stock_checkpointing"} and "mfu" not in left_out
    for figures in runs.values():
        assert figures["steps"] == 3 and figures["samples_per_second"] > 0 and 0 < figures["mfu"] < 1
        assert figures["first_loss"] == pytest.approx(runs["stock"]["first_loss"], rel=1e-3), "the same is learned"
    assert runs["stock_checkpointing"]["checkpointing"] and not runs["stock"]["checkpointing"]


def test_arms_that_see_other_samples_or_micro_batches_give_no_figure():
    from benchmarks.train_gpu import check_equal

    one, other = {"samples": [2, 2], "image_tokens": [32]}, {"samples": [4], "image_tokens": [32]}
    check_equal("lora", {"ours": other, "ours_equal": one, "stock": one, "ours_bfloat16": None})
    with pytest.raises(AssertionError, match="micro-batches differ"):
        check_equal("lora", {"ours": one, "ours_equal": one, "stock": other})
    with pytest.raises(AssertionError, match="of other samples"):
        check_equal("lora", {"ours": {**one, "image_tokens": [16]}, "stock": one})
