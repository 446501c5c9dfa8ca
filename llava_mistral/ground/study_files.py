"""A study's YAML: the steps in it, each a command of this project that writes below the study's output folder.

Whoever wrote the file may be a stranger: a step runs nothing else, and neither writes nor removes elsewhere.
"""

import itertools
import math
import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.foreign_code import FLAG
from llava_mistral.ground.recipe_files import read_yaml, recipe_file

KEYS = {"name", "output", "warm", "steps", "summary", "full"}
OURS = r"llava_mistral\.(miniature|evaluation)\.\w+"
WRITES = {"--output", "--output_dir", "--preview", "--embeddings", "--logging_dir", "--vision_cache"}
# They serve, or write where an argument without a name says.
BY_HAND = {"study", "hub", "chat", "studio", "init", "convert"}
MOST_STEPS = 1000  # that one `for` may make
STEP_KEYS = {"name", "run", "makes", "for"}


@dataclass(frozen=True)
class Step:
    """One command of a study: its name, its arguments (the program first) and the folder it makes, if any."""

    name: str
    command: tuple[str, ...]
    makes: Path | None


def read_study(
    path: str | Path, output: str | None, verbs: Collection[str], *, full: bool = False
) -> tuple[dict, list[Step]]:
    """Read a study's YAML; `{output}` in a command becomes the output folder.

    A step with `for: {name: [values], …}` is as many steps, one for each combination, in which `{name}` is the value.

    Args:
        verbs: what a step may run, beside modules of ours.
        full: take the `full` steps in place of `steps`; their output folder is `…-full`.

    Raises:
        BadInput: no YAML, an unknown key, a step without a command, two steps of one name.
    """
    path = recipe_file(path)
    study, key = read_yaml(path), "full" if full else "steps"
    if not isinstance(study.get(key), list):
        raise BadInput("has no list of steps", remedy="see the recipe miniature/study", file=path, field=key)
    _refuse_unknown(study, KEYS, path, None)
    named = str(study.get("output") or f"outputs/{Path(path).parent.name}") + "-full" * full
    if not output:
        _check_output(Path(named), path)
    study["output"] = output or named
    steps: dict[str, Step] = {}
    for index, step in enumerate(study[key]):
        if not isinstance(step, dict) or not {"name", "run"} <= step.keys():
            raise BadInput("needs a name and a command", remedy="write name: and run:", file=path, record=index)
        _refuse_unknown(step, STEP_KEYS, path, index)
        _check_form(step, path, index)
        for one in _expanded(step, study["output"]):
            _check_step(one, Path(study["output"]), verbs, path, index)
            if one.name in steps:
                remedy = "name every value of its `for`"
                raise BadInput(f"{one.name} occurs twice", remedy=remedy, file=path, record=index, field="name")
            steps[one.name] = one
    return study, list(steps.values())


def _check_form(step: dict, path: str | Path, index: int) -> None:
    """Refuse a study whose steps have fields of wrong types, or that has too many steps."""
    for key, kind in (("name", str), ("run", str), ("makes", str), ("for", dict)):
        if step.get(key) is not None and not isinstance(step[key], kind):
            remedy = "write {name: [values]}" if key == "for" else "write a text"
            raise BadInput("is of another type", remedy=remedy, file=path, record=index, field=key)
    choices = (step.get("for") or {}).values()
    if not all(isinstance(values, list) for values in choices):
        raise BadInput("is of another type", remedy="write {name: [values]}", file=path, record=index, field="for")
    if (count := math.prod(map(len, choices))) > MOST_STEPS:
        problem = f"is {count:,} steps, more than {MOST_STEPS:,}"
        raise BadInput(problem, remedy="write fewer values", file=path, record=index, field="for")


def _check_output(output: Path, path: str | Path) -> None:
    """Refuse an output named by the file and not by the user, unless it is a study's own below the current folder.

    Raises:
        BadInput: it is elsewhere, or holds what no study made.
    """
    here, real = Path.cwd().resolve(), output.expanduser().resolve()
    problem = None
    if real == here or not real.is_relative_to(here):
        problem = f"names {str(output)!r}, which is not below the current folder"
    elif real.is_dir() and any(real.iterdir()) and not (real / "steps").is_dir():
        problem = f"names {str(output)!r}, which holds what is not of a study"
    if problem:
        raise BadInput(problem, remedy="give --output if it is meant", file=path, field="output")


def _expanded(step: dict, output: str) -> Iterator[Step]:
    choices = step.get("for") or {}
    for values in itertools.product(*choices.values()):
        named = {"output": output, **dict(zip(choices, values, strict=True))}

        def filled(text: str, named: dict = named) -> str:
            for name, value in named.items():
                text = text.replace(f"{{{name}}}", str(value))
            return text

        words = tuple(filled(word) for word in shlex.split(step["run"]))
        yield Step(filled(step["name"]), words, Path(filled(step["makes"])) if step.get("makes") else None)


def _check_step(step: Step, output: Path, verbs: Collection[str], path: str | Path, index: int) -> None:
    """Refuse a step that runs more than this project's own verbs, or writes and removes beside the output folder.

    Raises:
        BadInput: naming the step and the field.
    """
    place = {"file": path, "record": index}
    if not re.fullmatch(r"[\w][\w.=+-]*", step.name):
        problem = f"{step.name!r} is not a valid name for a step"
        raise BadInput(problem, remedy="use letters, digits, dots and dashes", field="name", **place)
    module = len(step.command) > 1 and step.command[0] == "-m" and re.fullmatch(OURS, step.command[1])
    if not module and (not step.command or step.command[0] not in {*verbs} - BY_HAND):
        problem = f"runs {' '.join(step.command)[:80]!r}, which is not a step of this project"
        raise BadInput(problem, remedy="begin with a command, or with -m llava_mistral.…", field="run", **place)
    if FLAG in " ".join(step.command):
        problem = f"gives {FLAG}, by which a user vouches for a stranger's code"
        raise BadInput(problem, remedy="run that step by hand", field="run", **place)
    real = output.resolve()
    if step.makes and not (step.makes.resolve() != real and step.makes.resolve().is_relative_to(real)):
        problem = f"makes {str(step.makes)!r}, which is not below the output folder {output}"
        raise BadInput(problem, remedy="write {output}/NAME", field="makes", **place)
    for flag, word in _flags(step.command):
        if (
            flag in WRITES
            and word not in ("auto", "off")
            and not Path(word).expanduser().resolve().is_relative_to(real)
        ):
            problem = f"writes to {word!r}, which is not below the output folder {output}"
            raise BadInput(problem, remedy="write {output}/NAME", field="run", **place)
    if step.command[0] == "train" and "--output_dir" not in dict(_flags(step.command)):
        problem = "trains into the folder that a recipe names"
        raise BadInput(problem, remedy="give --output_dir {output}/NAME", field="run", **place)


def _flags(command: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each flag of a command with its value, after what its recipe says where that is a file."""
    words = [part for word in command for part in (word.split("=", 1) if word.startswith("--") else [word])]
    words = ["--" + word[2:].replace("-", "_") if word.startswith("--") else word for word in words]
    for flag, word in itertools.pairwise(words):
        if flag == "--config" and Path(word).is_file():
            named = read_yaml(word)
            yield from ((f"--{key}", str(named[key])) for key in ("vision_cache", "logging_dir") if named.get(key))
    yield from itertools.pairwise(words)


def _refuse_unknown(values: dict, known: set[str], path: str | Path, record: int | None) -> None:
    for key in values:
        if key not in known:
            remedy = f"use {', '.join(sorted(known))}"
            raise BadInput("there is no such key", remedy=remedy, file=path, record=record, field=str(key))
