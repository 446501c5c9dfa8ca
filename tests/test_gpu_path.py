"""What a CPU can show of the way that training takes on GPUs: hooks, locks, counts, kernels, costs."""

import errno
import os
import shutil

import pytest
import torch

from tests.support.tiny_plugin import tiny_model


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


def test_no_rank_but_the_first_asks_the_disk_about_each_picture(rows_file, tmp_path, monkeypatch):
    """64 processes on a shared file system would ask 64 times; a refusal is every rank's, too."""
    from llava_mistral.commands.train import checked_rows
    from llava_mistral.ground.bad_input import BadInput
    from llava_mistral.training.recipe import StageArguments

    told, asked, real = [], [], os.stat

    def broadcast(objects):
        told.extend(objects if os.environ["RANK"] == "0" else [])
        return [told[-1]]

    def stat(path, *args, **kwargs):
        asked.append(str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", broadcast)
    monkeypatch.setattr(os, "stat", stat)

    def of_rank(rank: int, file) -> tuple:
        asked.clear()
        monkeypatch.setenv("RANK", str(rank))
        given = {"on_bad_sample": mode, "max_bad_samples": 0.5}
        rows, bad = checked_rows(StageArguments(stage="pretrain", dataset=str(file), **given))
        return len(rows), bad.listed, sum(path.endswith(".png") for path in asked)

    mode = "error"
    (count, _, looked), (same, _, never) = (of_rank(rank, rows_file) for rank in (0, 1))
    assert count == same == 8 and looked >= 8 and never == 0
    damaged = shutil.copytree(rows_file.parent, tmp_path / "rows") / "rows.json"
    (damaged.parent / "images" / "3.png").write_bytes(b"no picture")
    for rank in (0, 1):
        with pytest.raises(BadInput, match="record 3"):
            of_rank(rank, damaged)
    mode = "skip"
    (count, listed, _), other = (of_rank(rank, damaged) for rank in (0, 1))
    assert count == 7 and other == (7, listed, 0)


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
