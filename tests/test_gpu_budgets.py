"""What a micro-batch may cost a GPU, counted on a CPU: a dearer one fails here before anybody waits for it."""

import tempfile

import pytest
import torch

from tests.support.costs import Kernels, Waits
from tests.support.packed_rows import kernel_model, rows_of
from tests.support.varlen_kernels import varlen_on_cpu

# How often the host may wait for the device in a micro-batch, and why. On a GPU two more are in TRL's head, which
# picks the answers' tokens by a mask (`trl.trainer.utils`); on a CPU it has another way.
ALLOWED = {
    "an image token without its picture must end the run: the library's check, and its message": 2,
    "whether positions restart: `transformers.masking_utils.find_packed_sequence_indices`": 1,
}


@pytest.mark.parametrize("kind", ["stage1", "lora", "full"])
def test_the_host_waits_for_the_device_no_more_than_is_listed(kind):
    """Over the micro-batches of a step in the middle of a run, between two log lines."""
    from transformers import TrainerCallback

    from benchmarks.train_gpu import KINDS, SIZES, Arm, config_of
    from benchmarks.training_arms import make_rows, ours, read_tokenizer, texts

    waits, size, cpu = Waits(), SIZES["tiny"], torch.device("cpu")
    rows = make_rows(KINDS[kind], texts(None, KINDS[kind]), 20, size["side"][0])

    class Middle(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            waits.on = state.global_step == 2

        def on_step_end(self, args, state, control, **kwargs):
            waits.on = False

    with tempfile.TemporaryDirectory() as folder, varlen_on_cpu(), waits.watching():
        config = config_of(kind, Arm(ours), size, 3, folder, cpu)
        config.logging_steps, config.logging_nan_inf_filter = 100, False
        trainer = ours(kind, Arm(ours), size, read_tokenizer(None), rows, config, cpu, None)
        trainer.add_callback(Middle())
        collate = trainer.data_collator

        def beside(rows):  # in a worker of the data loader, on tensors that no device has
            with waits.counting(False):
                return collate(rows)

        trainer.data_collator = beside
        trainer.train()
    assert sum(waits.found.values()) <= sum(ALLOWED.values()) * config.gradient_accumulation_steps, waits.found


# Kernels of a layer, forward and backward with recomputation, views not counted; bytes that all but the matrix
# products move in both, in float32 vectors of the hidden size for each token.
BUDGET = {"frozen": (41, 110, 191), "full": (48, 128, 377), "LoRA": (88, 202, 300)}


@pytest.mark.parametrize("kind", BUDGET)
def test_a_layer_takes_no_more_kernels_and_traffic_than_it_does_today(kind):
    """By what one layer more takes, of Mistral-7B's proportions."""
    costs = []
    for layers in (1, 2):
        shape = {"hidden_size": 256, "intermediate_size": 896, "num_attention_heads": 8, "head_dim": 32}
        model = kernel_model(kind == "LoRA", checkpointing=True, num_hidden_layers=layers, **shape)
        if kind == "frozen":
            model.requires_grad_(False).get_input_embeddings().requires_grad_(True)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and not module.weight.requires_grad:
                module.weight.data = module.weight.data.bfloat16()  # as `frozen_dtype: auto` keeps them
        batch = rows_of(model, (30, 7, 19))
        with varlen_on_cpu(), torch.autocast("cpu", torch.bfloat16):
            with Kernels() as forward:
                loss = model(**batch).loss
            with Kernels() as backward:
                loss.backward()
        costs.append((forward.count, backward.count, (forward.bytes + backward.bytes) / (4 * 56 * 256)))
    found = [more - less for less, more in zip(*costs, strict=True)]
    assert all(cost <= most for cost, most in zip(found, BUDGET[kind], strict=True)), found
