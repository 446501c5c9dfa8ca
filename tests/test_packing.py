"""Batches without padding: the loss and the gradients of padded ones, and nothing of a neighbour in a sample."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.support.running import HOME, run_here
from tests.support.tiny_components import IMAGE_TOKENS

INSTRUCT = HOME / "processing" / "chat_templates" / "mistral_instruct.jinja"


def row(name: str, question: str, answer: str, *sizes: tuple[int, int]) -> dict:
    """A training row with a picture of its own colours for each of `sizes`."""
    from PIL import Image

    pictures = [Image.effect_noise(size, 40 + 9 * len(name)).convert("RGB") for size in sizes]
    turns = {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }
    return {"id": name, "images": pictures, **turns}


TEXT = row("text", "What is 2 + 2?", "four")
SHORT = row("short", "7?", "seven")
LONG = row("long", "Which digit is written? " * 9, "It is four. " * 8)
PICTURE = row("picture", "Which digit is written?", "B", (40, 24))
PAIR = row("pair", "Which of the two is a digit?", "It is the second.", (24, 40), (32, 32))
WIDE = row("wide", "What is it?", "zero", (90, 20))
MIXES = {
    "mixed": [PICTURE, TEXT, PAIR, LONG, SHORT],
    "text only": [LONG, SHORT, TEXT],
    "one sample": [PICTURE],
    "several pictures": [PAIR, PAIR, PICTURE],
}


@pytest.fixture(scope="module")
def checkpoints(stage0, vision_folder, mistral_folder, llama_folder, tmp_path_factory):
    """By name: Mistral (grouped heads, a window of 12), its LLaMA twin, Mistral with tiles."""
    from llava_mistral.commands.build import main

    folder = tmp_path_factory.mktemp("packing")
    run_here(main, "--vision", vision_folder, "--llm", llama_folder, "--output", folder / "llama")
    tiles = ("--image_aspect_ratio", "anyres")
    run_here(main, "--vision", vision_folder, "--llm", mistral_folder, *tiles, "--output", folder / "anyres")
    return {"mistral": stage0, "llama": folder / "llama", "anyres": folder / "anyres"}


@cache
def opened(folder: Path):
    from llava_mistral.training.collator import AnswerCollator
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    processor = LlavaMistralProcessor.from_pretrained(folder)
    processor.chat_template = INSTRUCT.read_text(encoding="utf-8")
    return LlavaMistralForConditionalGeneration.from_pretrained(folder), AnswerCollator(processor)


@pytest.fixture
def load(checkpoints):
    """Return the model, with the library's attention, and the padded and the packed collator of a checkpoint."""
    from llava_mistral.training.packing import PackedCollator

    def load(name: str = "mistral"):
        model, collator = opened(checkpoints[name])
        model.set_attn_implementation({"text_config": "sdpa"})
        return model.train(), collator, PackedCollator(collator)

    return load


def loss_and_gradients(model, batch: dict):
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss  # as the trainer calls it
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_equal_training(model, padded: dict, packed: dict, prepare=lambda: None):
    from llava_mistral.training.attention import use_per_sample_attention

    loss, gradients = loss_and_gradients(model, padded)
    use_per_sample_attention(model)
    prepare()
    own_loss, own_gradients = loss_and_gradients(model, packed)
    assert own_loss.isclose(loss, rtol=1e-5, atol=0)
    assert own_gradients.keys() == gradients.keys() and len(gradients) > 20
    for name, gradient in gradients.items():  # that of a key's bias is 0, and what is there is rounding
        assert (own_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", ["mistral", "llama", "anyres"])
def test_loss_and_gradients_are_those_of_the_padded_batch(load, name, mix):
    model, padded, packed = load(name)
    rows = [*MIXES[mix], WIDE] if name == "anyres" else MIXES[mix]
    assert_equal_training(model, padded(rows), packed(rows))


def test_a_window_binds_inside_each_sample_as_in_the_stock_model(load):
    """Another window gives another loss, so the equality above is not one of windows that nobody looked at."""
    model, padded, packed = load()
    rows = MIXES["mixed"]
    assert model.config.window < min(IMAGE_TOKENS, len(packed([LONG])["input_ids"][0]))
    losses = set()
    for window in (3, 12, 40, None):
        text = model.model.language_model.config
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text, "sliding_window", window)
            model.set_attn_implementation({"text_config": "sdpa"})
            assert_equal_training(model, padded(rows), packed(rows))
            losses.add(round(float(loss_and_gradients(model, packed(rows))[0]), 6))
    assert len(losses) == 4


def test_gradient_checkpointing_changes_nothing(load):
    model, padded, packed = load()
    rows = MIXES["mixed"]
    try:
        assert_equal_training(model, padded(rows), packed(rows), prepare=model.gradient_checkpointing_enable)
    finally:
        model.gradient_checkpointing_disable()


def test_lora_learns_the_same_from_packed_batches(checkpoints):
    import torch

    from llava_mistral.training.lora import add_lora
    from llava_mistral.training.packing import PackedCollator
    from llava_mistral.training.recipe import StageArguments
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    model = LlavaMistralForConditionalGeneration.from_pretrained(checkpoints["mistral"])
    collator = opened(checkpoints["mistral"])[1]
    stage = replace(StageArguments(), model_name_or_path="base", lora_r=4, lora_alpha=8, lora_dropout=0.0)
    model, _ = add_lora(model, stage, seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at the start, and with it the gradient of the other half
            torch.nn.init.normal_(weight, std=0.1)
    rows = MIXES["mixed"]
    assert_equal_training(model, collator(rows), PackedCollator(collator)(rows))


def test_bfloat16_autocast_is_as_near_as_its_eight_bits(load):
    import torch

    from llava_mistral.training.attention import use_per_sample_attention

    model, padded, packed = load()
    rows = MIXES["mixed"]
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = loss_and_gradients(model, padded(rows))
        use_per_sample_attention(model)
        own, _ = loss_and_gradients(model, packed(rows))
    assert own.isclose(loss, rtol=1e-2)


@pytest.mark.parametrize("place", [0, 2])
def test_a_neighbour_changes_not_one_bit_of_a_sample(load, place):
    """Other words and another picture beside it, before and behind; its own logits stay as they are, bit for bit."""
    import torch

    from llava_mistral.training.attention import use_per_sample_attention

    model, _, packed = load()
    use_per_sample_attention(model)
    model.eval()
    rows = [PICTURE, TEXT, row("last", "Which digit is written?", "C", (40, 24))]
    batch = packed(rows)
    start, end = batch["cu_seq_lens_q"][1:3].tolist()
    first = int(batch["cu_seq_lens_q"][place])
    image = (batch["input_ids"][0, first:] == model.config.image_token_id).nonzero()[-1].item() + first
    other = {**batch, "input_ids": batch["input_ids"].clone(), "pixel_values": batch["pixel_values"].clone()}
    other["input_ids"][0, image + 1 : image + 4] += 7
    other["pixel_values"][place // 2] *= -1
    with torch.no_grad():
        before, after = model(**batch).logits[0], model(**other).logits[0]
    assert not torch.equal(before[image + 1], after[image + 1]), "the neighbour itself did change"
    assert torch.equal(before[start:end], after[start:end])


def test_a_packed_batch_is_the_padded_one_without_its_padding(load):
    """Whole samples in order, positions from 0, no mask, no loss on a first token."""
    _, padded, packed = load()
    rows = MIXES["mixed"]
    whole, batch = padded(rows), packed(rows)
    lengths = whole["attention_mask"].sum(1).tolist()
    assert "attention_mask" not in batch and batch["input_ids"].shape == (1, sum(lengths))
    assert batch["cu_seq_lens_q"].diff().tolist() == lengths and batch["max_length_q"] == max(lengths)
    assert batch["pixel_values"].equal(whole["pixel_values"])
    for index, length in enumerate(lengths):
        start, end = batch["cu_seq_lens_q"][index : index + 2].tolist()
        assert batch["input_ids"][0, start:end].equal(whole["input_ids"][index, :length])
        assert batch["labels"][0, start + 1 : end].equal(whole["labels"][index, 1:length])
        assert batch["labels"][0, start] == -100
        assert batch["position_ids"][0, start:end].tolist() == list(range(length))


def test_a_packed_prompt_is_the_inference_prompt_token_for_token(load):
    _, collator, packed = load()
    batch = packed([PICTURE, TEXT])
    words = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    for start, sample in zip(batch["cu_seq_lens_q"].tolist(), [PICTURE, TEXT], strict=False):
        pictures = [{"type": "image", "image": picture} for picture in sample["images"]]
        content = [*pictures, {"type": "text", "text": sample["prompt"][0]["content"]}]
        asked = collator.processor.apply_chat_template([{"role": "user", "content": content}], **words)["input_ids"][0]
        assert asked[0] == collator.processor.tokenizer.bos_token_id
        assert batch["input_ids"][0, start : start + len(asked)].equal(asked)
        assert batch["labels"][0, start + len(asked)] != -100, "and the answer follows at once"


def test_without_borders_they_are_read_from_the_positions(load):
    from llava_mistral.training.attention import use_per_sample_attention

    model, padded, packed = load()
    batch = packed(MIXES["mixed"])
    kernels = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
    bare = {name: value for name, value in batch.items() if name not in kernels} | {"use_cache": False}
    stock = model(**bare).logits  # the library's own dense mask of blocks
    use_per_sample_attention(model)
    assert model(**bare).logits.equal(model(**batch).logits)
    assert model(**batch).logits.allclose(stock, rtol=1e-4, atol=1e-5)


def test_padded_batches_and_generation_are_those_of_the_stock_attention(load):
    from llava_mistral.training.attention import use_per_sample_attention

    model, padded, _ = load()
    model.eval()
    batch = padded(MIXES["mixed"])
    labels = batch.pop("labels")
    alone = {name: value for name, value in padded([PICTURE]).items() if name != "labels"}
    answers = {}
    for name in ("stock", "ours"):
        said = model.generate(**alone, max_new_tokens=6, do_sample=False, pad_token_id=0)
        answers[name] = model(**batch, labels=labels).logits, said
        use_per_sample_attention(model)
    assert all(stock.equal(ours) for stock, ours in zip(*answers.values(), strict=True))


def test_the_vision_tower_keeps_its_attention_and_nothing_is_saved(load, tmp_path):
    from llava_mistral.training.attention import PER_SAMPLE, use_per_sample_attention

    model, _, _ = load()
    use_per_sample_attention(model)
    assert model.model.language_model.config._attn_implementation == PER_SAMPLE
    assert model.model.vision_tower.config._attn_implementation == "sdpa" == model.config._attn_implementation
    model.config.save_pretrained(tmp_path)
    assert PER_SAMPLE not in (tmp_path / "config.json").read_text()


def test_the_kernel_is_asked_for_causal_windowed_grouped_attention(load, monkeypatch):
    """The kernel itself runs on a GPU; here stands, for the same arguments, what its documentation promises."""
    import torch

    from llava_mistral.training import attention

    def documented(query, key, value, starts, other_starts, longest, other_longest, *, scale, window_size, enable_gqa):
        assert enable_gqa and starts is other_starts and longest == other_longest == int(starts.diff().max())
        left, right = window_size
        outputs = []
        for start, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
            q, k, v = (states[start:end].transpose(0, 1) for states in (query, key, value))
            k, v = (states.repeat_interleave(q.shape[0] // k.shape[0], 0) for states in (k, v))
            behind = torch.arange(end - start)[:, None] - torch.arange(end - start)[None]
            hidden = behind < -right if right >= 0 else torch.zeros_like(behind, dtype=torch.bool)
            hidden |= behind > left if left >= 0 else False
            weights = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf).softmax(-1)
            outputs.append((weights @ v).transpose(0, 1))
        return torch.cat(outputs)

    model, padded, packed = load()
    monkeypatch.setattr(attention, "_has_kernel", lambda query, dtype: True)
    monkeypatch.setattr(attention, "varlen_attn", documented)
    rows = MIXES["mixed"]
    assert_equal_training(model, padded(rows), packed(rows))
