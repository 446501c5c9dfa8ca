"""Train one stage of LLaVA-Mistral with TRL's SFTTrainer; every run that counts is a recipe.

    python train_sft.py --stage pretrain --config recipes/mistral/pretrain.yaml
    python train_sft.py --stage finetune --config recipes/mistral/finetune.yaml --learning_rate 1e-5
    python train_sft.py --stage finetune --config recipes/mistral/finetune_lora.yaml

The flags are SFTConfig's and those of `training.recipe.StageArguments`; a flag overrides the recipe. A run that was
interrupted goes on from its last checkpoint when the same command is given again.
"""

import sys
import time
from pathlib import Path

from bad_input import BadInput
from command_line import run_verb
from training.processes import is_first, join_launch, whole_weights
from training.recipe import StageArguments, check_recipe, given_values, is_finished

PLAIN = Path(__file__).parent / "processing" / "chat_templates" / "plain.jinja"


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    started, rows, held_out, bad = time.time(), None, None, None
    join_launch()
    if not {"-h", "--help"} & set(arguments):
        values, recipe_file = given_values(arguments)
        if is_finished(values):
            if is_first():
                print(f"{values['output_dir']}: finished by the same command before; remove the folder to train again")
            return
        check_recipe(values, recipe_file)
        rows, bad = checked_rows(values)
        held_out = checked_rows(values, "eval_dataset", "eval_split")[0]
    stage, config = parse(arguments)

    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.trainer_utils import get_last_checkpoint

    from training.batch_pictures import Pictures
    from training.collator import AnswerCollator
    from training.frozen_weights import is_safe, shrink_frozen
    from training.packing import PackedCollator
    from training.run_record import begin_run, finish_run, run_record
    from training.stages import check_template, set_trainable, warn_of_untrained_projector
    from training.to_look_at import shown
    from training.trainer import StageTrainer
    from training.vision_features import VisionFeatures, open_cache

    load = {"revision": stage.model_revision, "trust_remote_code": True}
    processor = AutoProcessor.from_pretrained(stage.model_name_or_path, **load)
    own_template = processor.chat_template
    template = Path(stage.chat_template or PLAIN) if stage.chat_template or stage.stage == "pretrain" else None
    processor.chat_template = template.read_text(encoding="utf-8") if template else own_template
    source = str(template or stage.model_name_or_path)
    check_template(processor, stage.stage, source, may_drop_question=stage.may_drop_question)
    model = AutoModelForImageTextToText.from_pretrained(stage.model_name_or_path, dtype="float32", **load)
    if stage.stage == "finetune" and config.process_index == 0:
        warn_of_untrained_projector(model, stage.model_name_or_path)
    parameters = set_trainable(model, stage.stage)
    if stage.use_peft:
        from training.lora import add_lora

        model, parameters = add_lora(model, stage, config.seed)

    if stage.frozen_dtype == "auto" and is_safe(config):
        shrink_frozen(model)

    cache = open_cache(stage, config, rows, model, processor)
    VisionFeatures(model, cache)
    collator = AnswerCollator(processor, Pictures(processor, cache))
    trainer = StageTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=processor,
        data_collator=PackedCollator(collator) if stage.packed else collator,
        mm_projector_lr=stage.mm_projector_lr if stage.use_peft else None,
        row_tokens=stage.row_tokens if stage.packed else None,
        **shown(stage, config, model, processor, own_template, held_out),
    )
    begun = begin_run(trainer, stage, rows, len(bad.listed), template.stem if template else None, parameters)
    if trainer.is_world_process_zero():
        bad.write(config.output_dir)
    resume = get_last_checkpoint(config.output_dir) if Path(config.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=resume)
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
    from processing.bad_samples import BadSamples
    from processing.conversations import read_rows
    from processing.picture_check import checked
    from training.stages import check_rows

    stage = StageArguments(**{key: values[key] for key in StageArguments.__dataclass_fields__ if key in values})
    path = getattr(stage, source)
    bad = BadSamples(stage.on_bad_sample, float(stage.max_bad_samples))
    if path is None:
        return None, bad
    options = {"image_folder": stage.image_folder, "split": getattr(stage, split), "columns": stage.columns}
    rows = read_rows(path, **options, answer_style=stage.answer_style, bad=bad)
    check_rows(rows, stage.stage, path)
    return checked(rows, stage.check_pictures, bad, source=path), bad


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
    if config.ddp_find_unused_parameters is None:
        config.ddp_find_unused_parameters = False  # none is unused, with pictures or without: see VisionFeatures
    return stage, config


if __name__ == "__main__":
    run_verb(main)
