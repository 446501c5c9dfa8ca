"""The whole way, on real input: `make demo`'s study, run from nothing, keeps what the project promises of it."""

import json

import pytest

from tests.running import run_apart

READ = "Read a written digit"


@pytest.mark.slow
def test_the_miniature_study_sees(tmp_path):
    out = tmp_path / "miniature"
    command = ("reproduce_study.py", "--config", "recipes/miniature/study.yaml", "--output", out)
    said = run_apart(*command, HF_HUB_OFFLINE="0").stdout
    assert "logits equal bit for bit (text and image prompt)" in said and "the pipeline answers" in said

    real, blank = (
        json.loads((out / "results" / name / "summary.json").read_text()) for name in ("stage2", "stage2/blank")
    )
    assert real["skills"][READ]["accuracy"] >= 90  # chance is 10
    assert blank["skills"][READ]["accuracy"] <= 20
    manifest = json.loads((out / "digitsqa-pruned" / "manifest.json").read_text())
    problems = json.loads((out / "digitsqa" / "problems.json").read_text())
    train = [pid for pid, problem in problems.items() if problem["split"] == "train"]
    assert len(manifest["kept"]) * 6 <= len(train)
    assert (out / "result.png").stat().st_size > 10_000
    assert "every step is done" in run_apart(*command).stdout
