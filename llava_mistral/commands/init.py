"""Write a recipe for your data and this machine, which `llava-mistral train` runs as it is.

llava-mistral init pruned --model OWNER/NAME
llava-mistral init data.csv --model checkpoints/pretrained --image_folder pictures --output recipe.yaml
"""

import argparse
import os
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.foreign_code import add_flag
from llava_mistral.ground.whole_file import write_whole

FEW = 10  # rows below which none is held out
SHARE = 0.02
HELD_OUT = """Kept out of training: {:,} of the rows (held_out below 1 is a share, at most 500). At each epoch's end
their loss is measured, and some are answered for you in samples/. held_out: 0 alone trains on everything."""
GOES_ON = "A run that is stopped goes on from its last checkpoint when the same command is given again."


def build_parser() -> VerbParser:
    parser = VerbParser(prog="llava-mistral init", about=__doc__)
    parser.add_argument("data", metavar="DATA", help="data in any format that training accepts: a path or a Hub id")
    parser.add_argument("--model", required=True, metavar="MODEL", help="checkpoint to start from: folder or Hub id")
    parser.add_argument("--output", default="recipe.yaml", metavar="FILE", help="recipe to write")
    parser.add_argument("--output_dir", default="tuned", metavar="DIR", help="the folder that training writes")
    columns = "what the data's columns are, where their names do not tell"
    parser.add_argument("--columns", metavar="OURS=THEIRS,…", help=columns)
    parser.add_argument("--image_folder", action="append", metavar="DIR", help="folder that the pictures lie below")
    parser.add_argument("--split", help="split to train on; by default train, or the only one")
    parser.add_argument("--dataset_config", metavar="NAME", help="configuration of a data set that has several")
    add_flag(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    output = Path(args.output)
    if output.exists():
        problem, remedy = "is there already", "name another file, or remove it"
        raise BadInput(problem, remedy=remedy, file=output, field="output")
    if not output.absolute().parent.is_dir():
        raise BadInput("its folder does not exist", remedy="make it first", file=output, field="output")
    named, form = described(args)
    recipe, rows = read(named)
    held_out = SHARE if len(rows) >= FEW else 0
    from llava_mistral.training.held_out import set_aside
    from llava_mistral.training.plan.proposal import propose

    kept, aside = set_aside(rows, held_out, args.data) if held_out else (rows, [])
    proposal = propose(recipe, kept)
    write_whole(output, text_of(named, form, proposal, (len(kept), len(aside))))
    print(f"{args.data}: {form}, {len(kept):,} rows to train on, {len(aside):,} held out")
    if named.get("columns") and not args.columns:
        print(f"columns: {named['columns']}")
    print(f"{proposal.machine}: the run needs {proposal.need}, {proposal.steps:,} steps")
    print(f"wrote {output}; look it through, then run: llava-mistral train --config {output}")


def described(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The recipe's keys that name data and checkpoint, and the form of the data in words.

    Raises:
        BadInput: there is no such data, or it is not plain which of its columns is what.
    """
    from llava_mistral.data.column_guesses import first_record, form_words, guess_columns, guess_folder
    from llava_mistral.data.columns import parse_columns

    path, folders, form = Path(args.data), args.image_folder, "ScienceQA's questions"
    columns = parse_columns(args.columns)
    record = first_record(path, args.split, args.dataset_config)
    if record is not None:
        columns = columns or guess_columns(record)
        form = form_words(record, columns, path)
        guessed = None if folders else guess_folder(record, columns, path)
        folders = folders or ([str(guessed)] if guessed else None)
    named = {
        "stage": "finetune",
        "model_name_or_path": args.model,
        "output_dir": args.output_dir,
        "dataset": args.data,
        "dataset_split": args.split,
        "dataset_config": args.dataset_config,
        "columns": ",".join(f"{ours}={theirs}" for ours, theirs in columns.items()) or None,
        "image_folder": os.pathsep.join(folders) if folders else None,
    }
    return {key: value for key, value in named.items() if value is not None}, form


def read(named: dict[str, Any]) -> tuple[Any, Any]:
    """The recipe as far as it is known, checked, and the rows of its data."""
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.recipe import parse_recipe
    from llava_mistral.training.recipe_checks import check_recipe
    from llava_mistral.training.stages import check_rows

    recipe = parse_recipe([f"--{key}={value}" for key, value in named.items()])
    check_recipe(recipe)
    stage = recipe.stage
    options = {"image_folder": stage.image_folder, "split": stage.dataset_split, "columns": stage.columns}
    rows = read_rows(stage.dataset, **options, dataset_config=stage.dataset_config)
    check_rows(rows, stage.stage, stage.dataset)
    return recipe, rows


def text_of(named: dict[str, Any], form: str, proposal: Any, counts: tuple[int, int]) -> str:
    """The recipe's text.

    Args:
        counts: rows to train on, and held out.
    """
    values, (rows, aside) = dict(proposal.values), counts
    sizes = [values.pop(key) for key in ("per_device_train_batch_size", "gradient_accumulation_steps")]
    precision = {key: values.pop(key) for key in ("bf16", "gradient_checkpointing")}
    length = {key: values.pop(key) for key in ("num_train_epochs", "learning_rate")}
    held = {"held_out": SHARE, "eval_strategy": "epoch", "per_device_eval_batch_size": sizes[0], "sample_answers": 4}
    machine = f"This machine: {proposal.machine}. The run needs {proposal.need} (see --plan).\n"
    machine += f"Samples at once, and how often before a step: {sizes[0] * sizes[1]} samples a step on one GPU."
    at_once = {"per_device_train_batch_size": sizes[0], "gradient_accumulation_steps": sizes[1], **precision}
    schedule = {"lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.0, "optim": "adamw_torch"}
    saving = {"save_strategy": "epoch", "save_total_limit": 1, "report_to": "none", "seed": 42}
    parts = [
        (f"The data: {form}, {rows + aside:,} rows. The text model and the projector learn from it.", named),
        (f"{proposal.steps:,} optimizer steps in all. The rate is LLaVA-1.5's.", length),
        (machine, at_once),
        ("LoRA: all weights would not fit.", values),
        ("The schedule of LLaVA-1.5; warmup_steps below 1 is a share of all steps.", schedule),
        (HELD_OUT.format(aside), held) if aside else ("Too few rows to keep some out of training.", {"held_out": 0}),
        (GOES_ON, {**saving, "logging_steps": 10 if proposal.steps > 200 else 1}),
    ]
    return "\n".join(_part(*part) for part in parts if part[1])


def _part(comment: str, values: dict[str, Any]) -> str:
    import yaml

    lines = [f"# {line}" for line in comment.splitlines()]
    return "\n".join(lines) + "\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    run_verb(main)
