"""Which folders a verb may replace: output of its own earlier runs, recognised by a marker file.

The names of the marking files are the world's commonest (`manifest.json`, `config.json`), so that a name proves
nothing: the file has to hold what only this project writes, and the folder nothing that the verb would not write.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput, check_folders_above
from llava_mistral.ground.whole_file import is_partial

MARKER = ".llava-mistral"  # lists the files that a verb wrote, with their sizes
GENERATOR = '<meta name="generator" content="llava-mistral publish">'


@dataclass(frozen=True)
class Output:
    """What a verb writes.

    Attributes:
        ours: whether the contents of the marking file are this project's.
        files: a pattern of every path in the folder.
    """

    ours: Callable[[Any], bool]
    files: str


def _keys(*needed: str) -> Callable[[Any], bool]:
    return lambda found: isinstance(found, dict) and found.keys() >= set(needed)


def _comparison(found: Any) -> bool:
    return _keys("models", "pairs", "question_hash")(found) or _keys("sets", "overlaps", "input")(found)


def _digitsqa(found: Any) -> bool:
    first = next(iter(found.values()), None) if isinstance(found, dict) else None
    return _keys("image_needed", "skill", "split")(first)


_CHECKPOINT = (
    r"[\w-]*config\.json|model[\w.-]*\.safetensors(\.index\.json)?|[\w-]+_llava_mistral\.py|chat_template\.(jinja|json)"
    r"|additional_chat_templates/[\w-]+\.jinja|tokenizer\.(json|model)|(special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|tekken\.json|README\.md|vision_tower/[\w.-]+\.(json|safetensors)"
)
OUTPUTS = {
    "manifest.json": Output(
        _keys("method", "recipe", "counts", "dropped", "versions"),
        r"(manifest|skipped|llava)\.json|README\.md|report[\w-]*\.(html|png)|data/[\w.-]+\.parquet|images/[\w.-]+\.png",
    ),
    "comparison.json": Output(_comparison, r"comparison\.json|chart\.png|report\.(html|png)"),
    "summary.json": Output(
        _keys("ALL", "question_hash", "unread"),
        r"(blank/)?(summary\.json|predictions\.jsonl?|chart\.png|answers\.html)",
    ),
    "study.json": Output(_keys("models", "title", "chance"), r"study\.(json|md|png)"),
    "problems.json": Output(
        _digitsqa,
        r"(problems|pid_splits)\.json|example\.png|alignment/alignment\.json|(images|alignment/images)/[\w/]+\.png"
        r"|instructions/data/[\w-]+\.parquet",
    ),
    "open.json": Output(_keys("digit", "pictured", "text"), r"(open|answers)\.json"),
    "components.json": Output(
        _keys("config"), r"components\.json|(mistral|llama|vision|tokenizer)/[\w-]+\.(json|safetensors|jinja|model)"
    ),
    "decoders.json": Output(
        _keys("package", "file", "parameters"),
        r"decoders\.json|(llama|mistral)/[\w.-]+\.(json|safetensors|jinja|model)",
    ),
    "real.json": Output(_keys("answers", "digits", "known"), r"real\.(json|md)"),
    "config.json": Output(lambda found: found.get("model_type") == "llava_mistral", _CHECKPOINT),
    "README.html": Output(lambda found: GENERATOR in found, r"README\.(md|html)|[\w./-]+\.(md|png)"),
}


def check_output_folder(path: str | Path, made_by: str, sources: Iterable[str | Path | None] = ()) -> Path:
    """Return `path` if a verb may write there: absent, empty, or what an earlier run of the verb wrote.

    Args:
        made_by: the file that marks it, one of `OUTPUTS`.
        sources: what the verb reads; replacing the folder must not remove any of it.

    Raises:
        BadInput: the folder holds something else or a source, or the path is a file.
    """
    path = Path(path)
    if path.is_dir():
        if problem := _something_else(path, made_by):
            problem = f"the output folder holds something else ({problem})"
            raise BadInput(problem, remedy="name an empty or a new folder", file=path, field="output")
    elif path.exists() or path.is_symlink():
        raise BadInput("the output is a file, not a folder", remedy="name a new folder", file=path, field="output")
    for source in filter(None, sources):
        if os.path.exists(source) and Path(source).resolve().is_relative_to(path.resolve()):
            problem = f"holds {source}, which is read, and would be replaced"
            raise BadInput(problem, remedy="name another folder", file=path, field="output")
    check_folders_above(path, "output")
    return path


def record_files(folder: Path) -> None:
    """List in a folder what this project wrote into it: each file with its size."""
    files = {name: path.lstat().st_size for name, path in _files(folder)}
    (folder / MARKER).write_text(json.dumps({"written by": "llava-mistral", "files": files}), encoding="utf-8")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file and link below a folder, by its path in it."""
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for path in (Path(root) / name for name in sorted([*files, *links])):
            if path != folder / MARKER:
                yield path.relative_to(folder).as_posix(), path


def _recorded(folder: Path) -> dict[str, int] | None:
    """What `record_files` listed; None where a folder has no list, as those of 0.1.0."""
    try:
        files = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None
    return files if isinstance(files, dict) else None


def _something_else(folder: Path, made_by: str) -> str | None:
    """Return what in the folder is not earlier output; None where all of it is."""
    if all(map(is_partial, folder.iterdir())):
        return None
    file = folder / made_by
    if not file.is_file():
        return f"no {made_by} in it"
    output, recorded = OUTPUTS[made_by], _recorded(folder)
    if recorded is None:
        try:
            text = file.read_text(encoding="utf-8")
            ours = output.ours(json.loads(text) if made_by.endswith(".json") else text)
        except (OSError, ValueError, RecursionError, AttributeError, TypeError):
            ours = False
        if not ours:
            return f"its {made_by} was not written by this command"
    for name, path in _files(folder):
        if is_partial(path):
            continue
        if not re.fullmatch(output.files, name):
            return f"{name}, which this command does not write"
        if recorded is not None and name not in recorded:
            return f"{name}, which this command did not write"
        if recorded is not None and recorded[name] != path.lstat().st_size:
            return f"{name}, which was changed since this command wrote it"
    return None
