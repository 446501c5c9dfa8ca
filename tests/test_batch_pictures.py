"""What a batch brings of its pictures, stored or not, and that one without any trains like the others."""

import json

import pytest

from tests.support.tiny_components import TEXT_ROW, save_rows
from tests.support.training_runs import train

SHAPES = [(33, 70), (70, 33), (64, 64), (31, 32), (128, 20), (1, 1)]


@pytest.fixture(params=["pad", "square", "anyres"])
def checkpoint(request, tmp_path_factory, vision_folder, mistral_folder):
    from llava_mistral.commands.build import main
    from tests.support.running import run_here

    if request.param == "anyres":
        return request.getfixturevalue("anyres")
    folder = tmp_path_factory.mktemp(request.param) / "stage0"
    parts = ("--vision", vision_folder, "--llm", mistral_folder, "--image_aspect_ratio", request.param)
    run_here(main, *parts, "--output", folder)
    return folder


def load(folder):
    import torch

    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    model = LlavaMistralForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    return model.train(), LlavaMistralProcessor.from_pretrained(folder)


def pictured_rows() -> list[dict]:
    from PIL import Image

    noise = [Image.effect_noise(shape, 50).convert("RGB") for shape in SHAPES]
    completion = [{"role": "assistant", "content": "It is seven."}]
    return [{**TEXT_ROW, "id": str(i), "images": [one], "completion": completion} for i, one in enumerate(noise)]


def test_a_batch_is_what_the_processor_makes_of_it_and_stored_pictures_change_no_token(checkpoint, tmp_path):
    """For every way of making squares and pictures of all shapes: nothing stored, some, all."""
    import torch

    from llava_mistral.training.batch_pictures import Pictures
    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.vision_cache import VisionCache
    from llava_mistral.training.vision_features import VisionFeatures

    model, processor = load(checkpoint)
    rows = pictured_rows()
    collator = AnswerCollator(processor)
    plain = collator(rows)
    texts = [collator.word(row, answered=True) for row in rows]
    pictures = [row["images"][0] for row in rows]
    words = {"padding": True, "padding_side": "right", "add_special_tokens": False, "return_tensors": "pt"}
    expected = processor(images=pictures, text=texts, **words)
    assert set(plain) - {"labels"} == set(expected)
    assert all(torch.equal(plain[name], expected[name]) for name in expected)

    with torch.no_grad():
        library = model(**{**plain, "labels": None}).logits
    cache = VisionCache(tmp_path, "tower", 1)
    reader = VisionFeatures(model, cache)
    storing = AnswerCollator(processor, Pictures(processor, cache))
    logits = []
    for stored in ([], rows[1::2], rows):
        if stored:
            model(**storing(stored))
        batch = storing(rows)
        assert int(batch["is_stored"].sum()) == len(stored)
        assert all(torch.equal(batch[name], plain[name]) for name in ("input_ids", "labels", "attention_mask"))
        cache.put, put = (lambda *_: False), cache.put  # what is stored is decided above
        with torch.no_grad():
            logits.append(model(**batch).logits)
        cache.put = put
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    torch.testing.assert_close(logits[0], library)
    reader.handle.remove()


def test_a_picture_brought_twice_is_read_once_though_the_collator_looked_before(checkpoint, tmp_path, monkeypatch):
    from llava_mistral.training import vision_features
    from llava_mistral.training.batch_pictures import Pictures
    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.vision_cache import VisionCache

    model, processor = load(checkpoint)
    cache = VisionCache(tmp_path, "tower", 1)
    vision_features.VisionFeatures(model, cache)
    row = pictured_rows()[0]
    batch = AnswerCollator(processor, Pictures(processor, cache))([row, row])
    reads, select = [], vision_features.select_features
    monkeypatch.setattr(vision_features, "select_features", lambda *args: reads.append(1) or select(*args))
    model(**batch)
    assert reads == [1]


def test_a_batch_without_pictures_gives_every_trained_weight_a_gradient_and_moves_no_bit(checkpoint):
    """The projector's, and with tiles the newline's, are zeros; loss and all others are those without the reader."""
    import torch

    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.stages import set_trainable
    from llava_mistral.training.vision_features import VisionFeatures

    model, processor = load(checkpoint)
    set_trainable(model, "finetune")
    batch = AnswerCollator(processor)([TEXT_ROW, TEXT_ROW])
    reader = VisionFeatures(model)
    loss = model(**batch).loss
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    reader.handle.remove()
    model.zero_grad()
    without = model(**batch).loss
    without.backward()
    assert torch.equal(loss, without)
    for name, weight in model.named_parameters():
        if "projector" in name or "newline" in name:
            assert weight.grad is None and not gradients[name].any(), name
        elif weight.requires_grad:
            assert torch.equal(weight.grad, gradients[name]), name


def test_text_only_batches_among_others_leave_a_run_as_it_was(stage0, tmp_path, monkeypatch):
    """Three of four micro-batches of a step have no pictures: losses and weights as without the empty features."""
    file = save_rows(tmp_path / "rows", 4)
    records = json.loads(file.read_text())
    turns = [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "four"}]
    records += [{"id": f"text-{index}", "conversations": turns} for index in range(12)]
    file.write_text(json.dumps(records))
    flags = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "num_train_epochs": 3}
    train("finetune", stage0, file, tmp_path / "with", **flags)
    monkeypatch.setattr("llava_mistral.training.vision_features.no_image_tokens", lambda module: None)
    monkeypatch.setattr("llava_mistral.training.vision_features.BaseModelOutputWithPooling", only_of_pictures)
    train("finetune", stage0, file, tmp_path / "without", **flags)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without"))
    curves = [json.loads((tmp_path / name / "run.json").read_text())["loss_curve"] for name in ("with", "without")]
    assert curves[0] == curves[1] and len(curves[0]) == 3
    assert first == second


def only_of_pictures(pooler_output):
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return None if pooler_output is None else BaseModelOutputWithPooling(pooler_output=pooler_output)


def test_a_frozen_tower_drops_nothing_and_is_read_whole_where_its_weights_are_spread(checkpoint):
    import torch

    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.vision_features import VisionFeatures, whole_copy

    model, processor = load(checkpoint)
    tower = model.model.vision_tower
    again = whole_copy(tower, torch.device("cpu"))
    assert again is not tower and all(
        torch.equal(weight, other) and weight.data_ptr() != other.data_ptr()
        for weight, other in zip(tower.parameters(), again.parameters(), strict=True)
    )
    assert again.state_dict().keys() == tower.state_dict().keys()
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(tower(pixels).last_hidden_state, again(pixels).last_hidden_state)
    reader = VisionFeatures(model)
    model(**AnswerCollator(processor)(pictured_rows()[:1]))
    assert model.training and not tower.training
    reader.handle.remove()
