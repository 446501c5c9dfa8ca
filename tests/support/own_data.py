"""The blocks of docs/your_data.md, and data as that page has it: tables and pictures of shapes."""

import csv
import re
from pathlib import Path

from PIL import Image, ImageDraw

from tests.support.running import HOME

PAGE = (HOME / "docs" / "your_data.md").read_text(encoding="utf-8")
BLOCKS = [(language, block) for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)]
SHAPES, COLOURS = ("circle", "square"), ("red", "green", "blue")


def save_data(folder: Path) -> None:
    """The page's tables and pictures, 18 for training and 6 for judging; the page's own lines come first."""
    shown = next(block for language, block in BLOCKS if language == "text").splitlines()
    header, *rows = csv.reader(shown)
    (folder / "pictures").mkdir()
    while len(rows) < 24:
        shape, colour = SHAPES[len(rows) % 2], COLOURS[len(rows) % 3]
        asked = (
            ("What shape is it?", f"A {shape}.") if len(rows) % 4 < 2 else ("What colour is it?", f"It is {colour}.")
        )
        rows.append([f"{len(rows) + 1:04}.png", *asked])
    for index, (name, *_) in enumerate(rows):
        picture = Image.new("RGB", (48, 48), "white")
        place, colour = (6, 6, 24 + index, 24 + index % 7), COLOURS[index % 3]
        draw = ImageDraw.Draw(picture)
        draw.ellipse(place, fill=colour) if index % 2 == 0 else draw.rectangle(place, fill=colour)
        picture.save(folder / "pictures" / name)
    for name, part in (("train.csv", rows[:18]), ("test.csv", rows[18:])):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *part])
