"""The whole way, on real input: `make demo`'s study, run from nothing, keeps what the project promises of it."""

import json

import pytest

from tests.support.running import run_apart

READ = "Read a written digit"


COMMAND = ("-m", "llava_mistral", "study", "--config", "miniature/study", "--output")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study's folder and what it printed."""
    out = tmp_path_factory.mktemp("study") / "miniature"
    return out, run_apart(*COMMAND, out, HF_HUB_OFFLINE="0", timeout=1500).stdout


@pytest.mark.slow
def test_the_miniature_study_sees(study):
    out, said = study
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
    assert "every step is done" in run_apart(*COMMAND, out).stdout


@pytest.mark.slow
def test_a_model_tells_needed_pictures_from_decorative_ones(study, tmp_path):
    """By what it answers with and without the picture, of the training questions that it was not trained on."""
    from sklearn.metrics import roc_auc_score

    from llava_mistral.data.scienceqa import read_problems
    from llava_mistral.pruning.model_evidence import ModelEvidence, pooled_gains
    from llava_mistral.pruning.principles import score

    out, _ = study
    given = ("--dataset", out / "digitsqa", "--method", "principles", "--size", 300, "--scorer", out / "stage2")
    run_apart("-m", "llava_mistral", "prune", *given, "--output", tmp_path / "asked", timeout=1500)
    real, blank = (
        {row["pid"]: row["letters"] for row in map(json.loads, path.read_text().splitlines()[1:])}
        for path in (tmp_path / "asked.scores" / name for name in ("predictions.jsonl", "blank/predictions.jsonl"))
    )
    problems = read_problems(out / "digitsqa", split="train")
    pictured = [problem for problem in problems if problem.has_image]
    assert {problem.pid for problem in pictured} == set(real) == set(blank)
    asked = {p.pid: ModelEvidence(real[p.pid][p.answer], blank[p.pid][p.answer]) for p in pictured}
    trained = set(json.loads((out / "digitsqa-pruned" / "manifest.json").read_text())["kept"])
    judged = [problem for problem in pictured if problem.pid not in trained]
    truth = [problem.image_needed for problem in judged]
    gains = pooled_gains(judged, asked)
    auc = roc_auc_score(truth, [gains[problem.pid] for problem in judged])
    assert auc >= 0.95
    scores = dict(zip([problem.pid for problem in problems], score(problems, asked), strict=True))
    assert roc_auc_score(truth, [scores[problem.pid].necessity for problem in judged]) >= 0.95
