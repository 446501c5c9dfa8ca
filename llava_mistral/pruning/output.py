"""The kept rows on disk: one parquet file that `datasets` loads, every picture decoded and encoded anew as PNG.

Decoding proves that each picture is one, and takes off EXIF, position and trailing bytes; the pixels are those that
training and inference see (`pictures.py`). Nothing depends on the time or the machine: the same rows give the same
bytes.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.card_configs import card_configs
from llava_mistral.data.llava_json import llava_record
from llava_mistral.data.sources import undecoded
from llava_mistral.ground.pictures import open_picture, png_bytes

if TYPE_CHECKING:
    from datasets import Dataset

DATA_FILE = "data/train-00000-of-00001.parquet"
CARD = "README.md"
ROWS_PER_GROUP = 100  # as https://huggingface.co/docs/hub/datasets-image recommends for rows with pictures


def write_rows(table: "Dataset", path: Path, *, source: str | Path) -> None:
    """Write training rows {id, images, prompt, completion, …} as parquet, with their pictures inside and `messages`.

    Raises:
        BadInput: a picture cannot be read; the message names the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image, List
    from tqdm import tqdm

    # What a reader gets decodes itself. `messages` is the whole conversation, for trainers that know no other column.
    columns = table.features | {"images": List(Image()), "messages": table.features["prompt"]}
    schema = Features(columns).arrow_schema
    table = undecoded(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        pq.ParquetWriter(path, schema) as writer,
        tqdm(total=len(table), desc="writing", unit=" rows", delay=2) as bar,
    ):
        for start in range(0, len(table), ROWS_PER_GROUP):
            batch = table[start : start + ROWS_PER_GROUP]
            batch["images"] = [
                [
                    {"bytes": png_bytes(open_picture(cell, file=source, record=name)), "path": f"{i}.png"}
                    for i, cell in enumerate(cells)
                ]
                for name, cells in zip(batch["id"], batch["images"], strict=True)
            ]
            turns = zip(batch["prompt"], batch["completion"], strict=True)
            batch["messages"] = [prompt + completion for prompt, completion in turns]
            writer.write_table(pa.Table.from_pydict(batch, schema=schema))
            bar.update(len(batch["id"]))


def write_card(table: "Dataset", folder: Path) -> None:
    """Write the README.md by which `datasets` shows the rows as TRL's, or as `messages` where these are asked for."""
    import yaml

    files = [{"split": "train", "path": "data/train-*.parquet"}]
    head = yaml.safe_dump(
        {"configs": card_configs("default", files, [*table.column_names, "messages"])}, sort_keys=False
    )
    (folder / CARD).write_text(
        f"---\n{head}---\n\nMade by `llava-mistral prune`; see manifest.json.\n", encoding="utf-8"
    )


def write_llava_json(table: "Dataset", folder: Path, *, source: str | Path) -> None:
    """Write the rows as LLaVA's training JSON: folder/llava.json and the pictures below folder/images."""
    records = []
    (folder / "images").mkdir()
    for place, row in enumerate(_rows(table)):
        names = []
        for number, cell in enumerate(row["images"]):
            names.append(f"{place:06d}-{number}.png")
            picture = open_picture(cell, file=source, record=row["id"])
            (folder / "images" / names[-1]).write_bytes(png_bytes(picture))
        records.append(llava_record(row, names))
    (folder / "llava.json").write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rows(table: "Dataset") -> Iterable[dict[str, Any]]:
    return iter(undecoded(table))
