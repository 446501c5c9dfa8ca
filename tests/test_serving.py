"""`transformers serve` knows the model from its folder alone and answers an OpenAI client about a picture."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.served import Offline, Served, data_url, served
from tests.support.served_questions import BAD, ServedQuestion, ask_all, status

QUESTION = "Which digit is written?"
ANSWER_TOKENS = 12


@pytest.fixture(scope="module")
def server(stage0, tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    with served(str(stage0), folder, {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}) as server:
        yield server


def streamed_answer(client, folder: Path, picture: Image.Image) -> list[str]:
    """The pieces of text in the order in which the server sent them; temperature 0 makes it decode greedily."""
    content = [
        {"type": "image_url", "image_url": {"url": data_url(picture)}},
        {"type": "text", "text": QUESTION},
    ]
    chunks = client.chat.completions.create(
        model=str(folder),
        messages=[{"role": "user", "content": content}],
        stream=True,
        temperature=0,
        max_tokens=ANSWER_TOKENS,
    )
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]


def test_a_streamed_answer_about_a_picture_is_the_one_that_generate_gives(server, stage0):
    """An OpenAI client of `transformers serve`, which finds class and modality of the model by its remote code."""
    from openai import OpenAI

    client = OpenAI(base_url=server.address, api_key="none", max_retries=0, timeout=60)
    pictures = [Image.new("RGB", (40, 24), colour) for colour in ((200, 10, 10), (10, 10, 200))]
    pieces = [streamed_answer(client, stage0, picture) for picture in pictures]
    answers = ["".join(answer) for answer in pieces]
    offline = Offline(stage0, ANSWER_TOKENS)
    assert answers == [offline.answer(QUESTION, picture) for picture in pictures]
    assert answers[0] != answers[1], "the picture reaches the model"
    assert all(len(answer) > 1 for answer in pieces), "an answer comes in pieces"


def test_a_bad_question_is_a_400_and_the_next_one_is_answered(server, stage0):
    picture = Image.new("RGB", (40, 24), (200, 10, 10))
    part = {"type": "image_url", "image_url": {"url": data_url(picture)}}
    question = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
    answer = Offline(stage0, 6).answer(QUESTION, picture)
    asked = [
        one for messages in BAD.values() for one in (ServedQuestion(messages, None), ServedQuestion(question, answer))
    ]
    answers, _ = asyncio.run(ask_all(server, asked))
    assert answers == [400 if one.answer is None else answer for one in asked]
    assert status(server, {"messages": question}) == 200
