"""A training recipe, checked before anything heavy is imported: its keys, its paths, its numbers.

Importing TRL takes several seconds; a misspelt key should not. The names that SFTConfig knows are therefore read from
the source of the installed libraries, without running them.
"""

import ast
import importlib.util
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from bad_input import BadInput

PLANNED_GPUS = ("A100-80GB", "H100", "H200")


@dataclass
class StageArguments:
    """What a stage needs beside TRL's SFTConfig."""

    stage: str = field(
        default="", metadata={"help": "pretrain (projector only) or finetune", "choices": ["pretrain", "finetune"]}
    )
    model_name_or_path: str = field(default="", metadata={"help": "checkpoint to start from: folder or Hub id"})
    model_revision: str | None = field(default=None, metadata={"help": "commit, tag or branch of a Hub checkpoint"})
    dataset: str = field(default="", metadata={"help": "LLaVA JSON, ScienceQA folder, datasets folder or Hub id"})
    dataset_split: str = field(default="train", metadata={"help": "split of a data set that has several"})
    image_folder: str | None = field(default=None, metadata={"help": "where the pictures of a LLaVA JSON lie"})
    answer_style: str = field(default="letter", metadata={"help": "ScienceQA answers: letter, or explained"})
    chat_template: str | None = field(
        default=None, metadata={"help": "wording of this stage; the checkpoint keeps its own"}
    )
    use_peft: bool = field(
        default=False, metadata={"help": "stage 2 by LoRA on the text model; the output is an adapter with projector"}
    )
    lora_r: int = field(default=128, metadata={"help": "rank of the LoRA matrices"})
    lora_alpha: int = field(default=256, metadata={"help": "LoRA's steps are scaled by lora_alpha / lora_r"})
    lora_dropout: float = field(default=0.05, metadata={"help": "share of a LoRA layer's inputs that are dropped"})
    mm_projector_lr: float = field(default=2e-5, metadata={"help": "LoRA: learning rate of the projector"})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "QLoRA: the frozen text model in 4 bits; needs a GPU and bitsandbytes"}
    )
    plan: bool = field(default=False, metadata={"help": "print what the run takes and how long, and do not train"})
    plan_gpu: str | None = field(
        default=None,
        metadata={"help": "GPU to plan for, instead of the one present", "choices": list(PLANNED_GPUS)},
    )
    plan_gpus: int | None = field(default=None, metadata={"help": "how many GPUs to plan for"})
    force_fit: bool = field(default=False, metadata={"help": "train although the plan says that it cannot fit"})


SOURCES = {"trl": ("trainer/sft_config.py", "trainer/base_config.py"), "transformers": ("training_args.py",)}
NUMBERS = {
    "learning_rate": lambda value: 0 < value < math.inf,
    "num_train_epochs": lambda value: 0 < value < math.inf,
    "per_device_train_batch_size": lambda value: value >= 1,
    "gradient_accumulation_steps": lambda value: value >= 1,
    "weight_decay": lambda value: 0 <= value < math.inf,
    "lora_r": lambda value: value >= 1,
    "lora_alpha": lambda value: 0 < value < math.inf,
    "lora_dropout": lambda value: 0 <= value < 1,
    "mm_projector_lr": lambda value: 0 < value < math.inf,
    "plan_gpus": lambda value: value >= 1 and value == int(value),
}
OF_LORA = ("lora_r", "lora_alpha", "lora_dropout", "mm_projector_lr")


def known_keys() -> set[str]:
    """Names of the fields of `SFTConfig`, its parents and `StageArguments`, without importing trl or transformers."""
    names = set(StageArguments.__dataclass_fields__)
    for package, files in SOURCES.items():
        root = Path(importlib.util.find_spec(package).origin).parent
        for file in files:
            for node in ast.parse((root / file).read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
                    names |= {line.target.id for line in fields}
    return names


def read_yaml(path: str | Path) -> dict:
    """Read a YAML file of keys and values; raises `BadInput` for anything else."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", remedy="give a YAML recipe", file=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"is not YAML ({error})", remedy="mend the recipe", file=path) from None
    if not isinstance(values, dict):
        raise BadInput("is not a mapping of keys to values", remedy="write `key: value` lines", file=path)
    return values


def read_recipe(path: str | Path) -> dict:
    """Read a training recipe, refusing what is no recipe and keys that nobody would read."""
    values = read_yaml(path)
    known = known_keys()
    for key in values:
        if key not in known:
            raise BadInput(
                "there is no such key", remedy=f"did you mean {_nearest(key, known)}?", file=path, field=key
            )
    return values


def _nearest(key: str, known: set[str]) -> str:
    from difflib import get_close_matches

    return (get_close_matches(str(key), sorted(known), 1, 0) or ["another"])[0]


def given_values(arguments: list[str]) -> tuple[dict, str | None]:
    """What recipe and command line say together, the command line last; and the recipe's path.

    Only for checking: TrlParser parses the same arguments again, with types.
    """
    pairs, known = {}, known_keys() | {"config"}
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if not flag.startswith("--"):
            continue
        name, _, value = flag.removeprefix("--").replace("-", "_").partition("=")
        name = name.removeprefix("no_") if name not in known else name  # the parser's own way to say false
        if name not in known:
            raise BadInput("there is no such flag", remedy=f"did you mean --{_nearest(name, known)}?", field=name)
        value = flag.partition("=")[2] or following
        pairs[name] = "" if value.startswith("--") else value  # a switch may stand without a value
    recipe = pairs.pop("config", None)
    values = read_recipe(recipe) if recipe else {}
    return {**values, **pairs}, recipe


def check_recipe(values: dict, file: str | None) -> None:
    """Refuse what can be known to fail: a missing stage, path or output, or a number outside its range.

    Raises:
        BadInput: names the key.
    """
    for key in ("stage", "model_name_or_path", "dataset", "output_dir"):
        if not isinstance(values.get(key), str) or not values[key]:
            problem = f"{values[key]!r} is no text" if values.get(key) else "is not given"
            raise BadInput(problem, remedy=f"add it to the recipe or pass --{key}", file=file, field=key)
    if values["stage"] not in ("pretrain", "finetune"):
        raise BadInput(f"{values['stage']!r} is no stage", remedy="use pretrain or finetune", file=file, field="stage")
    for key, fits in NUMBERS.items():
        if key in values and not _is_number(values[key], fits):
            raise BadInput(f"{values[key]!r} is out of range", remedy="give a positive number", file=file, field=key)
    _check_lora(values, file)
    if values.get("plan_gpu") not in (None, *PLANNED_GPUS):
        known = f"use one of {', '.join(PLANNED_GPUS)}"
        raise BadInput(f"{values['plan_gpu']!r} is not known", remedy=known, file=file, field="plan_gpu")
    _check_folder(values["model_name_or_path"], "config.json", "model_name_or_path", file)
    _check_exists(values["dataset"], "dataset", file)
    if values.get("image_folder"):
        _check_exists(str(values["image_folder"]) + "/", "image_folder", file)
    if values.get("chat_template") and not Path(values["chat_template"]).is_file():
        raise BadInput(
            "no such file", remedy="give a .jinja template", file=values["chat_template"], field="chat_template"
        )
    output = Path(values["output_dir"])
    if output.exists() and not output.is_dir():
        raise BadInput("the output is a file", remedy="name a new folder", file=output, field="output_dir")
    if (output / "run.json").is_file():
        raise BadInput(
            "the folder holds a finished run",
            remedy="name a new folder or remove this one",
            file=output,
            field="output_dir",
        )
    if output.is_dir() and not _is_empty_or_interrupted(output):
        raise BadInput(
            "the folder holds something else", remedy="name an empty or a new folder", file=output, field="output_dir"
        )


def _check_lora(values: dict, file: str | None) -> None:
    asked = is_true(values.get("use_peft", False))
    if asked and values["stage"] == "pretrain":
        raise BadInput(
            "stage 1 trains the projector in full and has no use for LoRA",
            remedy="leave it out, or use it with --stage finetune",
            file=file,
            field="use_peft",
        )
    idle = [key for key in OF_LORA if key in values]
    if idle and not asked:
        raise BadInput("has no effect without LoRA", remedy="add --use_peft or leave it out", file=file, field=idle[0])
    _check_four_bit(values, asked, file)


def _check_four_bit(values: dict, lora: bool, file: str | None) -> None:
    if not is_true(values.get("load_in_4bit", False)):
        return
    if not lora:
        remedy = "add --use_peft or leave it out"
        raise BadInput("weights of 4 bits cannot be trained", remedy=remedy, file=file, field="load_in_4bit")
    planned = is_true(values.get("plan", False))
    if not planned and importlib.util.find_spec("bitsandbytes") is None:
        remedy = "pip install 'llava-mistral[qlora]' on a machine with a GPU, or leave it out for LoRA"
        raise BadInput("bitsandbytes is not installed", remedy=remedy, file=file, field="load_in_4bit")


def is_true(value) -> bool:
    """A switch as YAML and the command line give it; one without a value is ``""``."""
    return str(value).lower() not in ("false", "no", "n", "f", "0", "none")


def is_finished(values: dict) -> bool:
    """Whether the output folder holds the finished run of these very values; then there is nothing to do."""
    record = Path(str(values.get("output_dir"))) / "run.json"
    try:
        return json.loads(record.read_text(encoding="utf-8"))["asked"] == json.loads(json.dumps(values, default=str))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_empty_or_interrupted(output: Path) -> bool:
    """An interrupted run leaves checkpoints, TRL's card and logs beside them, or a half-made `.finished`."""
    left = ("checkpoint-", ".finished")
    left += ("README.md", "runs") if any(output.glob("checkpoint-*")) else ()
    return all(entry.name.startswith(left) for entry in output.iterdir())


def _is_number(value, fits) -> bool:
    try:
        return bool(fits(float(value)))
    except (TypeError, ValueError):
        return False


def _looks_like_path(value: str) -> bool:
    return value.startswith((".", "/", "~")) or value.count("/") != 1 or Path(value).suffix in (".json", ".parquet")


def _check_exists(value: str, key: str, file: str | None) -> None:
    if _looks_like_path(value) and not Path(value).expanduser().exists():
        raise BadInput(f"{value.rstrip('/')} does not exist", remedy="give an existing path", file=file, field=key)


def _check_folder(value: str, marker: str, key: str, file: str | None) -> None:
    _check_exists(value, key, file)
    if (Path(value) / "adapter_config.json").is_file() and not (Path(value) / marker).is_file():
        raise BadInput(
            "holds an adapter, not a checkpoint",
            remedy="merge it into its base first (peft's merge_and_unload) or give the base",
            file=value,
            field=key,
        )
    if Path(value).is_dir() and not (Path(value) / marker).is_file():
        raise BadInput(f"there is no {marker} in it", remedy="give a checkpoint folder", file=value, field=key)
