"""A ScienceQA folder of a few problems over four skills, with pictures and an embedding, for pruning tests."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def save_problems(folder: Path, count: int = 24, change: Callable[[dict], None] = lambda problems: None) -> Path:
    """Write the folder, after `change` has had its way with {pid: problem}; a third has no picture."""
    problems = {}
    for i in range(count):
        problem = {"question": f"Which colour is shown in picture {i}?", "choices": ["red", "blue"], "answer": i % 2}
        problem |= {
            "hint": "",
            "image": "image.png" if i % 3 else None,
            "split": "train",
            "grade": f"grade{1 + i % 12}",
        }
        problem |= {"subject": "s", "topic": f"t{i % 2}", "category": f"c{i % 2}", "skill": f"skill {i % 4}"}
        problems[str(i)] = problem
    change(problems)
    for pid, problem in problems.items():
        if problem["image"]:
            picture = folder / "images/train" / pid / "image.png"
            picture.parent.mkdir(parents=True)
            Image.new("RGB", (24, 16), (10 * int(pid) % 256, 0, 99)).save(picture)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "problems.json").write_text(json.dumps(problems))
    np.save(folder / "vectors.npy", np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32))
    return folder


PROBLEM = {
    "question": "Which is the digit?",
    "choices": ["one", "two", "three"],
    "answer": 1,
    "hint": "Look closely.",
    "image": None,
    "grade": "grade2",
    "subject": "natural science",
    "lecture": "Digits are signs.",
    "solution": "It has a loop.",
    "split": "train",
}
