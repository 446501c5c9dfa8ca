"""The tower in batches of one size: a picture's bits are the same whatever is read beside it."""

from types import SimpleNamespace

import pytest
import torch

from tests.support.tiny_plugin import tiny_model


def features(slots: int, pictures: list[torch.Tensor], bf16: bool) -> list[torch.Tensor]:
    """What the tower makes of pictures of `(tiles, 3, 32, 32)` in one micro-batch."""
    from llava_mistral.training.vision_features import VisionFeatures

    model = tiny_model().train()
    reader = VisionFeatures(model, slots=slots)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return reader._features(model.model, model.model.vision_tower, {"pixel_values": torch.stack(pictures)})


@pytest.mark.parametrize("bf16", [False, True])
def test_neighbours_and_places_change_no_bit_of_a_picture(bf16):
    pictures = list(torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    whole = features(4, pictures, bf16)
    assert len(whole) == 9 and len({tuple(one.shape) for one in whole}) == 1
    for order in ([8], [5, 2], [3, 0, 7, 1, 6, 4], list(range(8, -1, -1))):
        for place, found in zip(order, features(4, [pictures[place] for place in order], bf16), strict=True):
            assert found.equal(whole[place])
    alone = features(1, pictures, bf16)
    assert all(
        torch.allclose(one, other, atol=0.05 if bf16 else 1e-5) for one, other in zip(whole, alone, strict=True)
    )


def test_a_tower_whose_bits_depend_on_the_slot_is_found_out():
    from llava_mistral.training import tower_slots

    model = tiny_model()
    with torch.no_grad():
        assert tower_slots.slots_are_alike(model.model.vision_tower, model.config, 4)

    def uneven(tower, tiles, config):
        return tiles + torch.arange(len(tiles)).view(-1, 1, 1, 1) * 1e-6

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tower_slots, "select_features", uneven)
        assert not tower_slots.slots_are_alike(model.model.vision_tower, model.config, 4)


@pytest.mark.parametrize(
    ("device", "cached", "alike", "slots"),
    [("cpu", True, True, 1), ("cuda", True, True, 8), ("cuda", True, False, 1), ("cuda", False, False, 8)],
)
def test_slots_are_tried_where_features_are_stored_and_are_one_where_they_differ(
    device, cached, alike, slots, monkeypatch
):
    from llava_mistral.training import tower_slots

    class Tower(torch.nn.Linear):
        def to(self, *args):
            return self

    tried = []
    monkeypatch.setattr(tower_slots, "slots_are_alike", lambda *args: tried.append(args[2]) or alike)
    config = SimpleNamespace(device=torch.device(device), bf16=False, fp16=False)
    assert tower_slots.slots_of(SimpleNamespace(vision_tower=Tower(1, 1), config=None), config, cached) == slots
    assert tried == ([tower_slots.SLOTS] if device == "cuda" and cached else [])


def test_slots_are_part_of_the_caches_key(stage0, rows_file, tmp_path, monkeypatch):
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training import vision_features
    from llava_mistral.training.plan.checkpoint import worded_processor
    from tests.support.running import recipe_of

    recipe = recipe_of(stage="pretrain", model_name_or_path=stage0, vision_cache=tmp_path)
    model, rows, folders = tiny_model(), read_rows(rows_file), set()
    for slots in (1, 4, 8, 8):
        monkeypatch.setattr(vision_features, "slots_of", lambda *args, slots=slots, **kwargs: slots)
        processor = worded_processor(recipe.stage)
        cache, found = vision_features.open_cache(recipe.stage, recipe.config, rows, model, processor)
        assert found == slots
        folders.add(cache.own)
    assert len(folders) == 3
