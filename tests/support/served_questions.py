"""Questions to a served model, good and bad, and what came back."""

import asyncio
import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass

import psutil
from PIL import Image

from tests.support.served import data_url

AT_ONCE = 8
ANSWER_TOKENS = 6
WORDS = ("Which digit is written?", "What is 2 + 2?", "Context: The leaf shows the digit seven. Which is next?")


@dataclass
class ServedQuestion:
    """A request's messages, and the answer that `generate` gives; None where there is none to give."""

    messages: list[dict]
    answer: str | None
    kind: str = "good"


def picture(index: int) -> Image.Image:
    """Of another size and content for each index."""
    ramp = Image.linear_gradient("L").resize((24 + index % 7 * 9, 20 + index % 5 * 11))
    return Image.merge(
        "RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_180), ramp.point(lambda x: 37 * index % 256))
    )


def shown(address: str) -> dict:
    return {"type": "image_url", "image_url": {"url": address}}


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


PNG = data_url(picture(1))
ASK = text_part(WORDS[0])
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
    "text beyond the context": [user(shown(PNG), text_part("zero " * 5000))],
    "no messages": [],
}


async def ask_all(server, asked: list[ServedQuestion]) -> tuple[list, list[int]]:
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
