"""llama.cpp answers with the files of `convert --to gguf`: `make engines`, after `make demo`.

Texts get the answers of `generate` without a sliding window, which llama.cpp's Mistral has not. Pictures get others
now and then, for what llama.cpp computes otherwise: it resizes with another filter, and puts CLIP's class token last,
so that each patch has its neighbour's position (llama.cpp issue 25814).
"""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from llava_mistral.data.problem import question_text
from llava_mistral.data.scienceqa import read_problems
from tests.support.conversions import convert
from tests.support.engine_chats import chats, generated, shown_in, trained_miniature
from tests.support.engine_environments import NEEDS, ask_engine
from tests.support.engine_record import record
from tests.support.served import data_url
from tests.support.served_questions import shown, text_part, user

ENGINE = "llama.cpp (" + NEEDS["llama_cpp"][0][0].replace("==", " ") + ")"
PICTURED, SPOKEN = 100, 60

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def study() -> Path:
    return trained_miniature()


@pytest.fixture(scope="module")
def problems(study) -> list:
    test = read_problems(study / "digitsqa", split="test")
    return [one for one in test if one.has_image][:PICTURED] + [one for one in test if not one.has_image][:SPOKEN]


@pytest.fixture(scope="module")
def asked(study, problems) -> list:
    lettered = [[user(*([shown_in(one)] if one.has_image else []), text_part(question_text(one)))] for one in problems]
    return lettered + chats(study / "digitsqa")


@pytest.fixture(scope="module")
def without_window(study, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("window") / "none"
    shutil.copytree(study / "stage2", folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"sliding_window": None, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def expected(without_window, asked) -> list[dict]:
    return generated(without_window, asked)


def letters(answers: list[dict], problems: list) -> list[bool]:
    """Which of the lettered questions about pictures were answered rightly."""
    pairs = zip(answers, problems[:PICTURED], strict=False)
    return [answer["text"].strip()[:1] == "ABCDEFGHIJ"[problem.answer] for answer, problem in pairs]


def equal(answers: list[dict], expected: list[dict]) -> int:
    # The server leaves out spaces at the end of an answer.
    return sum(one["text"].strip() == two["text"].strip() for one, two in zip(answers, expected, strict=True))


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_0"])
def test_llama_cpp_answers_texts_as_generate_and_pictures_nearly_so(kind, study, asked, problems, expected, tmp_path):
    folder = convert(study / "stage2", tmp_path / "gguf", "gguf", "--gguf_type", kind)
    request = {"model": str(folder), "chats": asked, "context": 512, "new_tokens": 16}
    answers = ask_engine("llama_cpp", "llama_cpp_chat", request, tmp_path)["answers"]
    assert [one["prompt_tokens"] for one in answers] == [len(one["prompt"]) for one in expected]
    spoken = slice(PICTURED, PICTURED + SPOKEN)
    same = equal(answers[spoken], expected[spoken])
    record(ENGINE, f"{kind}, text", SPOKEN, same)
    right, right_here = sum(letters(answers, problems)), sum(letters(expected, problems))
    pictured = equal(answers[:PICTURED], expected[:PICTURED])
    record(ENGINE, f"{kind}, pictures", PICTURED, pictured, right, right_here)
    assert same == SPOKEN if kind in ("f32", "f16") else same >= 0.9 * SPOKEN
    assert pictured >= 0.8 * PICTURED and right >= right_here - 15


def test_with_the_class_token_last_and_prepared_pictures_the_answers_are_the_same(
    study, without_window, problems, tmp_path
):
    """What remains besides is the order of sums: the files themselves say what the model is."""
    chats = [[user(prepared(one, study / "stage2"), text_part(question_text(one)))] for one in problems[:PICTURED]]
    folder = convert(study / "stage2", tmp_path / "gguf", "gguf", "--gguf_type", "f32")
    request = {"model": str(folder), "chats": chats, "context": 512, "new_tokens": 16}
    answers = ask_engine("llama_cpp", "llama_cpp_chat", request, tmp_path)["answers"]
    ours, as_theirs = generated(without_window, chats), None
    with class_token_last():
        as_theirs = generated(without_window, chats)
    right, right_here = sum(letters(answers, problems)), sum(letters(ours, problems))
    record(ENGINE, "f32, pictures of the tower's size", PICTURED, equal(answers, ours), right, right_here)
    same = equal(answers, as_theirs)
    record(
        ENGINE, "f32, pictures of the tower's size, `generate` with the class token last", PICTURED, same, right, None
    )
    assert same >= 0.98 * PICTURED


def prepared(problem, checkpoint: Path) -> dict:
    """The picture as the processor makes it, of the tower's size, so that nobody resizes it again."""
    import numpy as np
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    settings = {"do_normalize": False, "do_rescale": False, "return_tensors": "np"}
    pixels = processor.image_processor(Image.open(problem.image), **settings)["pixel_values"]
    pixels = np.asarray(pixels).reshape(-1, *np.asarray(pixels).shape[-3:])[0]
    return shown(data_url(Image.fromarray(np.rint(pixels.transpose(1, 2, 0)).astype("uint8"))))


@contextmanager
def class_token_last():
    """CLIP as llama.cpp computes it; the first patch is then dropped in place of the class token."""
    import torch
    from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

    def forward(self, pixel_values, **_):
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        every = torch.cat([patches, self.class_embedding.expand(len(patches), 1, -1)], dim=1)
        return every + self.position_embedding(self.position_ids)

    with mock.patch.object(CLIPVisionEmbeddings, "forward", forward):
        yield
