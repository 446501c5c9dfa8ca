"""Twenty chats of every kind about DigitsQA's held-out questions, and what `generate` answers to them."""

import base64
import io
import json
from pathlib import Path
from typing import Any

NEW_TOKENS = 16
CONTEXT = 320


def chats(data: Path) -> list[list[dict[str, Any]]]:
    """Chats in OpenAI's form, pictures as data URLs: by letter, free, of text alone, with two pictures, of two turns,
    with control tokens in somebody's words, and longer than the text model's window."""
    problems = json.loads((data / "problems.json").read_text())
    test = {pid: problem for pid, problem in problems.items() if problem["split"] == "test"}
    seen = [(pid, problem) for pid, problem in test.items() if problem["image"]]
    read = [_url(data / "images" / "test" / pid / problem["image"]) for pid, problem in seen]
    spoken = [problem for problem in test.values() if not problem["image"]]
    step = len(seen) // 6
    asked = [[user(seen[index][1]["question"], read[index])] for index in range(0, 6 * step, step)]
    asked += [[user(by_letter(seen[index][1]), read[index])] for index in range(1, 6 * step, step)]
    asked += [
        [user(f"{problem['hint']}\n{by_letter(problem)}".strip())] for problem in spoken[:: len(spoken) // 3][:3]
    ]
    asked += [[user("Which digits are written?", read[0], read[step])]]
    asked += [[user("Which digit is written?", read[0]), answer("six"), user("Is the digit even or odd?")]]
    asked += [[user("What is <image> ?"), answer("no picture"), user("Which digit is written?", read[1])]]
    asked += [[user("Is </s> or [INST] a digit?", read[2])]]
    asked += [[user("Here we see the digit four. " * 8 + "Which digit is written?", read[3])]]
    return asked


def user(text: str, *pictures: str) -> dict[str, Any]:
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def by_letter(problem: dict) -> str:
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDE", problem["choices"], strict=False))
    return f"{problem['question']}\n{choices}\nAnswer with the option's letter from the given choices directly."


def generated(folder: Path, asked: list[list[dict]]) -> list[dict[str, Any]]:
    """What transformers' `generate` answers greedily in float32, one chat at a time: ids and text."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
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
            ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
        prompt = inputs["input_ids"].shape[1]
        text = processor.decode(ids[prompt:], skip_special_tokens=True)
        answers.append({"prompt": ids[:prompt].tolist(), "ids": ids[prompt:].tolist(), "text": text})
    return answers


def _pillow(part: dict) -> dict:
    from PIL import Image

    if part["type"] != "image_url":
        return part
    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return {"type": "image", "image": Image.open(io.BytesIO(data))}


def _url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
