"""A published model is asked 2,000 questions about pictures, 8 at a time and a tenth of them broken."""

import asyncio
import os
import random
from statistics import mean

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.publishing_runs import TOKEN, push
from tests.support.served import Offline, data_url, served
from tests.support.served_questions import (
    ANSWER_TOKENS,
    ASK,
    BAD,
    WORDS,
    ServedQuestion,
    ask_all,
    picture,
    shown,
    status,
    text_part,
    user,
)
from tests.support.tiny_llava import save_tiny_llava

QUESTIONS, BROKEN = 2000, 0.1


@pytest.fixture(scope="module")
def published(stage0, tmp_path_factory):
    """A Hub with the model on it, and its commit."""
    folder = tmp_path_factory.mktemp("published")
    with LocalHub(folder / "hub", token=TOKEN) as hub:
        said = push(hub, folder / "home", "model", stage0, "me/miniature", "--license", "apache-2.0", "--no_verify")
        yield hub, said.split(" published as ")[1].split()[0]


@pytest.fixture(scope="module")
def server(published, tmp_path_factory):
    hub, commit = published
    folder = tmp_path_factory.mktemp("server")
    environment = {**hub.environment(folder / "home"), "OMP_NUM_THREADS": "1"}
    with served(f"me/miniature@{commit}", folder, environment) as server:
        yield server


# What the server itself trips over before the model's processor sees it (transformers 5.23): its own 500.
SERVERS_OWN = {
    "no role": {"messages": [{"content": [ASK]}]},
    "a part without its content": {"messages": [user({"type": "image_url"})]},
    "messages that are text": {"messages": "hello"},
    "no messages at all": {},
}


@pytest.fixture(scope="module")
def asked(stage0) -> list[ServedQuestion]:
    """The questions in an order that a seed decides."""
    offline, draw = Offline(stage0, ANSWER_TOKENS), random.Random(8)
    good = []
    for index in range(120):
        pictures = [picture(index + more) for more in range(1 + (index % 10 == 0))]
        text = WORDS[index % len(WORDS)]
        parts = [*map(shown, map(data_url, pictures)), text_part(text)]
        good.append(ServedQuestion([user(*parts)], offline.answer(text, *pictures)))
    assert len({one.answer for one in good}) > 30, "the questions are told apart"
    bad = [ServedQuestion(messages, None, kind) for kind, messages in BAD.items()]
    broken = round(QUESTIONS * BROKEN)
    questions = [good[i % len(good)] for i in range(QUESTIONS - broken)] + [bad[i % len(bad)] for i in range(broken)]
    draw.shuffle(questions)
    return questions


@pytest.mark.slow
@pytest.mark.case("Q1", "survived")
def test_every_good_question_is_answered_as_offline_and_every_bad_one_refused(
    server, asked, by_itself, record_property, tmp_path
):
    record_property("tried", len(asked))
    answers, memory = asyncio.run(ask_all(server, asked))
    wrong = [
        (one, got) for one, got in zip(asked, answers, strict=True) if one.answer is not None and got != one.answer
    ]
    assert not wrong, f"{len(wrong)} answers differ, first {wrong[0]}"
    passed = {one.kind: got for one, got in zip(asked, answers, strict=True) if one.answer is None and got != 400}
    assert not passed, f"bad questions that were not refused: {passed}"
    second, last = (mean(memory[len(memory) * i // 4 : len(memory) * (i + 1) // 4]) for i in (1, 3))
    assert last <= 1.05 * second, f"the server grew from {second / 2**20:.0f} to {last / 2**20:.0f} MB"
    assert "Traceback" not in server.log.read_text()
    for kind, body in SERVERS_OWN.items():
        by_itself(f"transformers serve, {kind}", lambda body=body: f"answers {status(server, body)}")
    by_itself("transformers serve with a stock LLaVA", lambda: stock_answers(tmp_path))


def stock_answers(folder) -> str:
    """What becomes of the bad questions where the processor is the library's; an address it would fetch."""
    model = str(save_tiny_llava(folder / "stock"))
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    with served(model, folder, environment) as server:
        found = [status(server, {"messages": said}) for kind, said in BAD.items() if "address" not in kind]
    return "answers " + ", ".join(f"{code} to {found.count(code)}" for code in sorted(set(found)))
