"""What a checkpoint says of itself without its weights: its configuration, and its processor in a stage's words."""

from typing import Any

from llava_mistral.ground.checkpoint_headers import opening
from llava_mistral.ground.foreign_code import loading
from llava_mistral.training.recipe import stage_template


def configuration(stage: Any) -> Any:
    """The configuration of the checkpoint that `stage`, a `StageArguments`, begins with."""
    from transformers import AutoConfig

    name = stage.model_name_or_path
    load = loading(name, stage.model_revision)
    with opening(name, "config.json"):
        return AutoConfig.from_pretrained(name, **load)


def worded_processor(stage: Any) -> Any:
    """Its processor, with the stage's chat template."""
    from transformers import AutoProcessor

    load = loading(stage.model_name_or_path, stage.model_revision)
    processor = AutoProcessor.from_pretrained(stage.model_name_or_path, **load)
    if template := stage_template(stage):
        processor.chat_template = template.read_text(encoding="utf-8")
    return processor
