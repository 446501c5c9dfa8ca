"""Words of strangers in the pages that runs leave: pruning, answers, samples, studies. Nothing of them is done."""

import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from llava_mistral.evaluation.study_report import study_page
from llava_mistral.ground import escaping
from tests.support.browser import dom, elements
from tests.support.hostile_words import HOSTILE
from tests.support.running import run_here
from tests.support.small_problems import save_problems

shows = pytest.mark.case


def poison(problems: dict, texts: list[str]) -> None:
    """Every word of a ScienceQA folder, one hostile text a question."""
    for problem, text in zip(problems.values(), texts, strict=True):
        problem |= {key: f"{text} {key}" for key in ("question", "hint", "lecture", "solution", "grade")}
        problem |= dict.fromkeys(("subject", "topic", "category", "skill"), text)
        problem["choices"] = [f"{text} one", f"{text} two"]


def pages_of_runs(folder: Path, texts: list[str]) -> dict[str, str]:
    """What prune, evaluate and training's samples show, of data and answers that are hostile in every word."""
    from llava_mistral.commands import evaluate, prune
    from llava_mistral.training.sample_answers import SampleAnswers

    data = save_problems(folder / "data", len(texts), change=lambda problems: poison(problems, texts))
    run_here(prune.main, "--dataset", data, "--method", "principles", "--size", 7, "--output", folder / "pruned")
    predictions = {"results": {str(i): i % 2 for i in range(len(texts))}, "outputs": dict(enumerate(texts))}
    (folder / "predictions.json").write_text(json.dumps(predictions))
    scored = ("--problems", data / "problems.json", "--predictions", folder / "predictions.json", "--split", "train")
    run_here(evaluate.main, *scored, "--output", folder / "scored")
    samples = object.__new__(SampleAnswers)
    samples.rows, samples.title = [{"images": []}] * len(texts), texts[0]
    words = [dict.fromkeys(("id", "question", "gold", "answer"), text) for text in texts]
    return {
        "pruned": (folder / "pruned" / "report.html").read_text(),
        "answers": (folder / "scored" / "answers.html").read_text(),
        "samples": samples.page({"step": 1, "eval_loss": 1.0, "samples": words}),
    }


@pytest.mark.slow
@shows("S33", "refused")
def test_a_browser_draws_the_words_of_data_and_answers_and_calls_nobody(tmp_path, listener):
    url, calls = listener
    made = pages_of_runs(tmp_path / "hostile", [text.replace("URL", url) for text in HOSTILE])
    plain = pages_of_runs(tmp_path / "plain", ["words"] * len(HOSTILE))
    for name, page in made.items():
        (tmp_path / f"{name}.html").write_text(page)
        seen = dom(tmp_path / f"{name}.html")
        drawn = elements(seen)
        assert {one[0] for one in drawn} <= {one[0] for one in elements(plain[name])} | {
            "body",
            "html",
            "head",
            "tbody",
        }, name
        assert not [one for one in drawn if re.search(r"127\.0\.0\.1|^on", " ".join(map(str, one[1:])))], name
        assert "<title>ran<" not in seen and "Content-Security-Policy" in page
        assert not calls, f"{name}: {calls}"


@pytest.mark.parametrize("text", HOSTILE)
@shows("S32", "refused")
def test_the_page_of_a_study_keeps_its_shape_whatever_it_is_called(text):
    assert escaping.markdown(text) in study_page(named_study(text)).replace("\n", " ")
    plain = MarkdownIt("commonmark", {"html": True}).enable("table").parse(study_page(named_study("words")))
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(study_page(named_study(text)))
    assert [token.type for token in found] == [token.type for token in plain]
    kinds = [child.type for token in found for child in token.children or ()]
    assert not {"html_inline", "link_open"} & {*kinds} and kinds.count("image") == 1


def named_study(text: str) -> dict:
    """The record of a study without a row, called `text`."""
    return {"title": text, "models": {}, "chance": {}, "questions": {}, "seeds": 1, "answers_kept": True, "pairs": []}
