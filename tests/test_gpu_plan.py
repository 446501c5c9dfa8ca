"""The plan for GPUs: optimizers by name, advice, published hours, what loading takes, what the memory decides."""

import json
from dataclasses import replace

import pytest
import torch

from tests.support.recipe_sizes import config_of
from tests.support.running import HOME, recipe_of, run_apart
from tests.support.tiny_components import TEXT
from tests.support.tiny_plugin import tiny_model
from tests.support.training_runs import train


def test_every_optimizer_of_the_library_is_known_to_the_plan_or_said_to_be_unknown():
    from transformers.training_args import OptimizerNames

    from llava_mistral.training.plan.memory import STATES, TORCH, UNKNOWN

    names = {optimizer.value for optimizer in OptimizerNames}
    assert names <= {*TORCH, *STATES, *UNKNOWN}, "name the new ones' bytes, or why they are not known"
    assert not {*TORCH, *STATES} & set(UNKNOWN)


@pytest.mark.parametrize("accumulation", [1, 8])
@pytest.mark.parametrize("lora_r", [None, 128])
def test_advice_lowers_the_peak(accumulation, lora_r, tmp_path):
    """Of every change that is named, on GPUs of any size."""
    from llava_mistral.training.plan.gpus import GPUS, fitting_changes
    from llava_mistral.training.plan.memory import memory_of
    from llava_mistral.training.plan.workload import Run, Sample, largest_batch

    config = config_of(tmp_path, "mistral")
    samples = [Sample(700, 3, 576, 1), Sample(250, 3, 0, 0)] * 16
    run = Run("finetune", 4, accumulation, 15.0, 0, "adamw_torch_fused", True, True, lora_r, packed=True)
    run = replace(run, batch=32 // accumulation)

    def peak(other: Run) -> float:
        return memory_of(config, other, largest_batch(samples, other)).peak

    said = set()
    for gigabytes in range(10, 160, 5):
        gpu = replace(GPUS["H100"], memory=gigabytes * 1e9)
        if peak(run) <= gpu.memory:
            break
        for change in fitting_changes(config, run, lambda other: largest_batch(samples, other), gpu):
            assert peak(change.run) <= gpu.memory < peak(run), change.flags
            said.add(change.flags.split()[0])
    assert len(said) > 1
    if accumulation > 1 and lora_r is None:
        gpu = replace(GPUS["H100"], memory=peak(run) - 1e9)
        change = next(fitting_changes(config, run, lambda other: largest_batch(samples, other), gpu))
        assert change.flags.startswith("--per_device_train_batch_size 32 --gradient_accumulation_steps 1")


def test_the_page_has_plan_and_published_hours_side_by_side():
    """Pour the table of `python -m llava_mistral.training.plan.published` into the page again when this fails."""
    from llava_mistral.training.plan.published import as_markdown

    assert as_markdown() in (HOME / "docs" / "training" / "plan.md").read_text(encoding="utf-8")


def test_the_page_has_what_the_small_recipes_take():
    """Pour the table of `python -m llava_mistral.training.plan.small` into the page again when this fails."""
    from llava_mistral.training.plan.small import SMOLLM2, TOWERS, as_markdown, planned
    from tests.support.published_decoders import SHAPES

    assert as_markdown() in (HOME / "docs" / "training" / "plan.md").read_text(encoding="utf-8")
    published = SHAPES["SmolLM2-135M"]["settings"]
    assert {name: published[name] for name in SMOLLM2} == SMOLLM2
    for stage in ("pretrain", "finetune"):
        made = [planned(stage, tower) for tower in TOWERS]
        assert all(one["GPU"] < 16e9 and max(one["hours"].values()) < 12 for one in made), (
            "a free GPU, a laptop's night"
        )


def test_a_kinds_share_of_the_peak_is_what_the_published_hours_mean():
    from llava_mistral.training.plan.gpus import UTILISATION
    from llava_mistral.training.plan.published import PUBLISHED, planned

    for name, stage in (("stage 1", "pretrain"), ("stage 2", "finetune")):
        shares = [planned(run)[1] for run in PUBLISHED if run.stage == stage]
        assert UTILISATION[name] == pytest.approx(sum(shares) / len(shares), abs=0.01)
        assert all(0.85 < planned(run)[0] / run.hours < 1.15 for run in PUBLISHED)


def test_a_gpu_that_is_not_known_has_hours_when_its_peak_is_given(stage0, rows_file, tmp_path, monkeypatch):
    from llava_mistral.training.plan import printed
    from llava_mistral.training.plan.gpus import Gpu

    monkeypatch.setattr(printed, "present_gpu", lambda: Gpu("NVIDIA Z9", 80e9, None))
    done = train("pretrain", stage0, rows_file, tmp_path / "out", plan="True")
    assert "NVIDIA Z9: no peak known, give --peak_tflops N" in done.stdout and "unknown hours" in done.stdout
    done = train("pretrain", stage0, rows_file, tmp_path / "out", plan="True", peak_tflops="500")
    assert "no peak known" not in done.stdout and "fits, 0.00 hours" in done.stdout


# What the memory of a GPU decides.


@pytest.mark.parametrize(
    ("stage", "lora_r", "gigabytes", "given", "checkpointing", "batch"),
    [
        ("pretrain", None, 80, (), False, 16),
        ("pretrain", None, 45, (), False, 8),
        ("pretrain", None, 24, (), True, 16),
        ("pretrain", None, 80, ("gradient_checkpointing",), True, 32),
        ("pretrain", None, 80, ("row_tokens",), False, 4),
        ("finetune", None, 141, (), True, 32),
        ("finetune", None, 60, (), True, 4),
        ("finetune", 128, 80, (), False, 16),
    ],
)
def test_layers_are_kept_and_rows_are_long_where_the_memory_is_there(
    stage, lora_r, gigabytes, given, checkpointing, batch, tmp_path
):
    from llava_mistral.training.plan.gpus import GPUS
    from llava_mistral.training.plan.memory import memory_of
    from llava_mistral.training.plan.printed import decide
    from llava_mistral.training.plan.workload import Run, Sample, largest_batch

    config = config_of(tmp_path, "mistral")
    alike = [Sample(616, 10, 576, 1)] * 32 if stage == "pretrain" else []
    samples = alike or [Sample(700, 3, 576, 1), Sample(250, 3, 0, 0)] * 16
    run = Run(stage, 4, 8, 1.0, 0, "adamw_torch_fused", True, True, lora_r, packed=True, small_frozen=True)
    gpu = replace(GPUS["H100"], memory=gigabytes * 1e9)
    found = decide(config, run, samples, gpu, given)
    assert found.step_samples == run.step_samples
    fits = memory_of(config, found, largest_batch(samples, found)).peak <= gpu.memory
    assert fits or found == run, "and the check of fit refuses it"
    assert (found.checkpointing, found.batch) == (checkpointing, batch)


def test_the_trainer_takes_what_the_plan_decided(stage0, rows_file, monkeypatch):
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.packing import rows_of_a_step
    from llava_mistral.training.plan import fitting
    from llava_mistral.training.plan.checkpoint import worded_processor
    from llava_mistral.training.plan.gpus import GPUS

    given = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "dataloader_num_workers": 2}
    recipe = recipe_of(stage="finetune", model_name_or_path=stage0, **given)
    stage, config = recipe.stage, recipe.config
    config.use_cpu = False
    monkeypatch.setattr(fitting, "present_gpu", lambda: GPUS["H100"])
    fitting.check_fit(stage, config, read_rows(rows_file), worded_processor(stage), given)
    assert config.gradient_checkpointing is config.activation_checkpointing is False
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (8, 1)
    assert rows_of_a_step([2000] * 8, config, stage.row_tokens, 1) == (8, 1)
    assert config.dataloader_prefetch_factor == 2


# What loading takes.

LOAD = """
import json, sys
from llava_mistral.training.loading import load_model
from llava_mistral.training.machine import peak_memory_gb
from llava_mistral.training.recipe import StageArguments
from types import SimpleNamespace
from transformers import AutoConfig
import trl, peft, llava_mistral.training.lora
import modeling_llava_mistral
config = SimpleNamespace(bf16=True, fsdp=None, deepspeed=None, process_index=0, seed=0)
before = peak_memory_gb()["resident"]
model, _ = load_model(StageArguments(stage="pretrain", model_name_or_path=sys.argv[1]), config)
peak = (peak_memory_gb()["resident"] - before) * 1e9
print(json.dumps({"peak": peak, "held": sum(weight.nbytes for weight in model.parameters())}))
"""


def test_loading_takes_little_more_host_memory_than_what_is_stored(tmp_path):
    """A checkpoint of bfloat16 whose projector is float32, as stage 1 leaves it."""
    text = {"model_type": "mistral", "vocab_size": 2000, **TEXT}
    text |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8}
    model = tiny_model(text_config=text).bfloat16()
    model.model.multi_modal_projector.float()
    stored = sum(weight.nbytes for weight in model.parameters())
    assert stored > 240e6
    model.save_pretrained(tmp_path / "stored")
    del model
    (tmp_path / "load.py").write_text(LOAD)
    done = run_apart(tmp_path / "load.py", tmp_path / "stored", PYTHONPATH=str(HOME))
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.5 * stored < found["peak"] < 1.1 * stored + 20e6, "and a few megabytes of code that is loaded on the way"


@pytest.mark.parametrize("lora", [False, True])
def test_what_is_loaded_as_stored_is_what_is_loaded_in_float32_and_shrunk(lora, tmp_path):
    from types import SimpleNamespace

    from llava_mistral.training import loading
    from llava_mistral.training.recipe import StageArguments

    model = tiny_model().bfloat16()
    model.model.multi_modal_projector.float()
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_1.weight)
    model.save_pretrained(tmp_path)
    config = SimpleNamespace(bf16=True, fsdp=None, deepspeed=None, process_index=0, seed=0)
    stage = StageArguments(stage="finetune" if lora else "pretrain", model_name_or_path=str(tmp_path), use_peft=lora)
    small, counts = loading.load_model(stage, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_small", lambda *args: None)
        wide, same = loading.load_model(stage, config)
    assert counts == same
    both = zip(*(dict([*one.named_parameters(), *one.named_buffers()]).items() for one in (small, wide)), strict=True)
    for (name, weight), (other, expected) in both:
        assert name == other and weight.requires_grad == expected.requires_grad, name
        assert weight.dtype == expected.dtype or ".original_module." in name, name
        assert weight.float().equal(expected.float()), name


# What the plan and the pages say.


@pytest.mark.parametrize("row_tokens", [40, 100, 4096])
def test_the_plan_has_the_rows_that_the_trainer_makes(row_tokens, stage0, rows_file):
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.packing import estimated_lengths, most_image_tokens, rows_of_a_step
    from llava_mistral.training.plan.checkpoint import configuration
    from llava_mistral.training.plan.workload import run_of, split_rows

    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "row_tokens": row_tokens}
    recipe = recipe_of(stage="finetune", model_name_or_path=stage0, **given)
    rows, config = read_rows(rows_file), configuration(recipe.stage)
    run = split_rows(run_of(recipe.stage, recipe.config), recipe.stage, recipe.config, rows, config)
    lengths = estimated_lengths(rows, most_image_tokens(config))
    assert (run.batch, run.accumulation) == rows_of_a_step(lengths, recipe.config, row_tokens)
    assert run.step_samples == 4 and (run.batch == 4) == (row_tokens > 40)


def test_hours_are_of_all_operations_and_mfu_of_the_models_alone(stage0, rows_file, tmp_path):
    flags = {"plan": "True", "plan_gpu": "H100", "gradient_checkpointing": "True"}
    done = train("finetune", stage0, rows_file, tmp_path / "out", **flags)
    assert "Hours with all operations, repeated ones too, at 30% of the peak" in done.stdout
    plan = json.loads(done.stdout.rpartition("PLAN ")[2])
    assert plan["flops"] > plan["model_flops"] > 0


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("saving", "On a CPU it ends in the same bytes"),
        ("saving", "equal bits need `--full_determinism True`"),
        ("packing", "In reduced precision the last bits may differ"),
        ("vision_cache", "bit for bit on a CPU"),
        ("vision_cache", "Equal bits of the text model on a GPU need `--full_determinism True`"),
        ("many_gpus", "ZeRO-2 and ZeRO-3 save bfloat16"),
    ],
)
def test_pages_say_on_which_machine_bits_are_equal(page, words):
    text = (HOME / "docs" / "training" / f"{page}.md").read_text(encoding="utf-8")
    assert words in " ".join(text.split())
