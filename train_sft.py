"""Train one stage of LLaVA-Mistral with TRL's SFTTrainer; every run that counts is a recipe.

    python train_sft.py --stage pretrain --config recipes/mistral/pretrain.yaml
    python train_sft.py --stage finetune --config recipes/mistral/finetune.yaml --learning_rate 1e-5
    python train_sft.py --stage finetune --config recipes/mistral/finetune_lora.yaml

The flags are SFTConfig's and those of `training.recipe.StageArguments`; a flag overrides the recipe. A run that was
interrupted goes on from its last checkpoint when the same command is given again. `--plan` says what it would take.
"""

import sys
import time
from pathlib import Path

from bad_input import BadInput
from command_line import run_verb
from training.recipe import StageArguments, check_recipe, given_values, is_finished, is_true

PLAIN = Path(__file__).parent / "processing" / "chat_templates" / "plain.jinja"


def main() -> int | None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    started, rows = time.time(), None
    if not {"-h", "--help"} & set(arguments):
        values, recipe_file = given_values(arguments)
        if is_finished(values):
            print(f"{values['output_dir']}: finished by the same command before; remove the folder to train again")
            return None
        check_recipe(values, recipe_file)
        rows = checked_rows(values)
        if is_true(values.get("plan", False)):
            from training.plan import print_plan

            return print_plan(values, rows)
    stage, config = parse(arguments)

    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.trainer_utils import get_last_checkpoint

    from training.collator import AnswerCollator
    from training.plan import check_fit
    from training.quantization import load_options, set_trainable
    from training.run_record import finish_run, run_record
    from training.stages import check_template
    from training.trainer import StageTrainer

    load = {"revision": stage.model_revision, "trust_remote_code": True}
    processor = AutoProcessor.from_pretrained(stage.model_name_or_path, **load)
    own_template = processor.chat_template
    template = Path(stage.chat_template or PLAIN) if stage.chat_template or stage.stage == "pretrain" else None
    processor.chat_template = template.read_text(encoding="utf-8") if template else own_template
    check_template(processor, stage.stage, str(template or stage.model_name_or_path))
    check_fit(values, rows, processor)
    load |= load_options(stage)
    model = AutoModelForImageTextToText.from_pretrained(stage.model_name_or_path, dtype="float32", **load)
    parameters = set_trainable(model, stage)
    if stage.use_peft:
        from training.lora import add_lora

        model, parameters = add_lora(model, stage, config.seed)

    collator = AnswerCollator(processor)
    trainer = StageTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=processor,
        data_collator=collator,
        mm_projector_lr=stage.mm_projector_lr if stage.use_peft else None,
    )
    resume = get_last_checkpoint(config.output_dir) if Path(config.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=resume)
    processor.chat_template = own_template  # the template is the stage's; a checkpoint answers in its own
    if trainer.is_world_process_zero():
        named = template.stem if template else None
        record = run_record(trainer, stage, rows, named, parameters, collator.tokens, time.time() - started)
        finish_run(trainer, processor, {**record, "asked": values})
        print(f"{config.output_dir}: {stage.stage}, {record['steps']} steps, loss {record['final_loss']}")
    return None


def checked_rows(values: dict) -> "Dataset":  # noqa: F821
    """Read the data before TRL is imported: an absent picture is named at once."""
    from processing.conversations import read_rows
    from training.stages import check_rows

    stage = StageArguments(**{key: values[key] for key in StageArguments.__dataclass_fields__ if key in values})
    rows = read_rows(
        stage.dataset, image_folder=stage.image_folder, split=stage.dataset_split, answer_style=stage.answer_style
    )
    check_rows(rows, stage.stage, stage.dataset)
    return rows


def parse(arguments: list[str]) -> tuple[StageArguments, "SFTConfig"]:  # noqa: F821
    """TRL's parser over the recipe and the flags; what it cannot parse is one line, as elsewhere."""
    from trl import SFTConfig, TrlParser

    epilog = (
        "--config FILE.yaml gives any of these in a recipe, see recipes/; a flag overrides it. --verbose: tracebacks."
    )
    parser = TrlParser((StageArguments, SFTConfig), prog="train_sft.py", epilog=epilog, allow_abbrev=False)
    parser.error = lambda message: parser.exit(
        2, f"train_sft.py: {message}; run `train_sft.py --help` for the flags\n"
    )
    try:
        stage, config = parser.parse_args_and_config(arguments)
    except ValueError as error:  # what TrainingArguments refuses, such as bf16 on a machine that has none
        raise BadInput(str(error), remedy="mend the recipe or the flag; `train_sft.py --help` lists them") from None
    config.max_length = None  # truncation would cut image tokens, and with them the picture
    config.remove_unused_columns = False
    return stage, config


if __name__ == "__main__":
    run_verb(main)
