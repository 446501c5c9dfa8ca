"""A `datasets` folder or Hub id reads its own files, and unpacks to no more than its size lets one expect.

The library follows what a README's `configs`, a saved set's state and links point at, wherever that is: rows of other
folders of this machine would be read, shown in reports and published.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_mistral.data.arrow_sizes import LEAST, MOST_TIMES, check_arrow
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.bounded import check_hole, read_bounded
from llava_mistral.ground.strict_json import ARCHIVES

_CARDS = ("README.md", ".huggingface.yaml")
_STATES = ("state.json", "dataset_dict.json", "dataset_infos.json")
_TEXTS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_BATCH = 64 << 20
_PACKED = (*ARCHIVES, b"\x04\x22\x4d\x18", b"Rar!")


def check_confined(path: Path) -> None:
    """Refuse a data set that names files elsewhere or unpacks to much more than it is; nothing of it is read as rows.

    Args:
        path: a file, a folder, or the Hub id of a data set, of which the card alone is looked at.

    Raises:
        BadInput: naming the file and what it points at.
    """
    if not path.exists():
        if (card := _card_of(str(path))) is not None:
            _check_card(card, f"{path}/README.md")
        return
    for file in [path] if path.is_file() else _files(path):
        suffix = file.suffix.lower()
        if file.name in _CARDS:
            _check_card(file, file)
        elif file.name in _STATES:
            _check_state(file)
        elif suffix == ".parquet":
            check_parquet(file)
        elif suffix == ".arrow":
            check_arrow(file)
        elif suffix == ".tar":
            _check_tar(file)
        elif suffix in _TEXTS:
            _check_text(file)


def _files(folder: Path) -> Iterator[Path]:
    """Every file of a folder, none of which may be a link out of it."""
    real = folder.resolve()
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(root) / name
            if path.is_symlink() and not path.resolve().is_relative_to(real):
                problem = "is a link to somewhere outside of the folder"
                raise BadInput(problem, remedy="copy what it leads to into the folder", file=path)
        for path in (Path(root) / name for name in files):
            if path.exists() and not path.is_file():  # a pipe: whoever opens it waits for ever
                raise BadInput("is not a regular file", remedy="take it out of the folder", file=path)
            yield path


def _card_of(name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "README.md", repo_type="dataset"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):  # loading it says what is wrong
        return None


def _check_card(file: Path, name: str | Path) -> None:
    """Refuse `data_files` and `data_dir` of a card's configs that lead elsewhere."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK  # what the library takes for a card's YAML
    from yaml import YAMLError

    from llava_mistral.ground.bounded_yaml import Unfolds, load_yaml

    text = read_bounded(file).decode("utf-8-sig", errors="replace")
    if file.suffix == ".md":
        match = REGEX_YAML_BLOCK.search(text)
        text = match[2] if match else ""
    try:
        card = load_yaml(text)
    except Unfolds as error:
        remedy = "write out what its aliases mean"
        raise BadInput(f"unfolds without end ({error})", remedy=remedy, file=name) from error
    except (YAMLError, ValueError):
        return  # the library refuses it, too
    configs = card.get("configs") if isinstance(card, dict) else None
    for config in configs if isinstance(configs, list) else [configs]:
        for key in ("data_files", "data_dir"):
            for pattern in _texts(config.get(key)) if isinstance(config, dict) else ():
                _check_place(pattern, name, key)


def _check_state(file: Path) -> None:
    """Refuse names of files and splits in the state of a saved set that lead elsewhere."""
    try:
        state = json.loads(read_bounded(file))
    except BadInput:
        raise
    except (ValueError, RecursionError):
        return
    if not isinstance(state, dict):
        return
    for key in ("_data_files", "_indices_files", "_indices_data_files", "splits"):
        for place in _texts(state.get(key)):
            _check_place(place, file, key)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _check_place(place: str, file: str | Path, field: str) -> None:
    parts = re.split(r"[/\\]", place)
    if "://" in place or "::" in place or ".." in parts or parts[0] in ("", "~") and place or ":" in parts[0]:
        problem = f"names {place[:200]!r}, which is outside of the data set"
        raise BadInput(problem, remedy="name files below its own folder", file=file, field=field)


def check_parquet(file: Path) -> None:
    """Refuse a parquet file that unpacks to more than 256 MiB and more than a hundred times its size.

    Pages say how large they are unpacked; a column of few different values says it of the values alone, and is read,
    piece by piece, where each row could be the longest of them.

    Raises:
        BadInput: it does, or is no parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    most = max(LEAST, MOST_TIMES * file.stat().st_size)
    try:
        with pq.ParquetFile(file) as opened:
            plain, doubted = 0, {}
            for group in range(opened.metadata.num_row_groups):
                for index in range(opened.metadata.num_columns):
                    chunk = opened.metadata.row_group(group).column(index)
                    plain += max(chunk.total_uncompressed_size, chunk.num_values * _width(chunk, opened.schema, index))
                    if "BYTE_ARRAY" in chunk.physical_type and any("DICTIONARY" in kind for kind in chunk.encodings):
                        name = chunk.path_in_schema.split(".")[0]
                        values, longest = doubted.get(name, (0, 1))
                        doubted[name] = (
                            values + chunk.num_values * _dictionary(chunk),
                            max(longest, _dictionary(chunk)),
                        )
            if plain > most:
                raise _too_much(file, plain)
            if plain + sum(bytes_ for bytes_, _ in doubted.values()) <= most:
                return
            for name, (_, longest) in doubted.items():
                for batch in opened.iter_batches(batch_size=max(1, min(1024, _BATCH // longest)), columns=[name]):
                    plain += batch.nbytes
                    if plain > most:
                        raise _too_much(file, plain)
    except (pa.ArrowException, OSError) as error:
        problem = f"is not a complete parquet file ({' '.join(str(error).split())[:120]})"
        raise BadInput(problem, remedy="fetch or write it again", file=file) from error


def _width(chunk: Any, schema: Any, index: int) -> int:
    """At least how many bytes one value of a column takes in memory, however often a page says it at once."""
    fixed = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "BYTE_ARRAY": 4}
    return fixed.get(chunk.physical_type) or max(1, schema.column(index).length)


def _dictionary(chunk: Any) -> int:
    """At most how long one value of a column's dictionary is: what of its pages can be that dictionary."""
    start = chunk.dictionary_page_offset
    packed = chunk.data_page_offset - start if start else 0
    return max(1, chunk.total_uncompressed_size - chunk.total_compressed_size + max(0, packed))


def _check_text(file: Path) -> None:
    """Refuse an archive under the name of a text: the library knows it by its first bytes, and unpacks it."""
    check_hole(file)
    with file.open("rb") as opened:
        if opened.read(8).startswith(_PACKED):
            raise BadInput("is an archive", remedy="unpack it and name what was in it", file=file)


def _check_tar(file: Path) -> None:
    """Refuse a tar of a WebDataset whose members are more than files, or claim bytes that it does not hold.

    Nothing is unpacked; the library reads the members where they lie, and packed tars it would unpack first.
    """
    _check_text(file)
    whole = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name = ascii(member.name)[:200]
                if member.name.startswith("/") or ".." in re.split(r"[/\\]", member.name):
                    raise BadInput(f"has a member outside of it, {name}", remedy="write the tar again", file=file)
                if not (member.isreg() or member.isdir()) or member.issparse():
                    problem = f"has a member that is not a regular file, {name}"
                    raise BadInput(problem, remedy="write the tar again with plain files", file=file)
                if member.size > min(whole, LEAST):
                    problem = f"has a member of {member.size:,} bytes, {name}"
                    raise BadInput(problem, remedy="write the tar again without it", file=file)
                archive.members = []  # of a million members none is kept
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        problem = f"is not a complete tar file ({' '.join(str(error).split())[:120]})"
        raise BadInput(problem, remedy="fetch or write it again", file=file) from error


def _too_much(file: Path, size: int) -> BadInput:
    problem = f"has {file.stat().st_size:,} bytes and unpacks to {size:,} or more"
    return BadInput(problem, remedy="do not open it, or write it again without what repeats", file=file)
