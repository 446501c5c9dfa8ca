"""`llava-mistral train --help`: this project's flags by subject, then the few of SFTConfig that most runs set."""

import argparse
from collections.abc import Iterable
from dataclasses import Field, fields
from typing import Any

from llava_mistral.training.recipe import StageArguments

REQUIRED = ("stage", "model_name_or_path", "dataset", "output_dir")
GROUPS = {
    "what is trained": "stage model_name_or_path model_revision",
    "what it learns from": "dataset dataset_split dataset_config image_folder columns conversations answer_style "
    "chat_template may_drop_question check_pictures on_bad_sample max_bad_samples",
    "how the text model learns": "use_peft lora_r lora_alpha lora_dropout load_in_4bit mm_projector_lr",
    "what is shown while it trains": "held_out eval_dataset eval_split sample_answers",
    "what fits, and how fast it is": "plan plan_gpu plan_gpus peak_tflops force_fit packed row_tokens "
    "frozen_dtype trained_dtype vision_cache vision_cache_gb",
    "going on": "force_resume",
}
# Of SFTConfig's fields: what most runs set, and what it means here.
USUAL = {
    "output_dir": "folder that the run writes",
    "learning_rate": "highest learning rate of the schedule",
    "num_train_epochs": "how often every row is seen",
    "max_steps": "end after so many steps instead",
    "per_device_train_batch_size": "rows at once on each device",
    "gradient_accumulation_steps": "how often that, before the weights change",
    "lr_scheduler_type": "cosine, linear, constant, …",
    "warmup_steps": "steps until the highest rate; below 1 a share of all",
    "weight_decay": "AdamW's",
    "optim": "optimizer, such as adamw_torch",
    "bf16": "compute in bfloat16; needs a GPU or CPU that can",
    "gradient_checkpointing": "less memory, a third more time",
    "eval_strategy": "no, steps or epoch: when held-out rows are evaluated",
    "logging_steps": "steps between two lines",
    "save_strategy": "no, steps or epoch: when a checkpoint is kept, to go on from",
    "save_total_limit": "how many of them are kept",
    "report_to": "none, tensorboard, trackio, wandb, …",
    "use_cpu": "train on the CPU although there is a GPU",
    "seed": "seed of all that is random",
}


def add_flags(parser: argparse.ArgumentParser, everything: bool) -> None:
    """Add the flags of a recipe to a parser whose help is to be shown.

    Args:
        everything: also the other fields of SFTConfig, which takes the seconds of importing TRL.
    """
    parser.usage = "llava-mistral train --config RECIPE [--KEY VALUE …]"
    ours = {line.name: line for line in fields(StageArguments)}
    first = parser.add_argument_group("the recipe", "A YAML file with the keys below; a flag overrides it.")
    first.add_argument("--config", metavar="FILE_OR_NAME", help="its file, or the name of one here: mistral/pretrain")
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names.split():
            _add(group, ours[name])
    usual = parser.add_argument_group("TRL's SFTConfig, the usual ones", "All others are shown by --help-all.")
    for name, text in USUAL.items():
        usual.add_argument(f"--{name}", metavar="VALUE", help=f"{text}{_required(name)}")
    if everything:
        from trl import SFTConfig

        rest = parser.add_argument_group("TRL's SFTConfig, the others", "Some have no use here and are refused.")
        for line in fields(SFTConfig):
            if line.init and line.name not in USUAL:
                _add(rest, line)
    usual.add_argument("--help-all", action="store_true", help="show the other fields of SFTConfig, too")


def wants_help(arguments: Iterable[str]) -> bool:
    """Whether a command line asks for its flags."""
    return not {"-h", "--help", "--help-all", "--help_all"}.isdisjoint(arguments)


def _add(group: Any, line: Field) -> None:
    text = " ".join(str(line.metadata.get("help") or "").split()).replace("%", "%%").replace("%%%%", "%%")
    default = line.default if isinstance(line.default, int | float | str) and line.default != "" else None
    choices = line.metadata.get("choices")
    shown = {"metavar": f"{{{','.join(choices)}}}" if choices else "VALUE", "default": default}
    group.add_argument(f"--{line.name}", help=f"{text}{_required(line.name)}", **shown)


def _required(name: str) -> str:
    return " (required, here or in the recipe)" if name in REQUIRED else ""
