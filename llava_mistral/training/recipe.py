"""A training recipe: YAML file and flags, read once and with types by TRL's own parser."""

import argparse
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.recipe_files import read_yaml, recipe_file
from llava_mistral.training.recipe_keys import nearest
from processing import CHAT_TEMPLATES

PLANNED_GPUS = ("A100-80GB", "H100", "H200")
LORA_PROJECTOR_LR = 2e-5  # as scripts/v1_5/finetune_lora.sh in haotian-liu/LLaVA
_ABSENT = object()


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
        default=None, metadata={"help": "chat template of this stage; the checkpoint keeps its own"}
    )
    may_drop_question: bool = field(
        default=False, metadata={"help": "stage 2 with a template that drops the question, to measure what that costs"}
    )
    packed: bool = field(
        default=True, metadata={"help": "place samples end to end, without padding; loss and gradients are the same"}
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
    mm_projector_lr: float | None = field(
        default=None,
        metadata={"help": "stage 2: learning rate of the projector; by default 2e-5 with LoRA, else learning_rate"},
    )
    eval_dataset: str | None = field(default=None, metadata={"help": "held-out data, for --eval_strategy"})
    eval_split: str | None = field(
        default=None, metadata={"help": "split of --eval_dataset that is held out; validation, or test"}
    )
    held_out: float = field(
        default=0.0,
        metadata={"help": "rows kept out of training for --eval_strategy: how many, or below 1 a share (at most 500)"},
    )
    sample_answers: int = field(default=4, metadata={"help": "held-out rows answered for you at each evaluation"})
    frozen_dtype: str = field(
        default="auto",
        metadata={
            "help": "with bf16, auto keeps frozen matrices in 16 bits where that changes no bit of the result",
            "choices": ["auto", "float32"],
        },
    )
    trained_dtype: str = field(
        default="float32",
        metadata={
            "help": "full stage 2: bfloat16 keeps the text model's matrices, their gradients and AdamW's states in 6 "
            "bytes a weight instead of 16, with stochastic rounding (docs/training/plan.md)",
            "choices": ["float32", "bfloat16"],
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
        default=False, metadata={"help": "resume from a checkpoint although the data or the recipe changed"}
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "QLoRA: the frozen text model in 4 bits; needs a GPU and bitsandbytes"}
    )
    plan: bool = field(default=False, metadata={"help": "print what the run takes and how long, and do not train"})
    plan_gpu: str | None = field(
        default=None,
        metadata={"help": "GPU to plan for, instead of the one present", "choices": list(PLANNED_GPUS)},
    )
    peak_tflops: float | None = field(default=None, metadata={"help": "dense bfloat16 TFLOP/s of an unknown GPU"})
    plan_gpus: int | None = field(default=None, metadata={"help": "how many GPUs to plan for"})
    force_fit: bool = field(default=False, metadata={"help": "train although the plan says that it cannot fit"})

    @property
    def projector_lr(self) -> float | None:
        """The projector's own learning rate; None where it is the common one."""
        if self.mm_projector_lr is None and self.use_peft:
            return LORA_PROJECTOR_LR
        return self.mm_projector_lr


@dataclass(frozen=True)
class Recipe:
    """What a run was asked for.

    Args:
        stage: what this project adds to TRL's values.
        given: the values that recipe and flags name, with types; a flag wins over the recipe.
        file: the recipe's, or None.
        flags: names of what the command line gave.
    """

    stage: StageArguments
    given: dict[str, Any]
    file: str | None
    flags: frozenset[str]

    @cached_property
    def config(self) -> Any:
        """The `SFTConfig`, with what this verb decides in place of TRL's defaults.

        Raises:
            BadInput: what `TrainingArguments` refuses, such as bf16 on a machine that has none.
        """
        import torch
        from trl import SFTConfig

        values = {key: value for key, value in self.given.items() if key in SFTConfig.__dataclass_fields__}
        values.setdefault("logging_nan_inf_filter", False)  # a loss that is no number is shown, not replaced by a mean
        values |= {"max_length": None, "remove_unused_columns": False}  # a cut would take image tokens with it
        values.setdefault("ddp_find_unused_parameters", False)  # none is unused, pictures or not: see VisionFeatures
        if self.stage.trained_dtype == "bfloat16":
            values.setdefault("optim", "adamw_torch_8bit")
            values.setdefault("optim_args", "bf16_stochastic_round=True")
        if not torch.cuda.is_available():
            if self.stage.plan:
                values["use_cpu"] = True  # a plan for a GPU is made anywhere
            elif not values.get("use_cpu"):
                values.setdefault("bf16", False)  # TRL's default, which torch refuses without a GPU
        try:
            with warnings.catch_warnings():  # TRL sets the flag itself, by the name that transformers has given up
                warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
                return SFTConfig(**values)
        except (ValueError, TypeError) as error:
            remedy = "correct the recipe or the flag; `llava-mistral train --help` lists them"
            raise BadInput(str(error), remedy=remedy) from None

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.given["output_dir"]).expanduser()

    def place(self, key: str) -> dict[str, str | None]:
        """Where `key` was given, as `BadInput` names it."""
        return {"file": None if key in self.flags else self.file, "field": key}


def parse_recipe(arguments: list[str]) -> Recipe:
    """Read recipe and flags; what they leave out has the default of `StageArguments` or `SFTConfig`.

    Raises:
        BadInput: a key or flag that does not exist, with the nearest one that does; a value of another type, out of
            range, or without effect here.
    """
    from trl import SFTConfig, TrlParser

    from llava_mistral.training.recipe_checks import check_given

    epilog = (
        "--config gives any of these by YAML file or by name, such as mistral/pretrain; a flag overrides it."
        " --verbose: tracebacks."
    )
    parser = TrlParser((StageArguments, SFTConfig), prog="llava-mistral train", epilog=epilog, allow_abbrev=False)
    hints = {**get_type_hints(StageArguments), **get_type_hints(SFTConfig)}
    names = {line.name for kind in (StageArguments, SFTConfig) for line in fields(kind) if line.init}
    file, arguments = _without_config(arguments)
    flags = _typed(parser, arguments, names, None)
    values = read_yaml(file) if file else {}
    for key in values:
        if key not in names:
            raise BadInput("there is no such key", remedy=f"did you mean {nearest(key, names)}?", file=file, field=key)
    words = [word for key, value in values.items() for word in _words(key, value, hints[key])]
    from_file = {key: value for key, value in values.items() if not _is_scalar(value)}
    given = {**from_file, **_typed(parser, words, names, file), **flags}
    place = {key: None if key in flags else file for key in names}
    check_given(given, place, SFTConfig)
    stage = StageArguments(**{key: given[key] for key in StageArguments.__dataclass_fields__ if key in given})
    return Recipe(stage, given, file, frozenset(flags))


def _without_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The recipe's file, and the other arguments; a negative number is joined to its flag, as argparse wants it."""
    file, rest, words = None, [], iter(arguments)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            file = str(recipe_file(word.partition("=")[2] or next(words, "")))
        elif rest and rest[-1].startswith("--") and "=" not in rest[-1] and re.match(r"-(\d|\.|inf|nan)", word):
            rest[-1] += f"={word}"
        else:
            rest.append(word)
    return file, rest


def _typed(parser: Any, words: list[str], names: Iterable[str], file: str | None) -> dict[str, Any]:
    """What `words` give, by the parser's types; nothing of its defaults."""

    def refuse(message: str) -> None:
        named = re.match(r"argument --(?:no_)?(\w+)[^:]*: (.*)", message)
        key, problem = named.groups() if named else (None, message)
        remedy = "run `llava-mistral train --help` for the flags"
        raise BadInput(problem, remedy=remedy, file=file, field=key)

    parser.error = refuse
    absent = argparse.Namespace(**dict.fromkeys(names, _ABSENT))
    found, unknown = parser.parse_known_args(words, absent)
    for word in unknown:
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        if not word.startswith("-"):
            raise BadInput(f"{word!r} belongs to no flag", remedy="run `llava-mistral train --help` for the flags")
        raise BadInput("there is no such flag", remedy=f"did you mean --{nearest(name, names)}?", field=name)
    return {key: value for key, value in vars(found).items() if value is not _ABSENT}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def _words(key: str, value: Any, hint: Any) -> list[str]:
    """A recipe's value as a flag. YAML reads an unquoted `no` or `off` as false, also where a word is meant."""
    if not _is_scalar(value):
        return []
    if value is False and bool not in (hint, *get_args(hint)):
        value = "off" if key == "vision_cache" else "no"
    return [f"--{key}={value}"]


def template_file(name: str) -> Path:
    """The file of a chat template: one of ours by its bare name, which is how `run.json` and cards note it."""
    ours = CHAT_TEMPLATES / f"{name}.jinja"
    return ours if Path(name).name == name and ours.is_file() else Path(name)


def stage_template(stage: StageArguments) -> Path | None:
    """The file of the chat template that a stage is worded with; None for the checkpoint's own."""
    wording = stage.chat_template or ("plain" if stage.stage == "pretrain" else None)
    return template_file(wording) if wording else None
