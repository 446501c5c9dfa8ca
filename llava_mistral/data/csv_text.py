"""Tables as `datasets` loads them, but CSV as the text it is: "007" is no 7, and "None" may be an answer."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput

# What pandas.read_csv takes for null, by its documentation, beside an empty cell.
_NULLS = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
_NULLS |= {"NULL", "NaN", "None", "n/a", "nan", "null"}


def load(source: str, **options: Any) -> Any:
    """Return `datasets.load_dataset(source, **options)`; of CSV every column is text, and only an empty cell is null.

    Raises:
        BadInput: the metadata.csv of a folder of pictures holds what the library makes another text of.
    """
    import datasets

    builder = datasets.load_dataset_builder(source, **options)
    if hasattr(builder.config, "keep_default_na"):  # as `CsvConfig` has, and no other
        options |= {"keep_default_na": False, "na_values": [""]}
        split = next(iter(builder.as_streaming_dataset().values()))
        texts = {column: datasets.Value("string") for column in next(iter(split), {})}
        options |= {"features": datasets.Features(texts)} if texts else {}
    elif source == "imagefolder":
        for file in sorted(Path(options["data_dir"]).rglob("metadata.csv")):
            _check_metadata(file)
    return datasets.load_dataset(source, **options)


def _check_metadata(file: Path) -> None:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        header, *rows = list(csv.reader(opened)) or [[]]
    for column, cells in zip(header, zip(*rows, strict=False), strict=False):
        if not _stays(cells):
            problem = "holds numbers or words that a metadata.csv cannot keep as they are written"
            raise BadInput(problem, remedy="write metadata.jsonl instead", file=file, field=column)


def _stays(cells: Sequence[str]) -> bool:
    """Whether pandas, which guesses a column's type, makes of each cell what is written in it."""
    if any(cell in _NULLS for cell in cells):
        return False
    with suppress(ValueError):
        return all(str(int(cell)) == cell for cell in cells)
    with suppress(ValueError):
        return not [float(cell) for cell in cells if cell]
    return not all(cell.lower() in ("true", "false", "") for cell in cells)
