"""Training through the real wrapper of attention's kernel, which stands on a CPU: what it learns and what it costs."""

import pytest
import torch

from tests.support.packed_rows import Counted, gradients, kernel_model, near, rows_of
from tests.support.varlen_kernels import varlen_on_cpu


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
