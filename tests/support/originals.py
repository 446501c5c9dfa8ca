"""Original LLaVA folders to read, and to write into."""

import json
from pathlib import Path


def case(folder: Path, name: str) -> dict:
    return next(case for case in json.loads((folder / "cases.json").read_text()) if case["name"] == name)


def picture(folder: Path, name: str):
    from PIL import Image

    return Image.open(folder / f"{name}.png")
