"""The state of an output folder: empty, an interrupted run, a finished run, or something else."""

import json
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput, check_folders_above
from llava_mistral.training.saving.output_lock import LOCK
from llava_mistral.training.saving.whole_checkpoints import DAMAGED, PARTIAL

# A finished model, whole, and then its record, on their way into the output folder (`run_record.complete_run`).
FINISHED, RECORD = ".finished", ".run.json"
# What a killed run leaves: checkpoints, whole and damaged, what it was writing, its lock's file, its first record.
BEGUN = "run.partial.json"  # what is known of a run when it begins; `run.json` replaces it
LEFTOVERS = ("checkpoint-", DAMAGED, PARTIAL, LOCK, BEGUN, f".{BEGUN}", "skipped.json", "log.jsonl")


def check_output(output: Path) -> None:
    """Refuse an output folder that is a file, or holds a finished run or something else.

    Raises:
        BadInput: names it.
    """
    place = {"file": output, "field": "output_dir"}
    if output.exists() and not output.is_dir():
        raise BadInput("the output is a file", remedy="name a new folder", **place)
    check_folders_above(output, "output_dir")
    if record_of(output):
        remedy = "name a new folder or remove this one"
        raise BadInput("the folder holds a finished run", remedy=remedy, **place)
    if output.is_dir() and not _is_empty_or_interrupted(output):
        raise BadInput("the folder holds something else", remedy="name an empty or a new folder", **place)


def is_finished(output: Path, given: dict[str, Any]) -> bool:
    """Whether `output` holds the finished run of these very values; then there is nothing to learn."""
    record = record_of(output)
    try:
        return json.loads(record.read_text(encoding="utf-8"))["asked"] == json.loads(json.dumps(given, default=str))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def is_unfinished(folder: Path) -> bool:
    """Whether `folder` holds a run that was killed, and no model yet."""
    left = any((folder / name).exists() for name in (FINISHED, RECORD, PARTIAL))
    return left or (any(folder.glob("checkpoint-*")) and not (folder / "config.json").is_file())


def record_of(output: Path) -> Path | None:
    """The record of the finished run in `output`, though the run was killed while files were moved into place.

    Looked for in the order in which it moves, so that it is found while another process moves it.
    """
    places = (output / FINISHED / "run.json", output / RECORD, output / "run.json")
    return next((place for place in places if place.is_file()), None)


def _is_empty_or_interrupted(output: Path) -> bool:
    """An interrupted run leaves `LEFTOVERS`, and TRL's card, logs and sample answers beside them."""
    names = [entry.name for entry in output.iterdir()]
    left = LEFTOVERS + (("README.md", "runs", "samples") if any(name.startswith(LEFTOVERS) for name in names) else ())
    return all(name.startswith(left) for name in names)
