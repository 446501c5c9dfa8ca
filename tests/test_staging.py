"""What leaves is listed, scrubbed and whole; licences are carried."""

import hashlib
import io
import json
import os

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.publishing import licences, staging
from llava_mistral.publishing.parquet import clean_png
from llava_mistral.publishing.scanning import scan_folder
from tests.support.malformed import stored_as
from tests.support.tiny_publications import FORBIDDEN, png, prepare, save_checkpoint, save_dataset, with_gps


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "made")


@pytest.fixture
def copy(made, tmp_path):
    """A checkpoint of one's own to damage: links, so that a test replaces files and never writes into them."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in made.iterdir():
        if path.is_file():
            os.link(path, folder / path.name)
    return folder


def stage(folder, tmp_path, **options):
    target = tmp_path / "staged"
    target.mkdir()
    return target, staging.stage_model(folder, target, **options)


def replace(path, change):
    value = change(json.loads(path.read_text()))
    path.unlink()
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.case("S17", "refused")
def test_only_what_is_on_the_list_leaves(copy, tmp_path, name):
    path = copy / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("x")
    target, _ = stage(copy, tmp_path)
    assert not (target / name).exists()
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(os.listdir(target))


@pytest.mark.parametrize("name", ["modeling_llava_mistral.py", "LICENSE", "generation_config.json"])
@pytest.mark.case("S17", "accepted")
def test_their_legal_neighbours_do(copy, tmp_path, name):
    (copy / name).unlink(missing_ok=True)
    (copy / name).write_bytes(staging.OUR_CODE[name].read_bytes() if name in staging.OUR_CODE else b"{}")
    target, _ = stage(copy, tmp_path)
    assert (target / name).is_file()


@pytest.mark.case("S20", "accepted")
def test_notes_of_where_things_lay_are_scrubbed_and_hub_ids_stay(copy, tmp_path):
    def note(config):
        config["_name_or_path"] = "/home/somebody/stage-1"
        config["text_config"]["_name_or_path"] = "mistralai/Mistral-7B-v0.1"
        config["vision_config"]["_name_or_path"] = "/scratch/somebody/clip"
        return config

    call = {"local_files_only": True, "is_local": True, "cache_dir": "/home/somebody/cache", "proxies": {"http": "x"}}
    replace(copy / "config.json", note)
    replace(copy / "tokenizer_config.json", lambda config: config | call)
    target, _ = stage(copy, tmp_path)
    assert not json.loads((target / "tokenizer_config.json").read_text()).keys() & call.keys()
    config = json.loads((target / "config.json").read_text())
    assert "_name_or_path" not in config
    assert "_name_or_path" not in config["vision_config"]
    assert config["text_config"]["_name_or_path"] == "mistralai/Mistral-7B-v0.1"
    assert not scan_folder(target, copy)


def test_an_unchanged_config_leaves_byte_for_byte(copy, tmp_path):
    target, _ = stage(copy, tmp_path)
    assert (target / "config.json").read_bytes() == (copy / "config.json").read_bytes()


def test_the_record_of_the_run_leaves_with_plain_names(copy, tmp_path):
    target, _ = stage(copy, tmp_path)
    run = json.loads((target / "run.json").read_text())
    assert run["data"]["path"] == "pruned"
    assert run["base_model"] == ["openai/clip-vit-large-patch14-336", "language-model"]


def write(name, text):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(text)

    return change


def cut(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(data[:-1])


def swell(folder):
    (folder / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(staging.MAX_FILE_BYTES + 1)  # sparse: takes no room


def only(change):
    """With no single file beside it."""

    def changed(folder):
        (folder / "model.safetensors").unlink()
        change(folder)

    return changed


def config(**fields):
    return lambda folder: replace(folder / "config.json", lambda value: {**value, **fields})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is not a checkpoint"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (write("config.json", "{"), "is not valid JSON"),
        (write("config.json", "[]"), "is not a JSON object"),
        (config(model_type=None), "names no model"),
        (config(auto_map={"AutoModel": "else/where--modeling_x.X"}), "another repository"),
        (config(auto_map={"AutoModel": "modeling_x.X"}), "modeling_x.py, which is not in the folder"),
        (write("model.safetensors", "version https://git-lfs.github.com/spec/v1"), "not a complete safetensors"),
        (cut, "not a complete safetensors"),
        (swell, "is over the Hub's 50 GB for one file; save in shards .save_pretrained's max_shard_size"),
        (write("model.safetensors", ""), "not a complete safetensors"),
        (write("model.safetensors", '\x08\0\0\0\0\0\0\0{"w": 1}'), "not a complete safetensors"),
        (write("model.safetensors", "\x02\0\0\0\0\0\0\0[]"), "not a complete safetensors"),
        (write("model.safetensors.index.json", '{"weight_map": {"w": "../../secret"}}'), "outside of its folder"),
        (
            only(write("model.safetensors.index.json", '{"weight_map": {"w": "model-00001-of-00002.safetensors"}}')),
            "model-00001-of-00002.safetensors, which is absent",
        ),
        (write("model.safetensors.index.json", "{}"), "not an index of shards"),
        (stored_as("int8"), "linear_2.weight is stored as I8"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused_by_name(copy, tmp_path, damage, said):
    damage(copy)
    with pytest.raises(BadInput, match=said):
        stage(copy, tmp_path)


def save_adapter(folder, base):
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    save_file({"lora_A": torch.ones(2, 3)}, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_of_a_local_base_needs_a_name_for_it(tmp_path):
    folder = save_adapter(tmp_path / "adapter", "/home/somebody/base")
    with pytest.raises(BadInput, match="--base_model"):
        stage(folder, tmp_path)
    (tmp_path / "staged").rmdir()
    target, _ = stage(folder, tmp_path, base_model="owner/base")
    assert json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"


def test_an_adapter_without_the_projector_it_was_trained_with_is_refused(tmp_path):
    folder = save_adapter(tmp_path / "adapter", "owner/base")
    replace(folder / "adapter_config.json", lambda config: {**config, "modules_to_save": ["multi_modal_projector"]})
    with pytest.raises(BadInput, match="the adapter's weights lack multi_modal_projector"):
        stage(folder, tmp_path)


@pytest.mark.parametrize(
    ("manifest", "stated", "given"),
    [
        ({"license": "cc-by-4.0"}, None, "cc-by-4.0"),
        ({"license": None}, "mit", "mit"),
        ({"license": "cc-by-4.0"}, "cc-by-sa-4.0", "cc-by-sa-4.0"),
        ({"license": "CC BY 4.0"}, None, "cc-by-4.0"),
        ({"source": "ScienceQA", "license": "mit"}, None, "cc-by-nc-sa-4.0"),  # a manifest loosens no known source's
        pytest.param(
            {"input": {"name": "scienceqa"}}, None, "cc-by-nc-sa-4.0", marks=pytest.mark.case("S21", "accepted")
        ),
    ],
)
def test_a_licence_is_carried_or_stated_and_scienceqa_keeps_its_own(tmp_path, manifest, stated, given):
    assert licences.dataset_licence(manifest, stated, tmp_path) == given


@pytest.mark.parametrize(
    ("manifest", "stated", "said"),
    [
        ({}, None, "state it with --license"),
        ({"license": "cc-by-nc-sa-4.0"}, "cc-by-4.0", "same terms"),
        ({"license": "cc-by-nc-4.0"}, "mit", "commercial"),
        ({"license": "cc-by-4.0"}, "cc0-1.0", "attribution"),
        ({"license": "cc-by-nc-nd-4.0"}, "cc-by-nc-4.0", "derivatives"),
        ({"license": "my own"}, None, "not a licence the Hub knows"),
        ({"input": {"name": "derek-thomas/ScienceQA"}}, "mit", "cc-by-nc-sa-4.0"),
    ],
)
def test_an_unknown_or_incompatible_licence_is_refused(tmp_path, manifest, stated, said):
    with pytest.raises(BadInput, match=said):
        licences.dataset_licence(manifest, stated, tmp_path)


@pytest.mark.case("S22", "refused")
@pytest.mark.case("S22", "accepted")
def test_a_published_picture_is_its_pixels_and_nothing_else():
    from PIL import Image, ImageOps

    source = with_gps()
    clean = clean_png(source)
    with Image.open(io.BytesIO(source)) as before, Image.open(io.BytesIO(clean)) as after:
        assert after.format == "PNG"
        assert ImageOps.exif_transpose(before).tobytes() == after.tobytes()
        assert after.size == (8, 12)
        assert not after.getexif()
        assert not after.info
    assert b"somebody" not in clean
    assert clean_png(clean) == clean


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_usual_mode_keeps_its_pixels(mode):
    from PIL import Image

    source = Image.new("I;16", (5, 4), 700) if mode == "I;16" else Image.open(io.BytesIO(png(1))).convert(mode)
    buffer = io.BytesIO()
    source.save(buffer, format="TIFF")
    with Image.open(io.BytesIO(clean_png(buffer.getvalue()))) as after:
        expected = source.convert("RGB") if mode == "CMYK" else source
        assert after.convert("RGBA").tobytes() == expected.convert("RGBA").tobytes()


def test_rows_leave_with_their_config_and_a_manifest_of_plain_names(tmp_path):
    made = save_dataset(tmp_path / "made", pictures=[with_gps()], input={"name": "/home/somebody/digits", "rows": 50})
    files = prepare(made, tmp_path).files(None)
    assert set(files) == {"README.md", "principles/manifest.json", "principles/train-00000-of-00001.parquet"}
    manifest = json.loads(files["principles/manifest.json"].read_text())
    assert manifest["input"]["name"] == "digits"
    assert len(manifest["kept"]) == 10
    rows = files["principles/train-00000-of-00001.parquet"].read_bytes()
    assert manifest["files"] == {"train-00000-of-00001.parquet": hashlib.sha256(rows).hexdigest()}


def test_two_preparations_of_the_same_folder_are_the_same_bytes(tmp_path):
    made = save_dataset(tmp_path / "made")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = (prepare(made, tmp_path / name).files(None) for name in ("one", "two"))
    read = lambda content: content if isinstance(content, bytes) else content.read_bytes()  # noqa: E731
    assert {path: read(content) for path, content in first.items()} == {p: read(c) for p, c in second.items()}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"kept": ["one"]}, "manifest keeps 1"),
        ({"files": {"data/train-00000-of-00001.parquet": "ab" * 32}}, "not the file its manifest was written for"),
        ({"method": "../x"}, "not a valid name for a config"),
        ({"method": None}, "not a valid name for a config"),
        ({"license": None}, "state it with --license"),
        ({"recipe": {"note": "see /home/somebody/x"}}, "manifest.json holds a local path"),
        ({"pictures": [b"<html>not a picture</html>"]}, "record 0: field images: the picture is not a JPEG"),
    ],
)
def test_a_dataset_that_cannot_be_published_is_refused(tmp_path, manifest, said):
    made = save_dataset(tmp_path / "made", **manifest)
    with pytest.raises(BadInput, match=said):
        prepare(made, tmp_path)


def test_a_row_whose_picture_lies_elsewhere_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "outside.png").write_bytes(png(0))
    made = save_dataset(tmp_path / "made", rows=1)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    picture = pa.array([{"bytes": None, "path": "../outside.png"}], kind)
    pq.write_table(pa.table({"image": picture}), made / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(BadInput, match="is outside of"):
        prepare(made, tmp_path)
