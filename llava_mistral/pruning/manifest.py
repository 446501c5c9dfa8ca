"""manifest.json: the samples kept, those dropped with reasons, and everything needed to reproduce the selection."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import Problem
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json
from llava_mistral.ground.whole_file import sha256_of
from llava_mistral.pruning.methods import Choice, coverage_counts
from llava_mistral.pruning.recipe import PLACES

NAME = "manifest.json"
_VERSIONS = ("llava-mistral", "numpy", "datasets", "pyarrow", "pillow")
# Terms of sources that say in their name what they are (https://scienceqa.github.io, section License).
KNOWN_LICENCES = {"scienceqa": "cc-by-nc-sa-4.0"}


def describe(
    choice: Choice,
    problems: Sequence[Problem],
    *,
    recipe: dict[str, Any],
    input_sha256: str,
    source: str | None = None,
    license: str | None = None,
    notes: Sequence[str] = (),
    skipped: int = 0,
    pictures: dict[str, int] | None = None,
    counted: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a choice among `problems`.

    Args:
        recipe: the arguments that made it, by name; `dataset`, `method`, `size` and `seed` among them.
        source: where the data comes from; by default the name of the recipe's data set.
        license: its terms; by default those known of the source, else null.
        notes: what the method could not judge by, in words.
        pictures: how many the input has, and how many of its samples have none.
        skipped: samples that could not be used and are not among `problems`; `skipped.json` names them.
        counted: conversations and answers, "kept" and in the "input" (`Samples.counted`); by default one per sample.
    """
    ids = [problem.pid for problem in problems]
    sizes = {"kept": len(choice.picks), "input": len(ids)}
    counted = counted or {key: {"conversations": size, "answers": size} for key, size in sizes.items()}
    name = recipe["dataset"].rstrip("/")
    source = source or _carried(name, "source") or (name if _is_hub_id(name) else Path(name).name)
    license = license or _carried(name, "license") or _known_licence(f"{source} {name}")
    return {
        "method": recipe["method"],
        "size": len(choice.picks),
        **{f"kept_{what}": count for what, count in counted["kept"].items()},
        "seed": recipe["seed"],
        "source": source,
        "license": license,
        "input": {
            "name": source,
            "split": recipe["split"] or "train",
            "rows": len(ids),
            "skipped": skipped,
            **(pictures or {}),
            **counted["input"],
            "sha256": input_sha256,
        },
        "recipe": recipe,
        "counts": choice.counts(),
        "coverage": coverage_counts(problems, choice.picks),
        "selection": choice.facts,
        "notes": list(notes),
        "kept": [ids[i] for i in choice.picks],
        "kept_for_coverage": [ids[i] for i in choice.for_coverage],
        "dropped": {ids[i]: reason for i, reason in sorted(choice.dropped.items())},
        "files": {},
        "versions": {"python": platform.python_version(), **versions()},
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that influence the output; those not installed are left out."""
    found = {}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # the project itself, run from its folder
            continue
    return found


def write_manifest(manifest: dict[str, Any], folder: Path) -> None:
    """Write manifest.json into `folder`, with the hash of every file already there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    manifest = manifest | {"files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}}
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a pruned data set.

    Raises:
        BadInput: there is none, or it lacks what a manifest holds.
    """
    path = Path(folder) / NAME
    manifest = read_json(path)
    kinds = {"recipe": dict, "kept": list, "dropped": dict, "counts": dict, "files": dict, "versions": dict}
    for name, kind in kinds.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise BadInput("is missing or malformed", remedy="make the set again", file=path, field=name)
    return manifest


def changed_files(folder: Path) -> dict[str, str]:
    """Return {name: what is wrong} of the files of a pruned set that are not those that were written."""
    wrong = {}
    for name, digest in read_manifest(folder)["files"].items():
        if not (folder / name).is_file():
            wrong[name] = "is missing"
        elif sha256_of(folder / name) != digest:
            wrong[name] = "is not the file that was written"
    return wrong


def check_places(folder: str | Path, places: dict[str, str | None]) -> None:
    """Refuse to make a set again when what it was made from is not there; `places` are paths or Hub ids, by flag.

    Raises:
        BadInput: a path leads nowhere and can be no Hub id.
    """
    folders = (places.get("image_folder") or "").split(os.pathsep)  # there may be several
    named = [*(places | {"image_folder": None}).items(), *(("image_folder", folder) for folder in folders)]
    for flag, place in named:
        if place and not Path(place).exists() and not _is_hub_id(place):
            problem = f"its files are as they were written, but what they were made from is not at {place}"
            raise BadInput(problem, remedy=f"say where that lies now with --{flag}", file=folder)


def differences(folder: Path, again: Path) -> list[str]:
    """Return, one line each, in what a pruned set differs from the same recipe run again; [] when in nothing.

    Versions may differ (the last line says so when something else does too); everything else must not.
    """
    old, new = read_manifest(folder), read_manifest(again)
    lines = [f"{NAME}: {key} differs" for key in sorted(old.keys() | new.keys()) if _differs(key, old, new)]
    changed = changed_files(folder)
    lines += [f"{name}: {change}" for name, change in changed.items()]
    differing = [name for name, digest in old["files"].items() if new["files"].get(name) != digest]
    lines += [f"{name}: comes out differently" for name in differing if name not in changed]
    if lines and old["versions"] != new["versions"]:
        other = [k for k in old["versions"] | new["versions"] if old["versions"].get(k) != new["versions"].get(k)]
        lines.append(f"made with other versions of {', '.join(other)}")
    return lines


def _differs(key: str, old: dict, new: dict) -> bool:
    if key in ("versions", "files"):
        return False
    if key == "recipe":  # hashes in `input` and `selection` tell whether what lies elsewhere now is the same
        skipped = (*PLACES, "source", "license")  # these two are stored beside the recipe
        return any(old[key].get(k) != new[key].get(k) for k in old[key] | new[key] if k not in skipped)
    return old.get(key) != new.get(key)


def _carried(name: str, key: str) -> str | None:
    """Return what the manifest of an input that is itself a pruned set says."""
    path = Path(name) / NAME
    value = read_json(path).get(key) if path.is_file() else None
    return value if isinstance(value, str) else None


def _is_hub_id(name: str) -> bool:
    return not Path(name).exists() and name.count("/") == 1 and not name.startswith(("/", ".", "~"))


def _known_licence(names: str) -> str | None:
    return next((terms for name, terms in KNOWN_LICENCES.items() if name in names.lower()), None)
