"""`transformers serve` knows the model from its folder alone and answers an OpenAI client about a picture."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from transformers.utils.import_utils import is_serve_available

QUESTION = "Which digit is written?"
ANSWER_TOKENS = 12
START_SECONDS = 120


@pytest.fixture(scope="module")
def server(stage0, tmp_path_factory) -> Iterator[str]:
    """The address of a server of the checkpoint on a free port of this machine, which has never seen our package."""
    if not is_serve_available():
        pytest.skip("`transformers serve` needs packages that are not here: pip install '.[serving]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    options = ["--trust-remote-code", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(stage0), *options]
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_it_answers(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(process: subprocess.Popen, address: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"the server did not answer within {START_SECONDS} seconds:\n{log.read_text()[-3000:]}")


def data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def offline_answer(folder: Path, picture: Image.Image) -> str:
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    processor = LlavaMistralProcessor.from_pretrained(folder)
    model = LlavaMistralForConditionalGeneration.from_pretrained(folder).eval()
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


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

    client = OpenAI(base_url=server, api_key="none", max_retries=0, timeout=60)
    pictures = [Image.new("RGB", (40, 24), colour) for colour in ((200, 10, 10), (10, 10, 200))]
    pieces = [streamed_answer(client, stage0, picture) for picture in pictures]
    answers = ["".join(answer) for answer in pieces]
    assert answers == [offline_answer(stage0, picture) for picture in pictures]
    assert answers[0] != answers[1], "the picture reaches the model"
    assert all(len(answer) > 1 for answer in pieces), "an answer comes in pieces"
