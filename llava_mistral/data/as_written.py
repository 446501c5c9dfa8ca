"""Tables as `datasets` loads them, but with texts as they are written: "007" is no 7, "2020-01-01" no date."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llava_mistral.ground.bad_input import BadInput

# What pandas.read_csv takes for null, by its documentation, beside an empty cell.
_NULLS = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
_NULLS |= {"NULL", "NaN", "None", "n/a", "nan", "null"}


def load(source: str, **options: Any) -> Any:
    """Return `datasets.load_dataset(source, **options)`; of CSV every column is text, and only an empty cell is null;
    of JSON every text is text.

    Raises:
        BadInput: the metadata.csv of a folder of pictures holds what the library makes another text of.
    """
    import datasets

    with _json_as_written():
        builder = datasets.load_dataset_builder(source, **options)
        config = builder.config
        if hasattr(config, "keep_default_na"):  # as `CsvConfig` has, and no other
            options |= {"keep_default_na": False, "na_values": [""]}
            split = next(iter(builder.as_streaming_dataset().values()))
            texts = {column: datasets.Value("string") for column in next(iter(split), {})}
            options |= {"features": datasets.Features(texts)} if texts else {}
            builder = datasets.load_dataset_builder(source, **options)
        elif hasattr(config, "on_mixed_types") or hasattr(config, "drop_metadata"):  # JSON, a folder of pictures
            for name in [one for own in config.data_files.values() for one in own if one.endswith("/metadata.csv")]:
                _check_metadata(Path(datasets.DownloadManager().download(name)), name)
            # Not the library's own place: there the same set may lie with its dates, from another program.
            place = Path(datasets.config.HF_DATASETS_CACHE) / "llava_mistral" / "json"
            builder = datasets.load_dataset_builder(source, **{"cache_dir": str(place), **options})
        builder.download_and_prepare()
        return builder.as_dataset()


@contextmanager
def _json_as_written() -> Iterator[None]:
    """Let `datasets` read JSON without the guess of pyarrow's that makes points in time of texts."""
    import pyarrow.json as paj
    from datasets.packaged_modules.folder_based_builder import folder_based_builder
    from datasets.packaged_modules.json import json

    def read_json(file: io.BytesIO, read_options: Any) -> Any:
        table = paj.read_json(file, read_options=read_options)
        schema = _without_times(table.schema)
        if schema.equals(table.schema):
            return table
        file.seek(0)
        return paj.read_json(file, read_options=read_options, parse_options=paj.ParseOptions(explicit_schema=schema))

    reader = SimpleNamespace(read_json=read_json, ReadOptions=paj.ReadOptions)
    try:
        json.paj = folder_based_builder.paj = reader
        yield
    finally:
        json.paj = folder_based_builder.paj = paj


def _without_times(kind: Any) -> Any:
    """Return a schema or a type of pyarrow's with text for each point in time, however deep."""
    import pyarrow as pa

    if isinstance(kind, pa.Schema):
        return pa.schema([_without_times(field) for field in kind])
    if isinstance(kind, pa.Field):
        return kind.with_type(_without_times(kind.type))
    if pa.types.is_struct(kind):
        return pa.struct([_without_times(kind.field(index)) for index in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_field))
    return pa.string() if pa.types.is_temporal(kind) else kind


def _check_metadata(file: Path, name: str) -> None:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        header, *rows = list(csv.reader(opened)) or [[]]
    for column, cells in zip(header, zip(*rows, strict=False), strict=False):
        if not _stays(cells):
            problem = "holds numbers or words that a metadata.csv cannot keep as they are written"
            raise BadInput(problem, remedy="write metadata.jsonl instead", file=name, field=column)


def _stays(cells: Sequence[str]) -> bool:
    """Whether pandas, which guesses a column's type, makes of each cell what is written in it."""
    if any(cell in _NULLS for cell in cells):
        return False
    with suppress(ValueError):
        return all(str(int(cell)) == cell for cell in cells)
    with suppress(ValueError):
        return not [float(cell) for cell in cells if cell]
    return not all(cell.lower() in ("true", "false", "") for cell in cells)
