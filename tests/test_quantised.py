"""Quantised by the library's own `quantization_config`, saved and opened again, the model answers nearly as before:
`make engines`, after `make demo`. The libraries are put beside this project's own by pip, once."""

import pytest

from llava_mistral.data.problem import question_text
from llava_mistral.data.scienceqa import read_problems
from llava_mistral.evaluation.statistics import paired_difference
from tests.support.engine_chats import shown_in, trained_miniature
from tests.support.engine_environments import QUANTISERS, ask_beside_ours
from tests.support.engine_record import record
from tests.support.running import HOME
from tests.support.served_questions import text_part, user

ASKED = 60
KINDS = ("torchao int8", "torchao float8", "bitsandbytes int8", "bitsandbytes nf4", "quanto int8")
LIBRARIES = {library.split("==")[0]: library.replace("==", " ") for library in QUANTISERS}

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def problems() -> list:
    test = read_problems(trained_miniature() / "digitsqa", split="test")
    return [one for one in test if one.has_image][:ASKED]


@pytest.fixture(scope="module")
def answers(problems, tmp_path_factory) -> dict[str, dict]:
    """What the trained miniature answers, whole and quantised, to the same questions about pictures."""
    folder = tmp_path_factory.mktemp("quantised")
    chats = [[user(shown_in(one), text_part(question_text(one)))] for one in problems]
    request = {"home": str(HOME), "model": str(trained_miniature() / "stage2"), "chats": chats}
    return ask_beside_ours("quantised", request | {"kinds": ["float32", *KINDS], "saved": str(folder)}, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_is_saved_and_opened_and_answers_nearly_as_before(kind, answers, problems):
    said, whole = answers[kind], answers["float32"]
    assert "error" not in said, said
    name, _, bits = kind.partition(" ")
    assert {"quanto": "optimum"}.get(name, name) in said["of"], "nothing is quantised"
    if name != "quanto":
        assert said["same"], "what was saved answers otherwise"
        assert said["bytes"] < 0.6 * (trained_miniature() / "stage2" / "model.safetensors").stat().st_size
    right, right_here = (
        [one["text"].strip()[:1] == "ABCDEFGHIJ"[problem.answer] for one, problem in zip(found, problems, strict=True)]
        for found in (said["answers"], whole["answers"])
    )
    found = paired_difference(right_here, right)
    gap = f"{100 * found.difference:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    same = sum(one["ids"] == two["ids"] for one, two in zip(said["answers"], whole["answers"], strict=True))
    record(
        LIBRARIES[{"quanto": "optimum-quanto"}.get(name, name)], bits, ASKED, same, sum(right), sum(right_here), gap
    )
    assert found.high > -0.05 and found.difference > -0.15
