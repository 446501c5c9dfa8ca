"""Twenty chats of every kind about DigitsQA's held-out questions, and what `generate` answers to them."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_mistral.data.problem import Problem, question_text
from llava_mistral.data.scienceqa import read_problems
from tests.support.running import HOME
from tests.support.served import data_url
from tests.support.served_questions import shown, text_part, user

NEW_TOKENS = 16
CONTEXT = 320


def trained_miniature() -> Path:
    """The folder of `make demo`'s study; skips where it was not run."""
    study = HOME / "outputs" / "miniature"
    if not (study / "stage2" / "config.json").is_file():
        pytest.skip("outputs/miniature is not here: run `make demo`")
    return study


def chats(data: Path) -> list[list[dict[str, Any]]]:
    """Chats in OpenAI's form, pictures as data URLs: by letter, free, of text alone, with two pictures, of two turns,
    with control tokens in somebody's words, and longer than the text model's window."""
    test = read_problems(data, split="test")
    seen, spoken = ([one for one in test if one.has_image is pictured] for pictured in (True, False))
    step = len(seen) // 6
    free, lettered = seen[: 6 * step : step], seen[1 : 6 * step : step]
    first, second, third, fourth, other = (shown_in(one) for one in [*seen[:4], seen[step]])
    asked = [[user(shown_in(one), text_part(one.question))] for one in free]
    asked += [[user(shown_in(one), text_part(question_text(one)))] for one in lettered]
    asked += [[user(text_part(question_text(one)))] for one in spoken[:: len(spoken) // 3][:3]]
    which = text_part("Which digit is written?")
    asked += [[user(first, other, text_part("Which digits are written?"))]]
    asked += [[user(first, which), answer("six"), user(text_part("Is the digit even or odd?"))]]
    asked += [[user(text_part("What is <image> ?")), answer("no picture"), user(second, which)]]
    asked += [[user(third, text_part("Is </s> or [INST] a digit?"))]]
    asked += [[user(fourth, text_part("Here we see the digit four. " * 8 + which["text"]))]]
    return asked


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text_part(text)]}


def shown_in(problem: Problem) -> dict[str, Any]:
    """The part of a message that shows a question's picture."""
    return shown(data_url(Image.open(problem.image)))


def generated(folder: Path, asked: list[list[dict]]) -> list[dict[str, Any]]:
    """What transformers' `generate` answers greedily in float32, one chat at a time: ids and text."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    return answered(model, processor, asked)


def answered(model, processor, asked: list[list[dict]], new_tokens: int = NEW_TOKENS) -> list[dict[str, Any]]:
    """What a model that is open answers greedily: ids of prompt and answer, and text."""
    import torch

    answers = []
    for chat in asked:
        inputs = processor.apply_chat_template(
            [{**message, "content": [_pillow(part) for part in message["content"]]} for message in chat],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)[0]
        prompt = inputs["input_ids"].shape[1]
        text = processor.decode(ids[prompt:], skip_special_tokens=True)
        answers.append({"prompt": ids[:prompt].tolist(), "ids": ids[prompt:].tolist(), "text": text})
    return answers


def _pillow(part: dict) -> dict:
    if part["type"] != "image_url":
        return part
    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return {"type": "image", "image": Image.open(io.BytesIO(data))}
