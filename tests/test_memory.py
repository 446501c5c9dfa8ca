"""The plan's bytes are those that real runs allocate: both stages and LoRA, with and without checkpointing."""

import shutil
import weakref
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support import tiny_components
from tests.support.running import HOME, recipe_of, run_here
from tests.support.training_runs import train

# Large enough that weights, moments, activations and loss each count at the peak.
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 192,
    "intermediate_size": 608,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
}
LORA = {"use_peft": "True", "lora_r": "16", "lora_alpha": "32"}
ON, BF16, TWICE = {"gradient_checkpointing": "True"}, {"bf16": "True"}, {"gradient_accumulation_steps": "2"}
TWICE_AND_SMALL = {**TWICE, "per_device_train_batch_size": "2"}
RUNS = {
    "stage 1": ("pretrain", {}),
    "stage 1, bf16, checkpointing": ("pretrain", {**BF16, **ON}),
    "stage 2": ("finetune", {}),
    "stage 2, bf16, checkpointing, accumulation": ("finetune", {**BF16, **ON, **TWICE_AND_SMALL}),
    "LoRA, bf16": ("finetune", {**LORA, **BF16}),
}
MORE = {
    "stage 1, bf16": ("pretrain", BF16),
    "stage 1, checkpointing": ("pretrain", ON),
    "stage 2, bf16": ("finetune", BF16),
    "stage 2, checkpointing": ("finetune", ON),
    "stage 2, accumulation": ("finetune", TWICE_AND_SMALL),
    "stage 2, torch's AdamW": ("finetune", {**ON, "optim": "adamw_torch"}),
    "LoRA": ("finetune", LORA),
    "LoRA, no dropout": ("finetune", {**LORA, "lora_dropout": "0.0"}),
    "LoRA, bf16, checkpointing": ("finetune", {**LORA, **BF16, **ON}),
}


def build(folder, text: str, *flags):
    from llava_mistral.commands.build import main

    with mock.patch.object(tiny_components, "VISION", VISION), mock.patch.object(tiny_components, "TEXT", TEXT):
        vision = tiny_components.save_vision(folder / "vision")
        text = tiny_components.save_text_model(folder / text, text)
    run_here(main, "--vision", vision, "--llm", text, "--output", folder / "stage0", *flags)
    return folder / "stage0"


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return build(tmp_path_factory.mktemp("larger"), "mistral")


def planned(folder, rows_file, values: dict):
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.plan.checkpoint import configuration, worded_processor
    from llava_mistral.training.plan.memory import memory_of
    from llava_mistral.training.plan.workload import largest_batch, measure, run_of

    recipe = recipe_of(**values, model_name_or_path=folder)
    config, processor = configuration(recipe.stage), worded_processor(recipe.stage)
    run = run_of(recipe.stage, recipe.config, cuda=False)
    return memory_of(config, run, largest_batch(measure(read_rows(rows_file), processor, config), run))


def allocated(folder, rows_file, output, stage: str, flags: dict) -> int:
    """The peak of three steps: the optimizer's states are there from the second on."""
    from llava_mistral.training.trainer import StageTrainer

    run, seen = StageTrainer.train, []

    def watched(self, *args, **kwargs):
        with Allocation([*self.model.parameters(), *self.model.buffers()]) as allocation:
            seen.append(allocation)
            return run(self, *args, **kwargs)

    with mock.patch.object(StageTrainer, "train", watched):
        train(stage, folder, rows_file, output, **{"max_steps": "3", **flags})
    return seen[0].peak


def compare(folder, rows_file, output, stage: str, flags: dict) -> None:
    quick = {"bf16": "False", "gradient_checkpointing": "False", "per_device_train_batch_size": "4"}
    flags = {"frozen_dtype": "float32", **flags}  # the weights are random: none is a 16-bit number
    plan = planned(folder, rows_file, {**quick, "stage": stage, **flags})
    measured = allocated(folder, rows_file, output, stage, flags)
    assert plan.peak == pytest.approx(measured, rel=0.15)
    assert plan.peak - plan.weights == pytest.approx(measured - plan.weights, rel=0.15), (
        "beside the known weights, too"
    )


@pytest.mark.parametrize("name", RUNS)
def test_the_planned_peak_is_within_15_percent_of_what_is_allocated(name, larger, rows_file, tmp_path):
    compare(larger, rows_file, tmp_path / "out", *RUNS[name])


@pytest.mark.parametrize("name", [pytest.param("stage 1, bf16, checkpointing", marks=pytest.mark.slow), "LoRA, bf16"])
def test_the_planned_peak_holds_where_frozen_matrices_are_kept_in_16_bits(name, larger, rows_file, tmp_path):
    rounded = shutil.copytree(larger, tmp_path / "rounded")
    weights = load_file(rounded / "model.safetensors")
    weights = {key: weight.bfloat16().float() for key, weight in weights.items()}
    save_file(weights, rounded / "model.safetensors", {"format": "pt"})
    stage, flags = RUNS[name]
    compare(rounded, rows_file, tmp_path / "out", stage, {**flags, "frozen_dtype": "auto"})


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_the_planned_peak_holds_for_other_runs(name, larger, rows_file, tmp_path):
    compare(larger, rows_file, tmp_path / "out", *MORE[name])


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, ON, {**ON, **TWICE_AND_SMALL}], ids=["", "checkpointing", "accumulation"])
def test_the_planned_peak_holds_where_the_text_model_is_trained_in_bfloat16(
    more, larger, rows_file, tmp_path, monkeypatch
):
    """With torch's AdamW, which the verb refuses here: torch's operations do not see what torchao's allocates."""
    monkeypatch.setattr("llava_mistral.training.recipe_checks._check_trained_dtype", lambda recipe: None)
    flags = {**BF16, **more, "trained_dtype": "bfloat16", "optim": "adamw_torch", "frozen_dtype": "auto"}
    compare(larger, rows_file, tmp_path / "out", "finetune", flags)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "linear", "anyres"])
def test_the_planned_peak_holds_for_other_models(kind, rows_file, tmp_path):
    flags = {"llama": [], "linear": ["--projector", "linear"], "anyres": ["--image_aspect_ratio", "anyres"]}[kind]
    folder = build(tmp_path, "llama" if kind == "llama" else "mistral", *flags)
    template = HOME / "processing" / "chat_templates" / "vicuna_v1.jinja"
    compare(folder, rows_file, tmp_path / "out", "finetune", {**BF16, "chat_template": str(template)})


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({}, id="float32", marks=pytest.mark.slow),
        pytest.param(BF16, id="bf16", marks=pytest.mark.slow),
        pytest.param({**LORA, **BF16}, id="LoRA"),
    ],
)
def test_the_backward_of_one_layer_is_planned_where_it_decides(flags, larger, rows_file, tmp_path, monkeypatch):
    """With small blocks the loss on a CPU is small, as it is on a GPU."""
    import trl.trainer.utils

    from llava_mistral.training.plan import memory

    monkeypatch.setattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 64)
    monkeypatch.setattr(memory, "TILE", (4096, 64))
    compare(larger, rows_file, tmp_path / "out", "finetune", {**ON, **flags})


def test_the_counter_agrees_with_torchs_own_memory_tracker():
    """Which would do but for its reset: it follows one iteration, and the Trainer's loop has no place for that."""
    import torch
    from torch import nn
    from torch.distributed._tools.mem_tracker import MemTracker

    def steps(model, optimizer, begin):
        for _ in range(2):
            begin()
            model(torch.ones(64, 256)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    def fresh():
        model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))
        return model, torch.optim.AdamW(model.parameters(), foreach=False)

    model, optimizer = fresh()
    with Allocation(model.parameters()) as ours:
        steps(model, optimizer, lambda: None)
    model, optimizer = fresh()
    theirs = MemTracker()
    theirs.track_external(model, optimizer)
    with theirs:
        steps(model, optimizer, theirs.reset_mod_stats)
    peak = theirs.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert ours.peak == pytest.approx(peak, rel=0.02)


class Allocation(TorchDispatchMode):
    """Count the bytes of living storages, those of `held` from the start; `peak` is the most there was.

    Resident memory would show what the allocator of the C library keeps, threads and caches; a profiler's events miss
    what lived before it. Every tensor that an operation makes passes here, forward, backward and optimizer alike, and
    its storage says when it goes: the sum is exact, and the same on every machine.
    """

    def __init__(self, held):
        super().__init__()
        self.living, self.now, self.peak = {}, 0, 0
        for tensor in held:
            self._add(tensor)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.living or not storage.nbytes():
            return
        self.living[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.now -= self.living.pop(key, 0)
