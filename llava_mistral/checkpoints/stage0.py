"""A checkpoint before any training: a vision tower and a text model as published, joined by a new projector."""

from pathlib import Path

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionModel,
    PreTrainedConfig,
    SiglipVisionModel,
)
from transformers.utils import logging

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import opening
from modeling_llava_mistral.configuration_llava_mistral import TEXT_MODEL_TYPES, TOWERS, LlavaMistralConfig
from modeling_llava_mistral.loading_llava_mistral import refuse_not_finite
from modeling_llava_mistral.modeling_llava_mistral import LlavaMistralForConditionalGeneration

# Vocabularies are padded to a multiple of this, which is what makes the head's matrix product fall into whole tiles on
# a GPU; 32,000 Mistral tokens and two new ones become 32,064, as in llava-hf's checkpoints.
VOCABULARY_MULTIPLE = 64


def read_parts(
    vision: str | Path, llm: str | Path, revisions: tuple[str | None, str | None] = (None, None)
) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """Return the configurations of the tower and of the text model (folders or Hub ids); reads config.json alone.

    Args:
        revisions: of the vision tower and of the text model.

    Raises:
        BadInput: the vision model or the text model is of a type that is not known here.
    """
    vision_config = _tower_in(_read_config(vision, revisions[0]))
    swapped = vision_config.model_type in TEXT_MODEL_TYPES
    if swapped and _tower_in(_read_config(llm, revisions[1])).model_type in TOWERS:
        problem = f"{vision} is a text model ({vision_config.model_type}), and {llm} a vision tower"
        raise BadInput(problem, remedy="give them the other way round: swap --vision and --llm", field="vision")
    vision_config._name_or_path = str(vision)  # CLIP's whole configuration keeps its name from the tower's
    if vision_config.model_type not in TOWERS:
        sizes = (
            "; SigLIP 2 of a fixed size is of type siglip" if vision_config.model_type.startswith("siglip2") else ""
        )
        raise BadInput(
            f"{vision} is of type {vision_config.model_type}, not a CLIP or SigLIP vision tower{sizes}",
            remedy="give a model such as openai/clip-vit-large-patch14-336 or google/siglip2-so400m-patch14-384",
            field="vision",
        )
    text_config = _read_config(llm, revisions[1])
    if text_config.model_type not in TEXT_MODEL_TYPES:
        raise BadInput(
            f"{llm} is of type {text_config.model_type}",
            remedy="give a mistral or llama model, or one of ministral or ministral3, such as "
            "mistralai/Mistral-7B-Instruct-v0.2",
            field="llm",
        )
    return vision_config, text_config


def _tower_in(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the tower in that of a whole CLIP or SigLIP; else the configuration itself."""
    inner = getattr(config, "vision_config", None)
    return inner if isinstance(inner, PreTrainedConfig) else config


def _read_config(name: str | Path, revision: str | None) -> PreTrainedConfig:
    """The configuration of a part; one of a type that the library does not know has no more than its type."""
    with opening(name, "config.json"):
        kind = PreTrainedConfig.get_config_dict(name, revision=revision)[0].get("model_type")
        if not isinstance(kind, str) or kind in CONFIG_MAPPING:
            return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    config = PreTrainedConfig()
    config.model_type = kind
    return config


def stage0_config(
    vision: str | Path,
    llm: str | Path,
    image_token_id: int,
    vocab_size: int,
    *,
    projector_type: str = "mlp2x_gelu",
    image_aspect_ratio: str = "pad",
    revisions: tuple[str | None, str | None] = (None, None),
) -> LlavaMistralConfig:
    """The configuration that joins `vision` and `llm` (folders or Hub ids), see `read_parts`.

    Args:
        image_token_id: id of the image token in the text model's tokenizer.
        vocab_size: tokens of the tokenizer, new ones included. A table that must grow, or is no multiple of 64, grows
                to the next multiple of 64.
        revisions: of the vision tower and of the text model.
    """
    vision_config, text_config = read_parts(vision, llm, revisions)
    text_config.vocab_size = -(-max(vocab_size, text_config.vocab_size) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return LlavaMistralConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_id=image_token_id,
        projector_type=projector_type,
        image_aspect_ratio=image_aspect_ratio,
        vision_feature_select_strategy="default" if TOWERS[vision_config.model_type] else "full",
        tie_word_embeddings=text_config.tie_word_embeddings,
    )


def compose(
    vision: str | Path,
    llm: str | Path,
    config: LlavaMistralConfig,
    *,
    seed: int = 0,
    dtype: torch.dtype | str = "auto",
    revisions: tuple[str | None, str | None] = (None, None),
) -> LlavaMistralForConditionalGeneration:
    """Load the two parts, add a freshly initialised projector, and return the whole as a stage-0 model.

    Rows that the padded vocabulary adds get the mean of the others, so that a token nobody trained is never the
    likeliest one. Weights of the parts are otherwise untouched, bit for bit.
    """
    text = _load_whole(AutoModelForCausalLM, llm, "llm", dtype=dtype, revision=revisions[1])
    _append_mean_rows(text, config.text_config.vocab_size)
    kind = SiglipVisionModel if config.vision_config.model_type == "siglip_vision_model" else CLIPVisionModel
    tower = _load_whole(kind, vision, "vision", dtype=text.dtype, revision=revisions[0])
    with torch.device("meta"):
        model = LlavaMistralForConditionalGeneration(config)
    torch.manual_seed(seed)
    projector = type(model.model.multi_modal_projector)(config)
    for module in projector.modules():
        model._init_weights(module)
    model.model.vision_tower, model.model.language_model = tower, text.model
    model.model.multi_modal_projector, model.lm_head = projector.to(text.dtype), text.lm_head
    if model.model.image_newline is not None:
        model.model.image_newline = torch.nn.Parameter(torch.empty(config.text_config.hidden_size, dtype=text.dtype))
        model._init_weights(model.model)
    model.tie_weights()
    model.generation_config = text.generation_config  # as it was published, or of the configuration
    return model.eval()


def _load_whole(kind, source: str | Path, field: str, **options) -> torch.nn.Module:
    """Load a part of which nothing is missing; something may be left over, such as CLIP's text half."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the library's table of what is left over
    try:
        with opening(source):
            model, info = kind.from_pretrained(source, output_loading_info=True, trust_remote_code=False, **options)
            refuse_not_finite(model, source)
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(info["missing_keys"]):
        raise BadInput(
            f"{len(missing)} weights are missing, first {missing[0]}",
            remedy="the model is damaged or of another kind; take a complete one",
            file=source,
            field=field,
        )
    return model


def _append_mean_rows(text: torch.nn.Module, vocab_size: int) -> None:
    known = text.get_input_embeddings().weight.shape[0]
    text.resize_token_embeddings(vocab_size, mean_resizing=False)
    with torch.no_grad():
        for table in (text.get_input_embeddings().weight, text.get_output_embeddings().weight):
            table[known:] = table[:known].float().mean(0).to(table.dtype)
