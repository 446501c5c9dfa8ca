"""`transformers serve` of one model on a free port of this machine, with what the plugin adds to it."""

import base64
import io
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from transformers.utils.import_utils import is_serve_available

START_SECONDS = 120


@dataclass
class Served:
    """Where it answers, what the model is called there, its process, and the file it writes to."""

    address: str
    model: str
    pid: int
    log: Path


@contextmanager
def served(model: str, folder: Path, environment: dict[str, str]) -> Iterator[Served]:
    """Serve a folder or a Hub id.

    Args:
        folder: where the server works and writes its log.
    """
    if not is_serve_available():
        pytest.skip("`transformers serve` needs packages that are not here: pip install '.[serving]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--trust-remote-code", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command = [sys.executable, "-m", "processing.serving", model, *options]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_it_answers(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield Served(f"http://127.0.0.1:{port}/v1", model, process.pid, folder / "log")
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


class Offline:
    """The same checkpoint in this process: what it answers, greedily and one question at a time."""

    def __init__(self, folder: Path, max_new_tokens: int):
        from modeling_llava_mistral import LlavaMistralForConditionalGeneration
        from processing import LlavaMistralProcessor

        self.processor = LlavaMistralProcessor.from_pretrained(folder)
        self.model = LlavaMistralForConditionalGeneration.from_pretrained(folder).eval()
        self.max_new_tokens = max_new_tokens

    def answer(self, question: str, *pictures: Image.Image) -> str:
        content = [{"type": "image", "image": picture} for picture in pictures] + [{"type": "text", "text": question}]
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = self.processor.apply_chat_template([{"role": "user", "content": content}], **options)
        output = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        return self.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
