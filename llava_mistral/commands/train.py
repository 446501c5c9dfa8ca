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
import warnings
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import run_verb
from llava_mistral.ground.foreign_code import loading, take_flag
from llava_mistral.ground.recipe_files import recipe_file
from llava_mistral.training.processes import is_first, join_launch, whole_weights
from llava_mistral.training.recipe import (
    StageArguments,
    check_recipe,
    given_values,
    is_finished,
    is_true,
    template_file,
)
from llava_mistral.training.saving.output_lock import output_lock
from llava_mistral.training.saving.resuming import agreed, choose_checkpoint, run_identity
from llava_mistral.training.saving.run_record import complete_run


def main() -> int | None:
    arguments = take_flag([argument for argument in sys.argv[1:] if argument != "--verbose"])
    arguments = joined(arguments, "--image_folder")
    join_launch()
    arguments = with_recipe_file(arguments)
    if {"-h", "--help"} & set(arguments):
        parse(arguments)
    values, recipe_file = given_values(arguments)
    if not is_finished(values):
        check_recipe(values, recipe_file)
    if is_true(values.get("plan", False)):
        from llava_mistral.training.plan.run_plan import print_plan

        return print_plan(values, checked_rows(values | {"check_pictures": "none"})[0])
    with output_lock(values["output_dir"]):
        if not is_finished(values):
            return train(arguments, values)
        complete_run(Path(values["output_dir"]))
        if is_first():
            print(f"{values['output_dir']}: finished by the same command before; remove the folder to train again")


def joined(arguments: list[str], flag: str) -> list[str]:
    """The arguments with the values of a flag that is given several times as one, in the system's way of lists."""
    places = [place for place, word in enumerate(arguments[:-1]) if word == flag]
    if len(places) < 2:
        return arguments
    value = os.pathsep.join(arguments[place + 1] for place in places)
    others = [word for place, word in enumerate(arguments) if not {place, place - 1} & set(places)]
    return [*others, flag, value]


def with_recipe_file(arguments: list[str]) -> list[str]:
    """The arguments with the path of the recipe in place of its name, as TRL's parser wants it."""
    arguments = list(arguments)
    for index, word in enumerate(arguments):
        if word == "--config" and index + 1 < len(arguments):
            arguments[index + 1] = str(recipe_file(arguments[index + 1]))
        elif word.startswith("--config="):
            arguments[index] = f"--config={recipe_file(word.removeprefix('--config='))}"
    return arguments


def train(arguments: list[str], values: dict) -> int | None:
    """Train, save and record; returns the exit code of a signal that ended it early."""
    started = time.time()
    loading(values["model_name_or_path"], values.get("model_revision"))
    rows, bad = checked_rows(values)
    held_out, _ = checked_rows(values, "eval_dataset", "eval_split")
    stage, config = parse(arguments)
    wording = stage.chat_template or ("plain" if stage.stage == "pretrain" else None)
    template = template_file(wording) if wording else None
    identity = run_identity(stage, config, rows, template)
    resume = choose_checkpoint(config.output_dir, identity, stage.force_resume)

    from llava_mistral.training.callbacks import shown
    from llava_mistral.training.loading import load_model, load_processor, make_collator
    from llava_mistral.training.plan.run_plan import check_fit
    from llava_mistral.training.saving.interruption import Interruption
    from llava_mistral.training.saving.run_record import begin_run, finish_run, run_record
    from llava_mistral.training.trainer import StageTrainer

    processor, own_template = load_processor(stage, template)
    check_fit(values, rows, processor)
    model, parameters = load_model(stage, config)
    collator, interruption = make_collator(stage, config, rows, model, processor), Interruption()
    trainer = StageTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=processor,
        data_collator=collator,
        mm_projector_lr=stage.mm_projector_lr if stage.use_peft else None,
        row_tokens=stage.row_tokens if stage.packed else None,
        identity=identity,
        callbacks=[interruption],
        **shown(stage, config, model, processor, own_template, held_out),
    )
    begun = begin_run(trainer, stage, config, rows, bad, template.stem if template else None, parameters)
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
        finish_run(trainer, processor, {**record, "asked": values}, weights)
        print(f"{config.output_dir}: {stage.stage}, {record['steps']} steps, loss {record['final_loss']}")
    trainer.accelerator.wait_for_everyone()


def checked_rows(values: dict, source: str = "dataset", split: str = "dataset_split"):
    """Read the data that `source` names before TRL is imported: an absent or corrupt picture is named at once.

    Returns:
        the rows, None where `source` names nothing; and what was left out.
    """
    from llava_mistral.data.bad_samples import BadSamples
    from llava_mistral.data.conversations import count_pictures, read_rows
    from llava_mistral.data.picture_check import checked
    from llava_mistral.training.stages import check_rows

    stage = StageArguments(**{key: values[key] for key in StageArguments.__dataclass_fields__ if key in values})
    path = getattr(stage, source)
    bad = BadSamples(stage.on_bad_sample, float(stage.max_bad_samples))
    if path is None:
        return None, bad
    options = {"image_folder": stage.image_folder, "split": getattr(stage, split), "columns": stage.columns}
    options |= {"dataset_config": stage.dataset_config, "conversations": stage.conversations}
    options |= {"held_out_of": None if source == "dataset" else stage.dataset}
    rows = read_rows(path, **options, answer_style=stage.answer_style, bad=bad)
    check_rows(rows, stage.stage, path)
    rows = checked(rows, stage.check_pictures, bad, source=path)
    if is_first():
        pictures, without = count_pictures(rows).values()
        print(f"{path}: {len(rows):,} rows, {pictures:,} pictures, {without:,} rows without one", flush=True)
    return rows, bad


def parse(arguments: list[str]) -> tuple[StageArguments, "SFTConfig"]:  # noqa: F821
    """TRL's parser over the recipe and the flags; what it cannot parse is one line, as elsewhere."""
    from trl import SFTConfig, TrlParser

    epilog = (
        "--config gives any of these by YAML file or by name, such as mistral/pretrain; a flag overrides it."
        " --verbose: tracebacks."
    )
    parser = TrlParser((StageArguments, SFTConfig), prog="llava-mistral train", epilog=epilog, allow_abbrev=False)
    parser.error = lambda message: parser.exit(
        2, f"llava-mistral train: {message}; run `llava-mistral train --help` for the flags\n"
    )
    try:
        with warnings.catch_warnings():  # TRL sets the flag itself, by the name that transformers has given up
            warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
            stage, config = parser.parse_args_and_config(arguments)
    except ValueError as error:  # what TrainingArguments refuses, such as bf16 on a machine that has none
        raise BadInput(
            str(error), remedy="mend the recipe or the flag; `llava-mistral train --help` lists them"
        ) from None
    config.max_length = None  # truncation would cut image tokens, and with them the picture
    config.remove_unused_columns = False
    if config.ddp_find_unused_parameters is None:
        config.ddp_find_unused_parameters = False  # none is unused, with pictures or without: see VisionFeatures
    return stage, config


if __name__ == "__main__":
    run_verb(main)
