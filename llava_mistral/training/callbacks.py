"""The reporting arguments of a recipe: evaluation on held-out rows, sample answers, throughput."""

from pathlib import Path

from llava_mistral.training.collator import AnswerCollator
from llava_mistral.training.sample_answers import SampleAnswers
from llava_mistral.training.throughput import Meter, peak_of_this_run


def shown(stage, config, model, processor, own_template: str, held_out=None) -> dict:
    """The arguments of `ReportingTrainer` for a stage.

    Args:
        stage: a `StageArguments`.
        config: an `SFTConfig`.
        own_template: the checkpoint's own chat template, with which it will answer.
        held_out: rows to evaluate on; None for no evaluation.
    """
    lora_r = stage.lora_r if stage.use_peft else None
    found = {"meter": Meter(model.config, stage.stage, lora_r, peak_of_this_run(config.bf16, stage.peak_tflops))}
    if held_out is None:
        return found
    found |= {"eval_dataset": held_out, "eval_collator": AnswerCollator(processor)}
    if stage.sample_answers:
        template = processor.chat_template if stage.stage == "pretrain" else own_template
        title = f"{Path(config.output_dir).name}, {stage.stage}"
        found["samples"] = SampleAnswers(held_out, processor, template, stage.sample_answers, config.output_dir, title)
    return found
