"""What a CPU can show of the way that training takes on GPUs: hooks, locks, counts, kernels, costs."""

import errno
import os
from dataclasses import replace

import pytest
import torch

from tests.support.recipe_sizes import config_of
from tests.support.running import HOME
from tests.support.tiny_plugin import tiny_model
from tests.support.training_runs import train


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


# The plan.


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
            assert peak(change.run) <= gpu.memory < peak(run), change.said
            said.add(change.said.split()[0])
    assert len(said) > 1
    if accumulation > 1 and lora_r is None:
        gpu = replace(GPUS["H100"], memory=peak(run) - 1e9)
        change = next(fitting_changes(config, run, lambda other: largest_batch(samples, other), gpu))
        assert change.said.startswith("--per_device_train_batch_size 32 --gradient_accumulation_steps 1")


def test_the_page_has_plan_and_published_hours_side_by_side():
    """Pour the table of `python -m llava_mistral.training.plan.published` into the page again when this fails."""
    from llava_mistral.training.plan.published import as_markdown

    assert as_markdown() in (HOME / "docs" / "training" / "plan.md").read_text(encoding="utf-8")


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
