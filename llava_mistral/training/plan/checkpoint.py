"""A checkpoint without its weights: its configuration, and its processor with a stage's template."""

from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import opening
from llava_mistral.ground.foreign_code import loading
from llava_mistral.training.recipe import stage_template


def configuration(stage: Any) -> Any:
    """The configuration of the checkpoint that `stage`, a `StageArguments`, begins with.

    Raises:
        BadInput: it is of a model without a tower and a text model.
    """
    from transformers import AutoConfig

    name = stage.model_name_or_path
    load = loading(name, stage.model_revision)
    with opening(name, "config.json"):
        config = AutoConfig.from_pretrained(name, **load)
    if not hasattr(getattr(config, "text_config", None), "hidden_size"):
        problem = f"has model_type {config.model_type!r}, which does not read pictures and words"
        remedy = "give a checkpoint that llava-mistral build or convert wrote"
        raise BadInput(problem, remedy=remedy, file=f"{name}/config.json", field="model_type")
    return config


def worded_processor(stage: Any) -> Any:
    """Its processor, with the stage's chat template."""
    from transformers import AutoProcessor

    load = loading(stage.model_name_or_path, stage.model_revision)
    processor = AutoProcessor.from_pretrained(stage.model_name_or_path, **load)
    if template := stage_template(stage):
        processor.chat_template = template.read_text(encoding="utf-8")
    return processor
