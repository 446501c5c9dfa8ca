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

from llava_mistral.data.sources import image_folders
from llava_mistral.ground.bad_input import BadInput, check_folders_above
from llava_mistral.ground.checkpoint_headers import check_files
from llava_mistral.ground.recipe_files import read_yaml
from llava_mistral.training.reports import check_reports
from llava_mistral.training.saving.output_lock import LOCK
from llava_mistral.training.saving.whole_checkpoints import DAMAGED, PARTIAL
from processing import CHAT_TEMPLATES

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
    dataset_split: str | None = field(
        default=None, metadata={"help": "split, which must exist; train or the only one"}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a data set with several"})
    image_folder: str | None = field(
        default=None, metadata={"help": "folder that the pictures lie below; may be given several times"}
    )
    conversations: str = field(
        default="whole",
        metadata={
            "help": "one sequence each, every answer learned; or one per answer",
            "choices": ["whole", "answers"],
        },
    )
    answer_style: str = field(default="letter", metadata={"help": "ScienceQA answers: letter, or explained"})
    columns: str | None = field(
        default=None, metadata={"help": "columns of a datasets folder or Hub id: question=theirs,answer=theirs,…"}
    )
    check_pictures: str = field(
        default="full", metadata={"help": "before training, decode every picture (full), look at its header, or none"}
    )
    on_bad_sample: str = field(default="error", metadata={"help": "error, or skip: listed in skipped.json"})
    max_bad_samples: float = field(default=0.01, metadata={"help": "share of skipped samples that stops the run"})
    chat_template: str | None = field(
        default=None, metadata={"help": "wording of this stage; the checkpoint keeps its own"}
    )
    may_drop_question: bool = field(
        default=False, metadata={"help": "stage 2 with a template that drops the question, to measure what that costs"}
    )
    packed: bool = field(
        default=True, metadata={"help": "lay samples end to end, without padding; loss and gradients are the same"}
    )
    row_tokens: int = field(
        default=4096,
        metadata={"help": "packed: a row that would be longer is made of fewer samples, in more rows a step"},
    )
    use_peft: bool = field(
        default=False, metadata={"help": "stage 2 by LoRA on the text model; the output is an adapter with projector"}
    )
    lora_r: int = field(default=128, metadata={"help": "rank of the LoRA matrices"})
    lora_alpha: int = field(default=256, metadata={"help": "LoRA's steps are scaled by lora_alpha / lora_r"})
    lora_dropout: float = field(default=0.05, metadata={"help": "share of a LoRA layer's inputs that are dropped"})
    mm_projector_lr: float = field(default=2e-5, metadata={"help": "LoRA: learning rate of the projector"})
    eval_dataset: str | None = field(default=None, metadata={"help": "held-out data, for --eval_strategy"})
    eval_split: str | None = field(
        default=None, metadata={"help": "split of --eval_dataset that is held out; validation, or test"}
    )
    sample_answers: int = field(default=4, metadata={"help": "held-out rows answered for you at each evaluation"})
    frozen_dtype: str = field(
        default="auto",
        metadata={
            "help": "with bf16, auto keeps frozen matrices in 16 bits where that changes no bit of the result",
            "choices": ["auto", "float32"],
        },
    )
    vision_cache: str = field(
        default="auto",
        metadata={
            "help": "folder for what the tower makes of pictures, used by all epochs and runs; auto: below the "
            "Hugging Face cache, when a picture is read more than once; off: every epoch reads every picture again"
        },
    )
    vision_cache_gb: float = field(default=32.0, metadata={"help": "gigabytes (10^9) that folder may take"})
    force_resume: bool = field(
        default=False, metadata={"help": "go on from a checkpoint though data or recipe changed since"}
    )
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
    "per_device_eval_batch_size": lambda value: value >= 1,
    "gradient_accumulation_steps": lambda value: value >= 1,
    "weight_decay": lambda value: 0 <= value < math.inf,
    "max_grad_norm": lambda value: 0 <= value < math.inf,
    "row_tokens": lambda value: value >= 1,
    "lora_r": lambda value: value >= 1,
    "lora_alpha": lambda value: 0 < value < math.inf,
    "lora_dropout": lambda value: 0 <= value < 1,
    "mm_projector_lr": lambda value: 0 < value < math.inf,
    "sample_answers": lambda value: value >= 0 and value == int(value),
    "max_bad_samples": lambda value: 0 <= value <= 1,
    "vision_cache_gb": lambda value: 0 < value < math.inf,
    "plan_gpus": lambda value: value >= 1 and value == int(value),
}
CHOICES = {"on_bad_sample": ("error", "skip"), "check_pictures": ("full", "header", "none")}
# Of SFTConfig: what this verb decides or leaves to another, so that a value would be ignored, or worse, obeyed.
NOT_HERE = {
    "resume_from_checkpoint": "leave it out: the same command goes on from its own last whole checkpoint",
    "max_length": "leave it out: cutting a row would cut its picture; drop the rows that are too long",
    "push_to_hub": "leave it out, and publish the finished folder with llava-mistral publish",
    "hub_token": "leave it out: it would be written beside the weights; llava-mistral publish takes HF_TOKEN",
}
OF_LORA = ("lora_r", "lora_alpha", "lora_dropout", "mm_projector_lr")
# Of StageArguments: may differ between a checkpoint and the run that goes on with it. The data itself is compared.
WITHOUT_EFFECT = (
    *(
        "dataset",
        "dataset_split",
        "dataset_config",
        "conversations",
        "image_folder",
        "columns",
        "check_pictures",
        "on_bad_sample",
        "max_bad_samples",
    ),
    *("eval_dataset", "eval_split", "sample_answers", "vision_cache", "vision_cache_gb", "frozen_dtype"),
    *("may_drop_question", "force_resume", "plan", "plan_gpu", "plan_gpus", "force_fit"),
)
# A finished model, whole, and then its record, on their way into the output folder (`run_record.complete_run`).
FINISHED, RECORD = ".finished", ".run.json"
# What a killed run leaves: checkpoints, whole and damaged, what it was writing, its lock's file, its first record.
BEGUN = "run.partial.json"  # what is known of a run when it begins; `run.json` replaces it
LEFTOVERS = ("checkpoint-", DAMAGED, PARTIAL, LOCK, BEGUN, f".{BEGUN}", "skipped.json")


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
    for flag, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if not flag.startswith("--"):
            continue
        name, _, value = flag.removeprefix("--").replace("-", "_").partition("=")
        denied = name not in known and name.removeprefix("no_") in known  # the parser's own way to say false
        name = name.removeprefix("no_") if denied else name
        if name not in known:
            raise BadInput("there is no such flag", remedy=f"did you mean --{_nearest(name, known)}?", field=name)
        value = "False" if denied else flag.partition("=")[2] or following
        pairs[name] = "" if value.startswith("--") else value  # a switch may stand without a value
    recipe = pairs.pop("config", None)
    values = read_recipe(recipe) if recipe else {}
    return {**values, **pairs}, recipe


def template_file(name: str) -> Path:
    """The file of a chat template: one of ours by its bare name, which is how `run.json` and cards note it."""
    ours = CHAT_TEMPLATES / f"{name}.jinja"
    return ours if Path(name).name == name and ours.is_file() else Path(name)


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
    for key, choices in CHOICES.items():
        if key in values and values[key] not in choices:
            raise BadInput(f"{values[key]!r} is unknown", remedy=f"use {', '.join(choices)}", file=file, field=key)
    for key, remedy in NOT_HERE.items():
        if str(values.get(key)).lower() not in ("none", "null", "false"):
            raise BadInput("has no place here", remedy=remedy, file=file, field=key)
    _check_lora(values, file)
    check_reports(values, file)
    _check_packing(values, file)
    if values.get("plan_gpu") not in (None, *PLANNED_GPUS):
        known = f"use one of {', '.join(PLANNED_GPUS)}"
        raise BadInput(f"{values['plan_gpu']!r} is not known", remedy=known, file=file, field="plan_gpu")
    base, key = values["model_name_or_path"], "model_name_or_path"
    _check_folder(base, "config.json", key, file)
    _check_exists(values["dataset"], "dataset", file)
    _check_exists(values.get("eval_dataset") or values["dataset"], "eval_dataset", file)
    image_folders(values.get("image_folder"))
    cache = values.get("vision_cache") or "off"  # YAML reads an unquoted off as false
    if not isinstance(cache, str) or Path(cache).expanduser().is_file():
        raise BadInput(f"{cache!r} is no folder", remedy="name one, or auto or off", file=file, field="vision_cache")
    if values.get("chat_template") and not template_file(values["chat_template"]).is_file():
        raise BadInput(
            "no such file", remedy="give a .jinja template", file=values["chat_template"], field="chat_template"
        )
    output = Path(values["output_dir"])
    if output.exists() and not output.is_dir():
        raise BadInput("the output is a file", remedy="name a new folder", file=output, field="output_dir")
    check_folders_above(output, "output_dir")
    if _record(output):
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
    if Path(base).is_dir():
        check_files(base, key, weights=not is_true(values.get("plan", False)))


def _check_packing(values: dict, file: str | None) -> None:
    for key in ("packing", "padding_free"):
        if is_true(values.get(key, False)):
            raise BadInput(
                "TRL's own way has none for pictures",
                remedy="leave it out: packed, which is on by default, does without padding",
                file=file,
                field=key,
            )
    strategy = values.get("train_sampling_strategy", "random")
    if strategy != "random" and is_true(values.get("packed", True)):
        raise BadInput(
            f"{strategy!r} has no effect on packed batches",
            remedy="leave it out, or add --packed False",
            file=file,
            field="train_sampling_strategy",
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
        remedy = "pip install '.[qlora]' on a machine with a GPU, or leave it out for LoRA"
        raise BadInput("bitsandbytes is not installed", remedy=remedy, file=file, field="load_in_4bit")


def is_true(value) -> bool:
    """A switch as YAML and the command line give it; one without a value is ``""``."""
    return str(value).lower() not in ("false", "no", "n", "f", "0", "none")


def is_finished(values: dict) -> bool:
    """Whether the output folder holds the finished run of these very values; then there is nothing to learn."""
    record = _record(Path(str(values.get("output_dir"))))
    try:
        return json.loads(record.read_text(encoding="utf-8"))["asked"] == json.loads(json.dumps(values, default=str))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _record(output: Path) -> Path | None:
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
    folder = Path(value)
    if folder.is_file():
        raise BadInput("is a file, not a folder", remedy="give a checkpoint folder", file=value, field=key)
    left = any((folder / name).exists() for name in (FINISHED, RECORD, PARTIAL))
    if left or (any(folder.glob("checkpoint-*")) and not (folder / marker).is_file()):
        remedy = "give the command that trains it again, until it says that it is finished"
        raise BadInput("holds a run that was not finished", remedy=remedy, file=value, field=key)
    if Path(value).is_dir() and not (Path(value) / marker).is_file():
        raise BadInput(f"there is no {marker} in it", remedy="give a checkpoint folder", file=value, field=key)
