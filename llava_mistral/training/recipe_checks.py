"""Checks of a recipe before data or weights are read."""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from llava_mistral.data.sources import image_folders
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import check_files
from llava_mistral.ground.hub_access import reach_hub
from llava_mistral.training.recipe import PLANNED_GPUS, Recipe, template_file
from llava_mistral.training.recipe_keys import ACCEPTED, REFUSED
from llava_mistral.training.saving.output_folder import check_output, is_unfinished


def _at_least(least: float):
    return lambda value: value >= least


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _not_negative(value: float) -> bool:
    return 0 <= value < math.inf


RANGES = {
    **dict.fromkeys(("learning_rate", "num_train_epochs", "lora_alpha", "vision_cache_gb"), _positive),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), _at_least(1)),
    **dict.fromkeys(("gradient_accumulation_steps", "row_tokens", "lora_r"), _at_least(1)),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "sample_answers"), _not_negative),
    "lora_dropout": lambda value: 0 <= value < 1,
    "max_bad_samples": lambda value: 0 <= value <= 1,
    "held_out": lambda value: 0 <= value < 1 or value == int(value) > 0,
}
OPTIONAL_RANGES = {
    "mm_projector_lr": _positive,
    "peak_tflops": _positive,
    "plan_gpus": _at_least(1),
    "neftune_noise_alpha": _positive,
}
# Module that each name of `report_to` needs; where it is not the name itself.
MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "azure_ml": ("azureml",), "flyte": ("flytekit",)}
EXTRAS = {"tensorboard": ".[reports]"}
CHOICES = {
    "stage": ("pretrain", "finetune"),
    "on_bad_sample": ("error", "skip"),
    "check_pictures": ("full", "header", "none"),
    "answer_style": ("letter", "explained"),
    "plan_gpu": (None, *PLANNED_GPUS),
}
OF_LORA = ("lora_r", "lora_alpha", "lora_dropout")
OF_EVALUATION = ("sample_answers", "eval_steps", "eval_delay", "eval_on_start")
ROUNDS_AT_RANDOM = ("adamw_torch_8bit", "adamw_torch_4bit")  # torchao's, with an option of theirs
OUT_OF_RANGE = "give a positive number"


def check_given(given: dict[str, Any], files: Mapping[str, str | None], config: type) -> None:
    """Refuse keys that are absent, out of range, unknown, or without effect here.

    Args:
        given: what recipe and flags say, by the parser's types.
        files: where each key was given: the recipe's path, or None for the command line.
        config: `SFTConfig`.

    Raises:
        BadInput: names the key.
    """
    for key, remedy in REFUSED.items():
        if key in given and given[key] not in accepted(key, config):
            raise BadInput("is not allowed here", remedy=remedy, file=files[key], field=key)
    for key in ("stage", "model_name_or_path", "dataset", "output_dir"):
        if not isinstance(given.get(key), str) or not given[key]:
            problem = f"{given[key]!r} is not text" if given.get(key) else "is not given"
            file = files[key] or next(iter(filter(None, files.values())), None)
            raise BadInput(problem, remedy=f"add it to the recipe or pass --{key}", file=file, field=key)
    for key, fits in {**RANGES, **OPTIONAL_RANGES}.items():
        if key in given and not (given[key] is None and key in OPTIONAL_RANGES) and not _is_number(given[key], fits):
            problem = f"{given[key]!r} is out of range"
            raise BadInput(problem, remedy=OUT_OF_RANGE, file=files[key], field=key)
    for key, choices in CHOICES.items():
        if key in given and given[key] not in choices:
            known = f"use one of {', '.join(name for name in choices if name)}"
            raise BadInput(f"{given[key]!r} is not known", remedy=known, file=files[key], field=key)


def accepted(key: str, config: type) -> tuple:
    """The values of a key without effect here that say what happens anyway: its default, none, and no."""
    field = config.__dataclass_fields__[key]
    default = field.default if field.default is not MISSING else field.default_factory()
    return ACCEPTED.get(key, (None, default) if isinstance(default, bool) else (None, False, default))


def _is_number(value: Any, fits: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(fits(value))


def check_recipe(recipe: Recipe) -> None:
    """Refuse keys that cannot go together, paths that are not there, and more GPUs than one process can use.

    Raises:
        BadInput: names the key; and what `Recipe.config` raises, last.
    """
    _check_lora(recipe)
    check_reports(recipe)
    _check_packing(recipe)
    _check_evaluation(recipe)
    _check_trained_dtype(recipe)
    stage = recipe.stage
    _check_folder(recipe, stage.model_name_or_path)
    for key in ("dataset", "eval_dataset"):
        _check_exists(recipe, key, getattr(stage, key))
    image_folders(recipe.given.get("image_folder"))
    cache = stage.vision_cache or "off"
    if cache in ("True", "on") or Path(cache).expanduser().is_file():
        remedy = "name one, or auto or off"
        raise BadInput(f"{cache!r} is not a folder", remedy=remedy, **recipe.place("vision_cache"))
    if stage.chat_template and not template_file(stage.chat_template).is_file():
        place = {"file": stage.chat_template, "field": "chat_template"}
        raise BadInput("no such file", remedy="give a .jinja template", **place)
    check_output(recipe.output)
    if Path(stage.model_name_or_path).is_dir():
        check_files(stage.model_name_or_path, "model_name_or_path", weights=not stage.plan)
    check_gpus(recipe)


def check_gpus(recipe: Recipe) -> None:
    """Refuse several GPUs in one process, which the library would drive by DataParallel.

    Raises:
        BadInput: with the two ways out.
    """
    count = recipe.config.n_gpu
    if count > 1 and not recipe.stage.plan:
        raise BadInput(
            f"{count} GPUs are visible, and a plain start uses one",
            remedy=f"start with `accelerate launch --num_processes {count} train_sft.py …`, or with"
            " CUDA_VISIBLE_DEVICES=0 before the command",
            field="num_processes",
        )


def _check_packing(recipe: Recipe) -> None:
    stage, strategy = recipe.stage, recipe.given.get("train_sampling_strategy", "random")
    if strategy == "group_by_length" or (strategy != "random" and stage.packed):
        other = "add --packed False" if strategy == "sequential" else "use packed batches, which are dealt by length"
        problem = f"{strategy!r} has no effect on {'packed batches' if stage.packed else 'rows without token ids'}"
        remedy = f"leave it out, or {other}"
        raise BadInput(problem, remedy=remedy, **recipe.place("train_sampling_strategy"))
    if "row_tokens" in recipe.given and not stage.packed:
        remedy = "leave it out, or --packed False"
        raise BadInput("has no effect on padded batches", remedy=remedy, **recipe.place("row_tokens"))


def _check_evaluation(recipe: Recipe) -> None:
    stage = recipe.stage
    if stage.held_out and stage.eval_dataset:
        remedy = "leave it out, or --eval_dataset"
        raise BadInput("the held-out data is named already", remedy=remedy, **recipe.place("held_out"))
    idle = [] if stage.eval_dataset or stage.held_out else [key for key in OF_EVALUATION if key in recipe.given]
    idle += [] if stage.eval_dataset else [key for key in ("eval_split",) if key in recipe.given]
    if idle:
        raise BadInput("has no effect without --eval_dataset", remedy="leave it out", **recipe.place(idle[0]))


def _check_lora(recipe: Recipe) -> None:
    stage = recipe.stage
    if stage.use_peft and stage.stage == "pretrain":
        problem = "stage 1 trains the projector in full and has no use for LoRA"
        remedy = "leave it out, or use it with --stage finetune"
        raise BadInput(problem, remedy=remedy, **recipe.place("use_peft"))
    idle = [key for key in OF_LORA if key in recipe.given]
    if idle and not stage.use_peft:
        remedy = "add --use_peft or leave it out"
        raise BadInput("has no effect without LoRA", remedy=remedy, **recipe.place(idle[0]))
    if stage.mm_projector_lr is not None and stage.stage == "pretrain":
        problem, remedy = "stage 1 trains the projector alone", "use --learning_rate"
        raise BadInput(problem, remedy=remedy, **recipe.place("mm_projector_lr"))
    if not stage.load_in_4bit:
        return
    if not stage.use_peft:
        problem, remedy = "4-bit weights cannot be trained", "add --use_peft or leave it out"
        raise BadInput(problem, remedy=remedy, **recipe.place("load_in_4bit"))
    if not stage.plan and importlib.util.find_spec("bitsandbytes") is None:
        remedy = "pip install '.[qlora]' on a machine with a GPU, or leave it out for LoRA"
        raise BadInput("bitsandbytes is not installed", remedy=remedy, **recipe.place("load_in_4bit"))


def _check_trained_dtype(recipe: Recipe) -> None:
    """Refuse bfloat16 weights without effect, or without the stochastic rounding that keeps small steps."""
    stage = recipe.stage
    if stage.trained_dtype == "float32":
        return
    place = recipe.place("trained_dtype")
    if stage.stage == "pretrain" or stage.use_peft:
        problem = "has no effect where the text model's own weights are not trained"
        raise BadInput(problem, remedy="leave it out", **place)
    from llava_mistral.training.frozen_weights import is_safe

    config = recipe.config
    if not is_safe(config):
        remedy = "add --bf16 True, on one GPU or under DDP, or leave it out"
        raise BadInput("bfloat16 weights need bfloat16 arithmetic and whole weights", remedy=remedy, **place)
    optim, arguments = str(getattr(config.optim, "value", config.optim)), str(config.optim_args).replace(" ", "")
    if optim not in ROUNDS_AT_RANDOM or "bf16_stochastic_round=True" not in arguments:
        problem = "rounds a small step to nothing in a bfloat16 weight"
        remedy = "use --optim adamw_torch_8bit --optim_args bf16_stochastic_round=True, or leave --trained_dtype out"
        raise BadInput(problem, remedy=remedy, **recipe.place("optim"))
    if not stage.plan and importlib.util.find_spec("torchao") is None:
        remedy = "pip install '.[eight_bit]', or leave it out"
        raise BadInput("torchao is not installed", remedy=remedy, **place)


def _looks_like_path(value: str) -> bool:
    return value.startswith((".", "/", "~")) or value.count("/") != 1 or Path(value).suffix in (".json", ".parquet")


def _check_exists(recipe: Recipe, key: str, value: str | None) -> None:
    if value and _looks_like_path(value) and not Path(value).expanduser().exists():
        problem = f"{value.rstrip('/')} does not exist"
        raise BadInput(problem, remedy="give an existing path", **recipe.place(key))


def _check_folder(recipe: Recipe, value: str, key: str = "model_name_or_path") -> None:
    _check_exists(recipe, key, value)
    folder, place = Path(value), {"file": value, "field": key}
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        remedy = "merge it into its base first (peft's merge_and_unload) or give the base"
        raise BadInput("holds an adapter, not a checkpoint", remedy=remedy, **place)
    if folder.is_file():
        raise BadInput("is a file, not a folder", remedy="give a checkpoint folder", **place)
    if is_unfinished(folder):
        remedy = "give the command that trains it again, until it says that it is finished"
        raise BadInput("holds a run that was not finished", remedy=remedy, **place)
    if not recipe.stage.plan:
        reach_hub(value, field=key)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise BadInput("there is no config.json in it", remedy="give a checkpoint folder", **place)


def check_reports(recipe: Recipe) -> None:
    """Refuse a report whose library is missing, and an evaluation without data or schedule.

    Raises:
        BadInput: names the key.
    """
    names = recipe.given.get("report_to") or []
    for name in [names] if isinstance(names, str) else names:
        modules = MODULES.get(name, (name,))
        if name not in ("none", "all") and not any(importlib.util.find_spec(module) for module in modules):
            remedy = f"pip install '{EXTRAS.get(name, name)}', or use --report_to none"
            raise BadInput(f"{name!r} is not installed", remedy=remedy, **recipe.place("report_to"))
    key = "held_out" if recipe.stage.held_out else "eval_dataset"
    held_out, never = getattr(recipe.stage, key), recipe.given.get("eval_strategy", "no") == "no"
    if held_out and never:
        remedy = "add --eval_strategy epoch, or steps with --eval_steps N"
        raise BadInput("is never evaluated", remedy=remedy, **recipe.place(key))
    if not held_out and not never:
        remedy = "add --eval_dataset PATH_OR_ID, or --held_out 0.02"
        raise BadInput("there is no data to evaluate on", remedy=remedy, **recipe.place("eval_strategy"))
