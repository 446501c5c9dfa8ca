"""No vision work twice: what is stored is what the tower gave; a run with it is the run without, bit for bit."""

import json
import multiprocessing
import os
import time

import pytest

from tests.support.tiny_components import save_rows
from tests.support.training_runs import losses, refuse, train

SIZES = [(20, 90), (90, 20), (64, 64), (40, 24)]
ANYRES_LORA = {"use_peft": "True", "lora_r": 4, "lora_alpha": 8, "num_train_epochs": 3}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Ten rows over eight pictures of four shapes: two are asked about twice; two rows have none."""
    from PIL import Image

    file = save_rows(tmp_path_factory.mktemp("rows") / "pictures")
    for index in range(8):
        picture = Image.effect_noise(SIZES[index % 4], 40 + index).convert("RGB")
        picture.save(file.parent / "images" / f"{index}.png")
    records = json.loads(file.read_text())
    again = [{**records[index], "id": f"again-{index}"} for index in (0, 5)]
    turns = [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "four"}]
    blind = [{"id": f"text-{index}", "conversations": turns} for index in range(2)]
    file.write_text(json.dumps(records + again + blind))
    return file


@pytest.fixture
def read(monkeypatch):
    """Counts pictures: `tower` reads, `decoded`."""
    from llava_mistral.training import batch_pictures, vision_features

    counts = {"tower": 0, "decoded": 0}
    select, decode = vision_features.select_features, batch_pictures.open_picture

    def counted(kind, function):
        def call(*args, **kwargs):
            counts[kind] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(vision_features, "select_features", counted("tower", select))
    monkeypatch.setattr(batch_pictures, "open_picture", counted("decoded", decode))
    return counts


def test_losses_and_weights_are_those_without_the_cache_bit_for_bit(anyres, rows, tmp_path):
    """Three epochs of Mistral, tiles and LoRA, batches that mix stored, new and no pictures: off, filling, filled."""
    for name, cache in (("off", "off"), ("filling", tmp_path / "store"), ("filled", tmp_path / "store")):
        train("finetune", anyres, rows, tmp_path / name, vision_cache=cache, **ANYRES_LORA)
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("off", "filling", "filled")]
    assert len(losses(tmp_path / "off")) == 9
    assert losses(tmp_path / "off") == losses(tmp_path / "filling") == losses(tmp_path / "filled")
    assert weights[0] == weights[1] == weights[2]


def test_every_epoch_and_run_after_the_first_reads_no_picture(stage0, rows, tmp_path, read):
    """Square pictures; the same one under two rows is one picture. On a hit none is even decoded."""
    store = tmp_path / "store"
    train("finetune", stage0, rows, tmp_path / "off", vision_cache="off")
    assert read == {"tower": 20, "decoded": 20}
    train("finetune", stage0, rows, tmp_path / "first", vision_cache=store)
    assert read["tower"] == 20 + 8 and len(list(store.rglob("*.safetensors"))) == 8
    read.update(tower=0, decoded=0)
    train("finetune", stage0, rows, tmp_path / "second", vision_cache=store, num_train_epochs=1)
    assert read == {"tower": 0, "decoded": 0}
    train("finetune", stage0, rows, tmp_path / "workers", vision_cache=store, dataloader_num_workers=2)
    assert read == {"tower": 0, "decoded": 0}
    assert losses(tmp_path / "off") == losses(tmp_path / "first") == losses(tmp_path / "workers")
    train("pretrain", stage0, save_rows(tmp_path / "others"), tmp_path / "stage1", vision_cache=store)
    assert read["tower"] == 8, "other pictures are read, by the same tower"


def test_off_in_a_recipe_is_off(tmp_path, stage0):
    """YAML reads an unquoted `off` as false, and `on` as true, which names no folder."""
    from types import SimpleNamespace

    from llava_mistral.ground.bad_input import BadInput
    from llava_mistral.training.recipe import parse_recipe
    from llava_mistral.training.recipe_checks import check_recipe
    from llava_mistral.training.vision_features import open_cache

    flags = ["--stage", "pretrain", "--model_name_or_path", str(stage0), "--output_dir", str(tmp_path / "out")]
    flags += ["--dataset", "owner/name", "--use_cpu", "--config", str(tmp_path / "recipe.yaml")]
    (tmp_path / "recipe.yaml").write_text("vision_cache: off\n")
    recipe = parse_recipe(flags)
    check_recipe(recipe)
    assert open_cache(recipe.stage, recipe.config, None, SimpleNamespace(model=None), None) == (None, 1)
    (tmp_path / "recipe.yaml").write_text("vision_cache: on\n")
    with pytest.raises(BadInput, match="field vision_cache: 'True' is not a folder; name one, or auto or off"):
        check_recipe(parse_recipe(flags))


def test_left_to_itself_it_is_used_where_a_picture_is_read_twice(rows, rows_file):
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.batch_pictures import reads_twice

    class Config:
        max_steps, num_train_epochs = -1, 1
        train_batch_size, gradient_accumulation_steps, world_size = 2, 2, 1

    assert not reads_twice(read_rows(rows_file), Config)
    assert reads_twice(read_rows(rows), Config), "two rows name one file"
    assert not reads_twice(read_rows(rows).select(range(5)), Config)
    Config.num_train_epochs = 2
    assert reads_twice(read_rows(rows_file), Config)
    Config.max_steps = 2
    assert not reads_twice(read_rows(rows_file), Config), "eight samples are one epoch, whatever num_train_epochs says"
    Config.max_steps = 3
    assert reads_twice(read_rows(rows_file), Config)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--vision_cache_gb", "0", "field vision_cache_gb: 0.0 is out of range; give a positive number"),
        ("--vision_cache", __file__, "is not a folder; name one, or auto or off"),
    ],
)
def test_a_store_that_cannot_be_is_refused(tmp_path, stage0, rows_file, flag, value, said):
    refuse(tmp_path, flag, value, stage0=stage0, rows_file=rows_file, message=said)


def test_whatever_moves_a_bit_of_the_features_makes_another_key(stage0):
    import torch

    from llava_mistral.training.vision_features import tower_key
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    def key(change=lambda model, processor: None, arithmetic="float32"):
        model = LlavaMistralForConditionalGeneration.from_pretrained(stage0, dtype=torch.float32)
        processor = LlavaMistralProcessor.from_pretrained(stage0)
        with torch.no_grad():
            change(model, processor)
        return tower_key(model, processor, [arithmetic])

    changes = [
        lambda model, processor: next(model.model.vision_tower.parameters()).view(-1)[0].mul_(1.0001),
        lambda model, processor: setattr(model.model.config, "vision_feature_layer", -1),
        lambda model, processor: setattr(model.model.config, "vision_feature_select_strategy", "full"),
        lambda model, processor: setattr(processor.image_processor, "image_mean", [0.5, 0.5, 0.5]),
    ]
    others = [*map(key, changes), key(arithmetic="bfloat16")]
    assert len({key(), *others}) == len(others) + 1
    trained = key(lambda model, processor: next(model.model.language_model.parameters()).add_(1))
    assert trained == key(), "what is trained says nothing about the tower"


# The store.


@pytest.fixture
def features():
    import torch

    return torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))


def store(folder, gigabytes=1.0, tower="tower"):
    from llava_mistral.training.vision_cache import VisionCache

    return VisionCache(folder, tower, gigabytes)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_stored_comes_back_bit_for_bit(tmp_path, features, precision):
    import torch

    features = features.to(getattr(torch, precision))
    assert store(tmp_path).get(key(1)) is None
    assert store(tmp_path).put(key(1), features, (30, 40))
    found, size = store(tmp_path).get(key(1))
    assert torch.equal(found, features) and found.dtype == features.dtype and size == (30, 40)
    assert store(tmp_path, tower="another").get(key(1)) is None


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "a bit flipped": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "zeros, as after a power cut": lambda data: bytes(len(data)),
    "another file": lambda data: b"<html>not found</html>",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_thrown_away_and_made_again(tmp_path, features, damage):
    import torch

    cache = store(tmp_path)
    cache.put(key(1), features, (30, 40))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    assert cache.get(key(1)) is None and not file.exists()
    assert cache.put(key(1), features, (30, 40)) and torch.equal(cache.get(key(1))[0], features)


def test_beyond_the_bound_what_earlier_runs_left_goes_first_and_then_no_more_is_stored(tmp_path, features):
    def entries():
        return {int(file.stem, 16) for file in tmp_path.rglob("*.safetensors")}

    earlier = store(tmp_path)
    for number in range(10):
        earlier.put(key(number), features, (30, 40))
    one = max(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    for file in tmp_path.rglob("*.safetensors"):  # the first entry is the longest unused
        os.utime(file, (1000 + int(file.stem, 16),) * 2)
    now = store(tmp_path, gigabytes=(one * 10.5) / 1e9, tower="tower")
    assert now.get(key(0)) is not None, "used now, however old"
    assert now.put(key(100), features, (30, 40))
    assert 0 in entries() and 1 not in entries() and 9 in entries() and 100 in entries()
    with pytest.warns(UserWarning, match="no more pictures are stored .* GB are taken, see --vision_cache_gb"):
        stored = sum(now.put(key(number), features, (30, 40)) for number in range(101, 120))
    assert now.full and stored < 19
    assert entries() == {0, *range(100, 101 + stored)}, "its own are kept"
    taken = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert 8.5 * one < taken <= 10.5 * one


def test_what_a_killed_writer_left_is_no_entry_and_is_cleared_away(tmp_path, features):
    cache = store(tmp_path)
    cache.put(key(1), features, (30, 40))
    (file,) = tmp_path.rglob("*.safetensors")
    new, old = file.with_suffix(".1.partial"), file.with_suffix(".2.partial")
    for partial in (new, old):
        file.rename(partial) if partial is new else partial.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert store(tmp_path).get(key(1)) is None
    store(tmp_path).put(key(2), features, (30, 40))
    assert new.exists() and not old.exists(), "a young one may still be written"


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, features):
    (tmp_path / "file").write_text("")
    cache = store(tmp_path / "file" / "below")
    assert cache.get(key(1)) is None
    with pytest.warns(UserWarning, match="no more pictures are stored .*Not a directory"):
        assert not cache.put(key(1), features, (30, 40)) and cache.full


def fill(folder, features, rounds):
    cache = store(folder)
    for number in range(rounds):
        cache.put(key(number % 20), features, (30, 40))
        cache.get(key((number * 7) % 20))


def test_two_writers_at_once_and_one_of_them_killed_leave_whole_entries(tmp_path, features):
    import torch

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=fill, args=(tmp_path, features, rounds)) for rounds in (300, 10**9)]
    for writer in writers:
        writer.start()
    writers[0].join(60)
    writers[1].kill()
    writers[1].join(60)
    assert writers[0].exitcode == 0
    found = [store(tmp_path).get(key(number)) for number in range(20)]
    assert all(entry is not None and torch.equal(entry[0], features) for entry in found)
