"""A published model is asked 2,000 questions about pictures, 8 at a time and a tenth of them broken."""

import asyncio
import base64
import json
import os
import random
import urllib.error
import urllib.request
from dataclasses import dataclass
from statistics import mean

import psutil
import pytest
from PIL import Image

from llava_mistral.local_hub import LocalHub
from tests.support.served import Offline, data_url, served
from tests.support.tiny_llava import save_tiny_llava
from tests.test_push_to_hub import TOKEN, push

QUESTIONS, AT_ONCE, BROKEN = 2000, 8, 0.1
ANSWER_TOKENS = 6
WORDS = ("Which digit is written?", "What is 2 + 2?", "Context: The leaf shows the digit seven. Which is next?")


@dataclass
class Asked:
    """A request's messages, and the answer that `generate` gives; None where there is none to give."""

    messages: list[dict]
    answer: str | None
    kind: str = "good"


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


def picture(index: int) -> Image.Image:
    """Of another size and content for each index."""
    ramp = Image.linear_gradient("L").resize((24 + index % 7 * 9, 20 + index % 5 * 11))
    return Image.merge(
        "RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_180), ramp.point(lambda x: 37 * index % 256))
    )


def shown(address: str) -> dict:
    return {"type": "image_url", "image_url": {"url": address}}


def said(text: str) -> dict:
    return {"type": "text", "text": text}


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


PNG = data_url(picture(1))
ASK = said(WORDS[0])
BAD = {
    "a picture without bytes": [user(shown("data:image/png;base64,"), ASK)],
    "a picture that is no base64": [user(shown("data:image/png;base64,@@@@"), ASK)],
    "a picture cut short": [user(shown(PNG[: len(PNG) // 2 // 4 * 4]), ASK)],
    "a web page for a picture": [user(shown("data:image/png;base64," + base64.b64encode(b"<html>").decode()), ASK)],
    "an address for a picture": [user(shown("https://huggingface.co/front/assets/logo.png"), ASK)],
    "a file of the server's": [user(shown("/etc/passwd"), ASK)],
    "a file of the server's, by its scheme": [user(shown("file:///etc/passwd"), ASK)],
    "an unknown role": [{"role": "critic", "content": [ASK]}],
    "a system message that is not first": [user(ASK), {"role": "system", "content": [ASK]}],
    "a picture where no token stands for it": [{"role": "system", "content": [shown(PNG)]}, user(ASK)],
    "text beyond the context": [user(shown(PNG), said("zero " * 5000))],
    "no messages": [],
}
# What the server itself trips over before the model's processor sees it (transformers 5.23): its own 500.
SERVERS_OWN = {
    "no role": {"messages": [{"content": [ASK]}]},
    "a part without its content": {"messages": [user({"type": "image_url"})]},
    "messages that are text": {"messages": "hello"},
    "no messages at all": {},
}


@pytest.fixture(scope="module")
def asked(stage0) -> list[Asked]:
    """The questions in an order that a seed decides."""
    offline, draw = Offline(stage0, ANSWER_TOKENS), random.Random(8)
    good = []
    for index in range(120):
        pictures = [picture(index + more) for more in range(1 + (index % 10 == 0))]
        text = WORDS[index % len(WORDS)]
        parts = [*map(shown, map(data_url, pictures)), said(text)]
        good.append(Asked([user(*parts)], offline.answer(text, *pictures)))
    assert len({one.answer for one in good}) > 30, "the questions are told apart"
    bad = [Asked(messages, None, kind) for kind, messages in BAD.items()]
    broken = round(QUESTIONS * BROKEN)
    questions = [good[i % len(good)] for i in range(QUESTIONS - broken)] + [bad[i % len(bad)] for i in range(broken)]
    draw.shuffle(questions)
    return questions


async def ask_all(server, asked: list[Asked]) -> tuple[list, list[int]]:
    """What came back for each (the answer, or the status), and the server's memory after each, in order of return."""
    from openai import APIStatusError, AsyncOpenAI

    process, slots = psutil.Process(server.pid), asyncio.Semaphore(AT_ONCE)
    answers, memory = [None] * len(asked), []

    async def ask(client, index: int) -> None:
        async with slots:
            try:
                made = await client.chat.completions.create(
                    model=server.model, messages=asked[index].messages, temperature=0, max_tokens=ANSWER_TOKENS
                )
                answers[index] = made.choices[0].message.content
            except APIStatusError as error:
                answers[index] = error.status_code
            memory.append(process.memory_info().rss)

    async with AsyncOpenAI(base_url=server.address, api_key="none", max_retries=0, timeout=60) as client:
        await asyncio.gather(*(ask(client, index) for index in range(len(asked))))
    return answers, memory


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


def status(server, body: dict) -> int:
    request = urllib.request.Request(
        f"{server.address}/chat/completions",
        json.dumps({"model": server.model, **body}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def stock_answers(folder) -> str:
    """What becomes of the bad questions where the processor is the library's; an address it would fetch."""
    model = str(save_tiny_llava(folder / "stock"))
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    with served(model, folder, environment) as server:
        found = [status(server, {"messages": said}) for kind, said in BAD.items() if "address" not in kind]
    return "answers " + ", ".join(f"{code} to {found.count(code)}" for code in sorted(set(found)))
