"""Records of two pictures in a folder, and turns to make them of."""

import json
import random
from pathlib import Path

from tests.support.data_forms import random_picture

ASK, TELL = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}
IMAGE = {"type": "image"}
TURNS = {"prompt": [{"role": "user", "content": "What?"}], "completion": [{"role": "assistant", "content": "It."}]}


def lines(folder: Path, *records: dict) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        (folder / "images" / name).write_bytes(random_picture(random.Random(name)))
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "data.jsonl"


def plain(**fields) -> dict:
    return {"question": "q", "answer": "B"} | fields


def marked(**marks) -> dict:
    """A question and its answer, whose turn has these keys besides."""
    return {"messages": [*TURNS["prompt"], TURNS["completion"][0] | marks]}


def indexed(*numbers: int) -> dict:
    """A question about pictures that are named by their numbers."""
    parts = [IMAGE | {"index": number} for number in numbers]
    return {"messages": [{"role": "user", "content": parts}, *TURNS["completion"]], "images": ["a.png", "b.png"]}
