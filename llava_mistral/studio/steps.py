"""The steps of the studio: what is asked for, which command that makes, and where its report lies."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput


@dataclass(frozen=True)
class Field:
    """One thing that a step asks for.

    Args:
        name: the verb's flag.
        label: what the page calls it.
        value: what stands there at first.
        kind: `text`; `choice` of `choices`; or a path that is offered where it is there: `data`, `pictures`, `model`,
            `results`, `new`.
    """

    name: str
    label: str
    value: str = ""
    kind: str = "text"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Action:
    """One button: a command, its words from the fields of its step.

    Args:
        fields: their names; `<name>` for an argument without a flag, `name=flag` where the flag has another name.
        fixed: further words.
        report: where what it writes is shown, with the fields' values in braces; the newest file counts.
        output: of a training, the field that names the folder of its log.
    """

    label: str
    verb: str
    fields: str
    fixed: str = ""
    report: str = ""
    output: str = ""


@dataclass(frozen=True)
class Step:
    """One tab of the page."""

    name: str
    about: str
    fields: tuple[Field, ...]
    actions: tuple[Action, ...]


METHODS = ("principles", "random", "full")
RULES = ("", "letters", "exact", "normalised", "numeric", "yes_no", "f1")
COLUMNS = Field("columns", "columns, as question=ask,answer=reply,image=file")
PICTURES = Field("image_folder", "folder of the pictures", kind="pictures")
OUTPUT = "folder to write"
SOURCE, PUBLISHED = "dataset columns image_folder", "<kind> <folder> <repo_id> license results"

CHOOSE = Step(
    "1 Data",
    "Look at the data's faults first; nothing is written. Then keep what is worth training on.",
    (
        Field("dataset", "data: a table, a folder, or a Hub id", kind="data"),
        *(COLUMNS, PICTURES),
        Field("method", "method", "principles", "choice", METHODS),
        Field("size", "how many: 1000, or 80% (full: leave it empty)", "80%"),
        Field("source", "where the data comes from"),
        Field("license", "its licence, such as cc-by-4.0"),
        Field("output", OUTPUT, "pruned", "new"),
    ),
    (
        Action("Show its faults", "prune", SOURCE, "--dry_run"),
        Action("Choose", "prune", f"{SOURCE} method size source license output", report="{output}/report.html"),
    ),
)
TRAIN = Step(
    "2 Train",
    "The recipe is written for this data and this machine; change it as you like. A run that was stopped goes on.",
    (
        Field("data", "data: what was chosen, or all of it", "pruned", "data"),
        Field("model", "checkpoint to start from: a folder or a Hub id", kind="model"),
        *(COLUMNS, PICTURES),
        Field("config", "recipe: a file, or a name such as mistral/pretrain", "recipe.yaml", "new"),
        Field("output_dir", OUTPUT, "tuned", "new"),
    ),
    (
        Action("Write the recipe", "init", "<data> model columns image_folder config=output output_dir"),
        Action("Show the plan", "train", "config output_dir", "--plan"),
        Action("Train, or go on", "train", "config output_dir", "", "{output_dir}/samples/*.html", "output_dir"),
    ),
)
JUDGE = Step(
    "3 Judge",
    "Questions that were kept out of training, to a model as it was and as it is.",
    (
        Field("model", "checkpoint: a folder or a Hub id", "tuned", "model"),
        Field("dataset", "questions to judge by", kind="data"),
        *(COLUMNS, PICTURES),
        Field("match", "what a right answer is (empty: by the data)", "", "choice", RULES),
        Field("output", OUTPUT, "judged/after", "new"),
    ),
    (Action("Evaluate", "evaluate", f"model {SOURCE} match output", report="{output}/answers.html"),),
)
COMPARE = Step(
    "4 Compare",
    "Two results of the step before: is the difference more than chance?",
    (
        Field("first", "first results", "judged/before", "results"),
        Field("second", "second results", "judged/after", "results"),
        Field("output", OUTPUT, "judged/comparison", "new"),
    ),
    (Action("Compare", "compare", "<first> <second> output", report="{output}/report.html"),),
)
TALK = Step(
    "5 Talk",
    "A page of its own to ask one checkpoint, or two side by side. Stop it to go on here.",
    (Field("model", "checkpoint", "tuned", "model"), Field("second", "a second one", kind="model")),
    (Action("Open the chat", "chat", "<model> <second>"),),
)
PUBLISH = Step(
    "6 Publish",
    "Look at the card first; that sends nothing. The token is that of `hf auth login` or `HF_TOKEN`.",
    (
        Field("kind", "what", "model", "choice", ("model", "dataset")),
        Field("folder", "folder to publish", "tuned", "model"),
        Field("repo_id", "OWNER/NAME on the Hub"),
        Field("license", "licence, such as apache-2.0"),
        Field("results", "summary.json for a model's card", kind="new"),
    ),
    (
        Action("Show the card", "publish", PUBLISHED, "--dry_run --preview card", "card/README.html"),
        Action("Publish", "publish", PUBLISHED),
    ),
)
STEPS = (CHOOSE, TRAIN, JUDGE, COMPARE, TALK, PUBLISH)


def words_of(step: Step, action: Action, values: Mapping[str, str], folder: Path) -> list[str]:
    """The words of a command after `llava-mistral`; what is empty is left out.

    Args:
        values: by the fields' names.
        folder: no path leads out of it.

    Raises:
        BadInput: a value is a path elsewhere, would be read as a flag, or would take an empty one's place.
    """
    kinds, words, flags = {field.name: field.kind for field in step.fields}, [action.verb], []
    empty = ""
    for given in action.fields.split():
        name, _, flag = given.strip("<>").partition("=")
        value = (values.get(name) or "").strip()
        if not value:
            empty = empty or (name if given.startswith("<") else "")
            continue
        if value.startswith("-") or not value.isprintable():
            raise BadInput(f"{value!r} is not a value", remedy="give another", field=name)
        if kinds[name] not in ("text", "choice"):
            inside(value.rpartition("=")[2] if kinds[name] == "results" else value, folder, name)  # NAME=FOLDER
        if given.startswith("<"):
            if empty:
                raise BadInput("is empty", remedy="fill it in", field=empty)
            words.append(value)
        else:
            flags += [f"--{flag or name}", value]
    return [*words, *flags, *action.fixed.split()]


def inside(value: str, folder: Path, field: str) -> Path:
    """The path below the folder; links that lie in it may lead where they like.

    Raises:
        BadInput: it leads elsewhere.
    """
    path = Path(os.path.abspath(folder / value))
    if value.startswith("~") or not path.is_relative_to(os.path.abspath(folder)):  # verbs read ~ as the home folder
        remedy = "give a path below it, or start the studio with --folder"
        raise BadInput(f"{value} lies outside the studio's folder", remedy=remedy, field=field)
    return path


def command_text(words: list[str]) -> str:
    """The command as one types it."""
    return shlex.join(["llava-mistral", *words])
