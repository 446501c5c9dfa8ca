"""What other people's engines answered, as docs/engines.md shows it: `make engines` writes docs/engines.json and pours
it into the page's table."""

import json
import os
from pathlib import Path

from tests.support.running import HOME

PAGE, RECORD = HOME / "docs" / "engines.md", HOME / "docs" / "engines.json"
BEGIN, END = "<!-- written by make engines -->\n", "<!-- end -->\n"
COLUMNS = (
    "engine",
    "asked about",
    "questions",
    "answers equal to `generate`'s",
    "right",
    "right by `generate`",
    "difference in points, 95 %",
)
KEYS = ("engine", "about", "asked", "equal", "right", "right_here", "difference")


def record(
    engine: str,
    about: str,
    asked: int,
    equal: int,
    right: int | None = None,
    right_here: int | None = None,
    difference: str | None = None,
) -> None:
    """Note one row; it is written where the variable ENGINES names the folder, as `make engines` sets it."""
    row = dict(zip(KEYS, (engine, about, asked, equal, right, right_here, difference), strict=True))
    print("ENGINE", json.dumps(row))
    if folder := os.environ.get("ENGINES"):
        file = Path(folder) / RECORD.name
        rows = json.loads(file.read_text()) if file.is_file() else []
        rows = [old for old in rows if (old["engine"], old["about"]) != (engine, about)] + [row]
        file.write_text(json.dumps(sorted(rows, key=lambda row: (row["engine"], row["about"])), indent=1) + "\n")
        page = Path(folder) / PAGE.name
        page.write_text(poured(page.read_text(encoding="utf-8"), json.loads(file.read_text())), encoding="utf-8")


def poured(page: str, rows: list[dict]) -> str:
    """Return the page with the table of these rows."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        cells = ["" if row.get(key) is None else str(row[key]) for key in KEYS]
        lines.append("| " + " | ".join(cells) + " |")
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1]
