"""The configs of a set of training rows, as the front matter of its README.md names them.

The rows carry each conversation twice: as TRL's prompt and completion, and as `messages` for trainers that know no
other column. TRL refuses rows that have both (and trains on every speaker's words where it finds `messages` alone), so
one config shows the one form and a second config of the same files the other.
"""

from copy import deepcopy
from typing import Any

MESSAGES = "messages"
TURNS = ("prompt", "completion")


def messages_config(name: str) -> str:
    """The name of the config that shows the rows of config `name` as `messages`."""
    return MESSAGES if name == "default" else f"{name}-{MESSAGES}"


def card_configs(name: str, data_files: Any, columns: list[str]) -> list[dict[str, Any]]:
    """The entries of `configs:` for one set of files: one, or two where the rows have both forms."""
    if not {MESSAGES, *TURNS} <= set(columns):
        return [{"config_name": name, "data_files": data_files}]
    trl, messages = ([column for column in columns if column not in other] for other in ([MESSAGES], TURNS))
    return [
        {"config_name": name, "data_files": data_files, "columns": trl},
        # A copy of its own: YAML writes one list in two places as an anchor and an alias.
        {"config_name": messages_config(name), "data_files": deepcopy(data_files), "columns": messages},
    ]
