"""What a CPU can show of the way that training takes on GPUs: hooks, locks, counts, kernels, costs."""

import errno
import os
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.tiny_components import TEXT
from tests.support.tiny_plugin import tiny_model
from tests.support.varlen_kernels import varlen_on_cpu


def spread(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """A weight as DeepSpeed's `zero.Init` leaves it in each process: empty, its numbers known by `ds_numel`."""
    empty = torch.nn.Parameter(torch.empty(0), requires_grad=weight.requires_grad)
    empty.ds_numel = weight.numel()
    return empty


def test_weights_in_shares_are_counted_whole_and_say_nothing_of_an_untrained_projector():
    from llava_mistral.training.stages import has_untrained_projector, set_trainable

    model = tiny_model()
    whole = set_trainable(model, "pretrain")
    assert has_untrained_projector(model)
    for module in list(model.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, spread(weight))
    assert set_trainable(model, "pretrain") == whole and whole["trainable"] > 0
    assert not has_untrained_projector(model)


def test_the_newline_is_gathered_by_a_later_hook_before_the_pictures_are_read():
    """DeepSpeed registers its hooks when it wraps the model, after ours."""
    from llava_mistral.training.trainer import PicturesLast
    from llava_mistral.training.vision_features import VisionFeatures

    model = tiny_model(image_aspect_ratio="anyres")
    VisionFeatures(model)
    newline, order = model.model.image_newline.data, []
    model.model.image_newline.data = torch.empty(0)

    def gather(module, args):
        order.append("gathered")
        module.image_newline.data = newline

    model.model.register_forward_pre_hook(gather)
    PicturesLast().on_train_begin(None, None, None, model=model)
    model.train()
    ids = torch.randint(5, 250, (1, 7))
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert order == ["gathered"] and list(model.model._forward_pre_hooks)[-1] == model.model.picture_reader.handle.id
    assert len(model.model._forward_pre_hooks) == 2, "ours once"


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_rows_are_read_on_a_file_system_without_locks(number, rows_file, tmp_path, monkeypatch):
    import fcntl

    from llava_mistral.ground.whole_file import one_at_a_time

    def without(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    with one_at_a_time(tmp_path / "lock"):
        (tmp_path / "made").touch()
    assert (tmp_path / "made").exists()


def test_another_fault_of_a_lock_is_not_passed_over(tmp_path, monkeypatch):
    import fcntl

    from llava_mistral.ground.whole_file import one_at_a_time

    def failing(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", failing)
    with pytest.raises(OSError, match="Input/output"), one_at_a_time(tmp_path / "lock"):
        raise AssertionError("the lock was not taken")


def test_the_allocator_may_grow_its_segments_unless_it_was_told_otherwise(monkeypatch):
    from llava_mistral.training.processes import join_launch

    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "")
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    join_launch()
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    join_launch()
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64"


def test_a_towers_key_hangs_on_its_numbers_and_arithmetic_and_not_on_how_they_are_kept():
    from types import SimpleNamespace

    from llava_mistral.training.vision_features import tower_key

    model = tiny_model()
    with torch.no_grad():
        for weight in model.model.vision_tower.parameters():
            weight.copy_(weight.bfloat16())
    processor = SimpleNamespace(image_processor=SimpleNamespace(to_dict=dict))
    keys = [tower_key(model, processor, ["highest"]), tower_key(model, processor, ["high"])]
    for module in model.model.vision_tower.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.bfloat16()
    assert tower_key(model, processor, ["highest"]) == keys[0] != keys[1]
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).add_(1)
    assert tower_key(model, processor, ["highest"]) != keys[0]


# Attention's kernel, behind the wrapper that a GPU would use.


def rows_of(model, lengths, seed: int = 0) -> dict:
    """A packed row of samples of these lengths, text alone, on whose later halves there is loss."""
    borders = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.randint(5, 250, (1, int(borders[-1])), generator=torch.Generator().manual_seed(seed))
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    labels = ids.masked_fill(places < max(1, min(lengths) // 2), -100)
    marks = {name: borders.to(torch.int32) for name in ("cu_seq_lens_q", "cu_seq_lens_k")}
    marks |= dict.fromkeys(("max_length_q", "max_length_k"), max(lengths))
    return {"input_ids": ids, "labels": labels, "position_ids": places, **marks, "use_cache": False}


def kernel_model(lora: bool = False, checkpointing: bool = False, bf16: bool = True):
    """A model whose heads are as wide as the kernel wants them, ready to train in packed rows."""
    from llava_mistral.training.attention import use_per_sample_attention
    from llava_mistral.training.lora import add_lora
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.stages import set_trainable
    from llava_mistral.training.vision_features import VisionFeatures

    wide = {"model_type": "mistral", "vocab_size": 448, "sliding_window": 12, **TEXT, "hidden_size": 32, "head_dim": 8}
    model = tiny_model(text_config=wide).train()
    set_trainable(model, "finetune")
    if lora:
        model, _ = add_lora(model, StageArguments(lora_r=4, lora_dropout=0.0), 0, bf16)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)  # from zero nothing of the other matrix would be learned
    VisionFeatures(model)
    use_per_sample_attention(model)
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model


def gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def near(found: dict, expected: dict, bound: float) -> None:
    assert found.keys() == expected.keys() and len(found) > 4
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= bound * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_real_wrapper_trains_as_sample_by_sample_attention_does(lora, checkpointing):
    """bfloat16 autocast, grouped heads, a window; in the last bits the two round at other places."""
    model = kernel_model(lora, checkpointing)
    batch = rows_of(model, (30, 7, 19))
    loss, apart = gradients(model, batch)
    with varlen_on_cpu() as calls:
        other, together = gradients(model, batch)
    layers = model.config.text_config.num_hidden_layers
    assert calls == {"forward": layers * (1 + checkpointing), "backward": layers}
    assert float(other) == pytest.approx(float(loss), rel=5e-3)
    near(together, apart, 0.1)


def test_our_call_of_the_kernel_fits_its_signature():
    import inspect
    from unittest import mock

    from torch.nn.attention.varlen import varlen_attn

    from llava_mistral.training import attention

    bound = []
    with mock.patch.object(attention, "varlen_attn", lambda *a, **k: bound.append((a, k))):
        attention._by_kernel(*torch.zeros(3, 4, 2, 8), torch.tensor([0, 4]), 4, None, 3)
    (places, names), signature = bound[0], inspect.signature(varlen_attn)
    given = signature.bind(*places, **names).arguments
    assert given["max_q"] == given["max_k"] == 4 and given["window_size"] == (2, 0) and given["enable_gqa"] is True
    assert given["cu_seq_q"] is given["cu_seq_k"] and not {"seqused_k", "block_table"} & given.keys()


@pytest.mark.parametrize("lora", [False, True])
def test_checkpointing_changes_no_bit(lora):
    batch = rows_of(None, (30, 7, 19))
    with varlen_on_cpu():
        plain, again = (gradients(kernel_model(lora, checkpointing), batch) for checkpointing in (False, True))
    assert plain[0].equal(again[0])
    assert all(gradient.equal(again[1][name]) for name, gradient in plain[1].items())


def test_lora_makes_no_float32_copy_of_its_inputs_and_learns_the_same_bits():
    """Autocast would round such a copy to the bfloat16 number that it was made from."""
    batch = rows_of(None, (30, 7, 19))
    with varlen_on_cpu():
        lean, stock = (gradients(kernel_model(lora=True, bf16=bf16), batch) for bf16 in (True, False))
        traffic = [bytes_to_float32(kernel_model(lora=True, bf16=bf16), batch) for bf16 in (True, False)]
    assert lean[0].equal(stock[0])
    near(lean[1], stock[1], 1e-2)
    assert traffic[0] < 0.85 * traffic[1]


class Counted(TorchDispatchMode):
    """Counts the operations that pass, by name."""

    def __init__(self):
        super().__init__()
        self.names, self.widened = Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.names[func._schema.name.removeprefix("aten::")] += 1
        if func._schema.name == "aten::_to_copy" and found.dtype == torch.float32:
            self.widened += found.nbytes
        return found


def bytes_to_float32(model, batch) -> int:
    with Counted() as counted:
        gradients(model, batch)
    return counted.widened


@pytest.mark.slow
def test_compiled_layers_learn_the_same_in_one_graph_for_rows_of_any_length():
    """Without the code generator: at most 2 recompilations, no graph break."""
    from torch._dynamo.utils import counters

    from llava_mistral.training.trainer import compile_layers

    lengths = [(30, 7, 19), (12, 12), (40, 3, 9, 21), (50,)]
    model, plain = kernel_model(), kernel_model()
    torch._dynamo.reset()
    counters.clear()
    compile_layers(model, "aot_eager")
    with varlen_on_cpu():
        for row in lengths:
            batch = rows_of(model, row)
            (loss, found), (other, expected) = gradients(model, batch), gradients(plain, batch)
            assert float(loss) == pytest.approx(float(other), rel=5e-3)
            near(found, expected, 0.05)
    assert not counters["graph_break"], dict(counters["graph_break"])
    assert counters["stats"]["unique_graphs"] <= 3, "one, and at most two recompilations"
