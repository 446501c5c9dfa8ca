"""The model. Importing this package registers `llava_mistral` with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from processing import LlavaMistralProcessor

from .configuration_llava_mistral import LlavaMistralConfig
from .modeling_llava_mistral import (
    LlavaMistralForConditionalGeneration,
    LlavaMistralModel,
    LlavaMistralPreTrainedModel,
)


def _read_config(*arguments):
    from llava_mistral.checkpoints.original import read_config

    return read_config(*arguments)


def _read_model(*arguments):
    from llava_mistral.checkpoints.original import read_model

    return read_model(*arguments)


# Checkpoints of the original LLaVA code then open as they are, which code in a published folder does not offer.
LlavaMistralConfig.read_original = staticmethod(_read_config)
LlavaMistralPreTrainedModel.read_original = staticmethod(_read_model)

AutoConfig.register("llava_mistral", LlavaMistralConfig, exist_ok=True)
AutoModel.register(LlavaMistralConfig, LlavaMistralModel, exist_ok=True)
for _auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto_class.register(LlavaMistralConfig, LlavaMistralForConditionalGeneration, exist_ok=True)
AutoProcessor.register(LlavaMistralConfig, LlavaMistralProcessor, exist_ok=True)

# Saving then copies the published files into the folder, which is what makes it loadable by strangers.
LlavaMistralConfig.register_for_auto_class()
LlavaMistralModel.register_for_auto_class("AutoModel")
LlavaMistralForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = [
    "LlavaMistralConfig",
    "LlavaMistralForConditionalGeneration",
    "LlavaMistralModel",
    "LlavaMistralPreTrainedModel",
]
