"""YAML of strangers, read within bounds: a few aliases may unfold to more than any memory holds."""

from typing import Any

import yaml

MOST_VALUES = 100_000  # of a YAML text with every alias written out


class Unfolds(yaml.YAMLError):
    """YAML that refers to itself, or whose aliases expand to too many values."""


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
