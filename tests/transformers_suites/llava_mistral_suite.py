"""transformers' common suites over our classes, or over its own Llava of the same sizes.

Collected by `tests/test_transformers_suites.py` alone, which puts this file beside the library's tests and names the
side in `SUITE_SIDE`. Both sides have the same test names, so that their outcomes can be compared one by one.
"""

import os
import unittest

import torch
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from tests.test_processing_common import ProcessorTesterMixin
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaProcessor,
    MistralConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.testing_utils import torch_device

from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration, LlavaMistralModel
from processing.processing_llava_mistral import LlavaMistralProcessor

CLASSES = {
    "stock": (LlavaConfig, LlavaModel, LlavaForConditionalGeneration, LlavaProcessor),
    "ours": (LlavaMistralConfig, LlavaMistralModel, LlavaMistralForConditionalGeneration, LlavaMistralProcessor),
}
Config, Model, Generator, Processor = CLASSES[os.environ["SUITE_SIDE"]]
# The suites choose labels and whether a class has a loss by these names, which a plugin's classes are not among.
MODEL_MAPPING_NAMES["llava_mistral"] = LlavaMistralModel.__name__
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["llava_mistral"] = LlavaMistralForConditionalGeneration.__name__
IMAGE_TOKEN = 3
VISION = {"image_size": 8, "patch_size": 4, "projection_dim": 32}
TEXT = {"vocab_size": 99, "num_key_value_heads": 2, "max_position_embeddings": 512, "head_dim": 8}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# Both parts; the suites read these sizes from the tester, too.
COMMON = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}


class Tester:
    """Sizes and inputs, under the names by which the suites ask for them."""

    is_training = True
    batch_size = 3
    image_tokens = (VISION["image_size"] // VISION["patch_size"]) ** 2
    seq_length = encoder_seq_length = 7 + image_tokens

    def __init__(self, sliding_window: int | None):
        self.sliding_window = sliding_window
        self.text_config = {**TEXT, **COMMON}
        self.vision_config = {**VISION, **COMMON}
        for name, value in {**self.vision_config, **self.text_config}.items():
            setattr(self, name, value)

    def get_config(self):
        return Config(
            vision_config=CLIPVisionConfig(**self.vision_config),
            text_config=MistralConfig(**self.text_config, sliding_window=self.sliding_window),
            image_token_id=IMAGE_TOKEN,
            image_seq_length=self.image_tokens,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
        )

    def prepare_config_and_inputs_for_common(self):
        side = VISION["image_size"]
        words = ids_tensor([self.batch_size, self.seq_length], TEXT["vocab_size"] - IMAGE_TOKEN - 1) + IMAGE_TOKEN + 1
        words[:, : self.image_tokens] = IMAGE_TOKEN
        return self.get_config(), {
            "pixel_values": floats_tensor([self.batch_size, 3, side, side]),
            "input_ids": words,
            "attention_mask": torch.ones_like(words).to(torch_device),
        }


class TestModel(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    """No window is shorter than the prompt, as in Mistral-7B-Instruct-v0.2."""

    all_model_classes = (Model, Generator)
    pipeline_model_mapping = {}
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True  # the year is read from a copyright line, which ours lacks
    test_all_params_have_gradient = False  # the tower's last norm comes after the features that are projected
    sliding_window = None

    def setUp(self):
        self.model_tester = Tester(self.sliding_window)


class TestModelWithShortWindow(TestModel):
    """The window is shorter than the picture and the prompt together."""

    sliding_window = 6


class TestProcessor(ProcessorTesterMixin, unittest.TestCase):
    processor_class = Processor

    @classmethod
    def _setup_tokenizer(cls):
        tokenizer = AutoTokenizer.from_pretrained(os.environ["SUITE_TOKENIZER"])
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
        return tokenizer

    @classmethod
    def _setup_image_processor(cls):
        return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    @staticmethod
    def prepare_processor_dict():
        return {
            "patch_size": 8,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": (
                "{% for message in messages %}{{ message['role'] + ': ' }}{% for part in message['content'] %}"
                "{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% else %}{% generation %}{{ part['text'] }}"
                "{% endgeneration %}{% endif %}{% endfor %}{% endfor %}"
            ),
        }
