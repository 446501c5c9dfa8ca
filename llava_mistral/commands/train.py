"""Train one stage of LLaVA-Mistral with TRL's SFTTrainer; every run that counts is a recipe.

    llava-mistral train --stage pretrain --config mistral/pretrain
    llava-mistral train --stage finetune --config mistral/finetune --learning_rate 1e-5
    llava-mistral train --stage finetune --config mistral/finetune_lora

The flags are SFTConfig's and those of `llava_mistral.training.recipe.StageArguments`; a flag overrides the recipe.
A run that was interrupted goes on from its last checkpoint when the same command is given again. `--plan` says what it
would take.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.foreign_code import origin, take_flag
from llava_mistral.training.processes import by_first, is_first, join_launch, whole_weights
from llava_mistral.training.recipe import Recipe, StageArguments, parse_recipe, stage_template
from llava_mistral.training.recipe_checks import check_recipe
from llava_mistral.training.recipe_help import add_flags, wants_help
from llava_mistral.training.saving.output_folder import is_finished, output_lock
from llava_mistral.training.saving.resuming import RunIdentity, agreed, choose_checkpoint, run_identity
from llava_mistral.training.saving.run_record import complete_run


def main() -> int | None:
    started = time.time()
    if wants_help(sys.argv[1:]):
        parser = VerbParser(prog="llava-mistral train", about=__doc__)
        add_flags(parser, everything=any(word.startswith("--help") and word != "--help" for word in sys.argv))
        return print(parser.format_help(), end="")
    arguments = take_flag([argument for argument in sys.argv[1:] if argument != "--verbose"])
    arguments = joined(arguments, "--image_folder")
    join_launch()
    recipe = parse_recipe(arguments)
    output = recipe.output
    finished = is_finished(output, recipe.given)
    if not finished:
        check_recipe(recipe)
    if recipe.stage.plan:
        from llava_mistral.training.plan.printed import print_plan

        return print_plan(recipe, split_rows(replace(recipe.stage, check_pictures="none"))[0])
    with output_lock(output):
        if not finished:
            return train(recipe, started)
        complete_run(output)
        if is_first():
            print(f"{output}: finished by the same command before; remove the folder to train again")


def joined(arguments: list[str], flag: str) -> list[str]:
    """The arguments with the values of a flag that is given several times as one, in the system's way of lists."""
    places = [place for place, word in enumerate(arguments[:-1]) if word == flag]
    if len(places) < 2:
        return arguments
    value = os.pathsep.join(arguments[place + 1] for place in places)
    others = [word for place, word in enumerate(arguments) if not {place, place - 1} & set(places)]
    return [*others, flag, value]


def train(recipe: Recipe, started: float) -> int | None:
    """Train, save and record; returns the exit code of a signal that ended it early."""
    from llava_mistral.training.context import within_context
    from llava_mistral.training.loading import load_processor
    from llava_mistral.training.plan.fitting import check_fit
    from llava_mistral.training.stages import check_batch

    stage, config = recipe.stage, recipe.config
    if not sys.stderr.isatty():  # the library's bars of loading and saving would stand between the lines
        from transformers.utils import logging

        logging.disable_progress_bar()
    origin(stage.model_name_or_path, stage.model_revision)
    rows, held_out, bad, bad_held_out = split_rows(stage)
    template = stage_template(stage)
    processor, own_template = load_processor(stage, template)
    rows = within_context(rows, processor, stage, bad)
    if held_out is not None:
        source = "eval_dataset" if stage.eval_dataset else "dataset"
        held_out = within_context(held_out, processor, stage, bad_held_out, source)
    check_batch(len(rows), config, stage.dataset)
    identity = run_identity(stage, config, rows, processor.chat_template)
    resume = choose_checkpoint(config.output_dir, identity, stage.force_resume)
    check_fit(stage, config, rows, processor, recipe.given)
    trainer, parameters, interruption = make_trainer(recipe, rows, held_out, processor, own_template, identity)

    from llava_mistral.training.saving.run_record import begin_run, finish_run, run_record

    begun = begin_run(trainer, recipe, rows, bad, template.stem if template else None, parameters)
    try:
        trainer.train(resume_from_checkpoint=agreed(resume))
    finally:
        interruption.restore()
    if interruption.signal:
        return interruption.exit_code(trainer.state.global_step)
    processor.chat_template = own_template  # the template is the stage's; a checkpoint answers in its own
    weights, tokens = whole_weights(trainer), trainer.tokens.report(trainer.accelerator.gather)
    if trainer.is_world_process_zero():
        record = run_record(trainer, begun, tokens, time.time() - started)
        finish_run(trainer, processor, {**record, "asked": recipe.given}, weights)
        best = f", the weights of step {record['best']['step']}" if record["best"] else ""
        print(f"{config.output_dir}: {stage.stage}, {record['steps']} steps, loss {record['final_loss']}{best}")
        pages = sorted((Path(config.output_dir) / "samples").glob("*.html"), key=lambda page: page.stat().st_mtime)
        opened = [str(page) for page in (Path(config.output_dir) / "loss.png", *pages[-1:]) if page.is_file()]
        print(f"wrote {config.output_dir}" + (f"; open {' and '.join(opened)}" if opened else ""))
    trainer.accelerator.wait_for_everyone()


def make_trainer(
    recipe: Recipe, rows: Any, held_out: Any, processor: Any, own_template: str, identity: RunIdentity
) -> tuple[Any, dict[str, int], Any]:
    """The trainer of a run, its parameter counts, and what turns a signal into a checkpoint."""
    from llava_mistral.training.loading import load_model, make_collator
    from llava_mistral.training.reporting import shown
    from llava_mistral.training.saving.interruption import Interruption
    from llava_mistral.training.trainer import StageTrainer

    stage, config = recipe.stage, recipe.config
    model, parameters = load_model(stage, config)
    interruption = Interruption()
    trainer = StageTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=processor,
        data_collator=make_collator(stage, config, rows, model, processor),
        mm_projector_lr=stage.projector_lr,
        row_tokens=stage.row_tokens if stage.packed else None,
        identity=identity,
        callbacks=[interruption],
        **shown(stage, config, model, processor, own_template, held_out),
    )
    return trainer, parameters, interruption


def split_rows(stage: StageArguments) -> tuple[Any, Any, Any, Any]:
    """The rows to train on, those held out (None for none), and what was left out of each."""
    from llava_mistral.training.held_out import set_aside

    rows, bad = checked_rows(stage)
    held_out, bad_held_out = checked_rows(stage, "eval_dataset", "eval_split")
    if stage.held_out:
        rows, held_out = set_aside(rows, stage.held_out, stage.dataset)
        bad_held_out = bad
        if is_first():
            print(f"{stage.dataset}: {len(held_out):,} rows held out, {len(rows):,} to train on", flush=True)
    return rows, held_out, bad, bad_held_out


def checked_rows(stage: StageArguments, source: str = "dataset", split: str = "dataset_split"):
    """Read the data that `source` names, before weights are: an absent or corrupt picture is named first.

    Returns:
        the rows, None where `source` names nothing; and what was left out.
    """
    from llava_mistral.data.bad_samples import BadSamples
    from llava_mistral.data.conversations import count_pictures, read_rows
    from llava_mistral.data.picture_check import checked
    from llava_mistral.training.stages import check_rows

    path = getattr(stage, source)
    bad = BadSamples(stage.on_bad_sample, stage.max_bad_samples)
    if path is None:
        return None, bad
    options = {"image_folder": stage.image_folder, "split": getattr(stage, split), "columns": stage.columns}
    options |= {"dataset_config": stage.dataset_config, "conversations": stage.conversations}
    options |= {"held_out_of": None if source == "dataset" else stage.dataset}
    rows = read_rows(path, **options, answer_style=stage.answer_style, bad=bad)
    check_rows(rows, stage.stage, path)
    rows = checked(rows, stage.check_pictures, bad, source=path, by_first=by_first)
    if is_first():
        pictures, without = count_pictures(rows).values()
        more = f", {bad.counted['not_learned']:,} not learned by their own mark" if bad.counted["not_learned"] else ""
        print(f"{path}: {len(rows):,} rows, {pictures:,} pictures, {without:,} rows without one{more}", flush=True)
    return rows, bad


if __name__ == "__main__":
    run_verb(main)
