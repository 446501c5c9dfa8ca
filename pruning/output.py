"""The kept rows on disk: one parquet file that `datasets` loads, every picture decoded and encoded anew as PNG.

Decoding proves that each picture is one, and takes off EXIF, position and trailing bytes; the pixels stay as they are,
turned upright. Nothing depends on the time or the machine: the same rows give the same bytes.
"""

import io
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bad_input import BadInput

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

DATA_FILE = "data/train-00000-of-00001.parquet"
ROWS_PER_GROUP = 100  # as https://huggingface.co/docs/hub/datasets-image recommends for rows with pictures
MOST_PIXELS = 64_000_000
_KEPT_MODES = {"1", "L", "LA", "RGB", "RGBA"}


def write_rows(table: "Dataset", path: Path, *, source: str | Path) -> None:
    """Write training rows {id, images, prompt, completion, …} as parquet with their pictures inside.

    Raises:
        BadInput: a picture cannot be read; the message names the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image, List
    from tqdm import tqdm

    from pruning.samples import undecoded

    schema = Features(table.features | {"images": List(Image())}).arrow_schema  # what a reader gets decodes itself
    table = undecoded(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        pq.ParquetWriter(path, schema) as writer,
        tqdm(total=len(table), desc="writing", unit=" rows", delay=2) as bar,
    ):
        for start in range(0, len(table), ROWS_PER_GROUP):
            batch = table[start : start + ROWS_PER_GROUP]
            batch["images"] = [
                [{"bytes": png_bytes(cell, source, name), "path": f"{i}.png"} for i, cell in enumerate(cells)]
                for name, cells in zip(batch["id"], batch["images"], strict=True)
            ]
            writer.write_table(pa.Table.from_pydict(batch, schema=schema))
            bar.update(len(batch["id"]))


def png_bytes(cell: dict[str, Any], source: str | Path, name: str) -> bytes:
    """Return the picture of a cell {"bytes", "path"} as PNG."""
    buffer = io.BytesIO()
    open_picture(cell, source, name).save(buffer, "PNG")
    return buffer.getvalue()


def open_picture(cell: dict[str, Any], source: str | Path, name: str) -> "Image":
    """Return the decoded, upright picture of a cell {"bytes", "path"}; its first frame when it has several.

    Raises:
        BadInput: it is no picture, is cut short, or has more than 64 million pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS is stricter
            picture = Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"])
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels")
            upright = ImageOps.exif_transpose(picture)
            mode = "RGBA" if "transparency" in upright.info else "RGB"
            clean = upright if upright.mode in _KEPT_MODES else upright.convert(mode)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        problem = f"is not a picture that can be read ({' '.join(str(error).split())[:120]})"
        raise BadInput(problem, remedy="replace or drop it", file=source, record=name, field="image") from error
    fresh = Image.new(clean.mode, clean.size)  # pixels only: no EXIF, no text, no colour profile
    fresh.paste(clean)
    return fresh


def write_llava_json(table: "Dataset", folder: Path, *, source: str | Path) -> None:
    """Write the rows as LLaVA's training JSON: folder/llava.json and the pictures below folder/images."""
    records = []
    (folder / "images").mkdir()
    for place, row in enumerate(_rows(table)):
        record: dict[str, Any] = {"id": row["id"]}
        names = []
        for number, cell in enumerate(row["images"]):
            names.append(f"{place:06d}-{number}.png")
            (folder / "images" / names[-1]).write_bytes(png_bytes(cell, source, row["id"]))
        record |= {"image": names[0] if len(names) == 1 else names} if names else {}
        speaker = {"user": "human", "assistant": "gpt"}
        turns = [
            {"from": speaker[turn["role"]], "value": turn["content"]} for turn in row["prompt"] + row["completion"]
        ]
        turns[0]["value"] = "<image>\n" * len(names) + turns[0]["value"]
        records.append(record | {"conversations": turns})
    (folder / "llava.json").write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rows(table: "Dataset") -> Iterable[dict[str, Any]]:
    from pruning.samples import undecoded

    return iter(undecoded(table))
