"""Read small untrusted files within bounds: sparse files of 1 TB and YAML alias bombs are refused."""

from pathlib import Path
from typing import Any

import yaml

from llava_mistral.ground.bad_input import BadInput

MOST_BYTES = 64 << 20  # of a configuration, a card or a recipe; a tokenizer of 256,000 words has 33 MB
MOST_VALUES = 100_000  # of a YAML text with every alias written out


class Unfolds(yaml.YAMLError):
    """YAML that refers to itself, or whose aliases expand to too many values."""


def read_bounded(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a file.

    Raises:
        BadInput: it has more than `most`.
        OSError: it cannot be read.
    """
    if (size := Path(path).stat().st_size) > most:
        raise BadInput(f"has {size:,} bytes, more than {most:,}", remedy="write it again from its source", file=path)
    return Path(path).read_bytes()


def check_hole(path: str | Path) -> None:
    """Refuse a file of gigabytes that takes next to nothing on its disk: reading its zeros takes hours.

    Raises:
        BadInput: it does.
    """
    state = Path(path).stat()
    allocated = getattr(state, "st_blocks", state.st_size) * 512
    if state.st_size > 1 << 30 and allocated * 1000 < state.st_size:
        problem = f"has {state.st_size:,} bytes, of which {allocated:,} are on the disk"
        raise BadInput(problem, remedy="write it again from its source", file=path)


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: Any) -> None:
        """Merge what `<<` names, a list of a list of a list of aliases perhaps."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES // 10:
            raise Unfolds("it unfolds to more than anybody wrote")


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text; no tag of it makes a Python object.

    Raises:
        yaml.YAMLError: it is no YAML; `Unfolds` where its aliases make more of it than `MOST_VALUES`.
    """
    try:
        value = yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    if _size(value, {}) > MOST_VALUES:
        raise Unfolds("it refers to itself, or unfolds to more than anybody wrote")
    return value


def _size(value: Any, known: dict[int, float]) -> float:
    """Return how many values there are with every alias written out; infinity where one holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")
        known[id(value)] = 1 + sum(
            _size(item, known) for item in (value.values() if isinstance(value, dict) else value)
        )
    return known[id(value)]
