"""What must not leave does not, whatever carries it: through the verb, against a Hub whose log shows no write."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from llava_mistral.commands import publish as push_to_hub
from llava_mistral.ground.output_folders import MARKER
from tests.support.hub_here import hub_here, push, there
from tests.support.refusals import Trap, refused
from tests.support.secret_forms import FORMS
from tests.support.tiny_publications import FORBIDDEN, save_dataset, with_gps

TOKEN = "hf_" + "aB3" * 11 + "x"  # the form of one, never anybody's
SECRETS = {"a Hugging Face token": TOKEN, "an AWS access key": "AKIA" + "ABCDEFGH12345678"}
SECRETS["a private key"] = "-----BEGIN OPENSSH PRIVATE KEY-----"
ORDINARY = "hf_model, sk-learn, AKIA, openai/clip-vit-base, https://example.org/home/user, outputs/run"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


@pytest.fixture
def copy(stage0, tmp_path) -> Path:
    return Path(shutil.copytree(stage0, tmp_path / "checkpoint"))


def kept_here(hub, tmp_path, *arguments) -> str:
    """The one line with which the verb refuses; nothing was asked of the Hub."""
    line = refused(push_to_hub.main, *arguments, output=tmp_path / "nothing")
    assert not hub.requests
    return line


def in_file(name: str):
    return lambda folder, text: (folder / name).write_text(text)


def in_json(name: str):
    def write(folder: Path, text: str) -> None:
        told = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps({**told, "note": {"deep": [text]}}))

    return write


def in_metadata(folder: Path, text: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "note": text})


IN_A_MODEL = {
    "a text": in_file("LICENSE"),
    "a configuration": in_json("generation_config.json"),
    "the run's record": in_json("run.json"),
    "a template": lambda folder, text: (folder / "chat_template.jinja").write_text(
        (folder / "chat_template.jinja").read_text() + f"{{#- {text} -#}}"
    ),
    "the weights' metadata": in_metadata,
}


@pytest.mark.parametrize("place", IN_A_MODEL)
@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.case("S18", "refused")
def test_a_model_with_a_secret_stays_here(hub, copy, tmp_path, place, kind):
    IN_A_MODEL[place](copy, SECRETS[kind])
    line = kept_here(hub, tmp_path, "model", copy, "me/it")
    assert kind in line and SECRETS[kind] not in line


@pytest.mark.parametrize("place", IN_A_MODEL)
@pytest.mark.case("S20", "refused")
def test_a_model_that_tells_a_home_folder_stays_here(hub, copy, tmp_path, place):
    told = "see /home/somebody/data/x.json and /home/somebody/y"
    IN_A_MODEL[place](copy, told)
    assert "holds a local path (/home/somebody/" in kept_here(hub, tmp_path, "model", copy, "me/it")


NOTEBOOK = "a notebook", lambda text: json.dumps({"cells": [{"source": ["import os\n", f"key = '{text}'"]}]}).encode()
IN_ROWS = dict([NOTEBOOK, *((form, FORMS[form]) for form in ("pickle", "zip", "zip in zip"))])


def save_blobs(folder: Path, blob: bytes) -> Path:
    """A pruned dataset with a column of bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    save_dataset(folder, rows=3)
    path = folder / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path).replace_schema_metadata(None)
    pq.write_table(table.append_column("blob", pa.array([b"", blob, b""])), path)
    return folder


@pytest.mark.parametrize("form", IN_ROWS)
@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.case("S18", "refused")
def test_rows_with_a_secret_in_whatever_they_hold_stay_here(hub, tmp_path, form, kind):
    folder = save_blobs(tmp_path / "made", IN_ROWS[form](SECRETS[kind]))
    line = kept_here(hub, tmp_path, "dataset", folder, "me/it")
    assert f"holds {kind}" in line and "row 1.blob" in line and SECRETS[kind] not in line


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        pytest.param("slip", "a local path (/home/somebody/", marks=pytest.mark.case("S8", "refused")),
        pytest.param("bomb", "an archive that cannot be searched", marks=pytest.mark.case("S9", "refused")),
    ],
)
def test_an_archive_in_a_row_is_looked_at_and_never_unpacked(hub, tmp_path, blob, said):
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("../../home/somebody/climbed" if blob == "slip" else "zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(1 if blob == "slip" else 300):
            member.write(b"see /home/somebody/x" if blob == "slip" else bytes(2**20))
    folder = save_blobs(tmp_path / "made", buffer.getvalue())
    assert said in kept_here(hub, tmp_path, "dataset", folder, "me/it")
    assert not list(tmp_path.rglob("climbed"))


@pytest.mark.case("S8", "accepted")
@pytest.mark.case("S18", "accepted")
def test_rows_with_archives_and_pickles_of_ordinary_words_leave_and_nothing_is_run(hub, tmp_path):
    trap = pickle.dumps({"note": ORDINARY, "trap": Trap(Path("ran"))})
    for number, blob in enumerate([*(form(ORDINARY) for form in IN_ROWS.values()), trap]):
        folder = save_blobs(tmp_path / f"made{number}", blob)
        assert "published as" in push("dataset", folder, f"me/rows{number}")
    assert not list(Path.cwd().glob("ran"))


@pytest.mark.case("S17", "refused")
@pytest.mark.case("S17", "accepted")
@pytest.mark.case("S18", "accepted")
@pytest.mark.case("S20", "accepted")
def test_a_model_leaves_with_what_a_stranger_needs_and_without_what_training_left(hub, copy, tmp_path):
    before = {path.name for path in copy.iterdir() if path.is_file() and path.name != MARKER}
    for name in FORBIDDEN:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(f"{TOKEN} in {name}")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "_name_or_path": "/home/somebody/stage-1"}))
    (copy / "LICENSE").write_text(ORDINARY)
    in_metadata(copy, ORDINARY)
    (tmp_path / "chart.jpg").write_bytes(with_gps())
    said = push("model", copy, "me/it", "--chart", tmp_path / "chart.jpg")
    assert "stays here: .cache/x.json" in said
    files = there()
    assert before <= set(files) and set(files) - before == {
        "README.md",
        ".gitattributes",
        "LICENSE",
        "assets/chart.png",
    }
    assert not [name for name, content in files.items() if TOKEN.encode() in content or b"home/somebody" in content]
    assert json.loads(files["config.json"])["vision_config"]["hidden_size"] == config["vision_config"]["hidden_size"]


@pytest.mark.case("S22", "refused")
@pytest.mark.case("S22", "accepted")
def test_pictures_leave_upright_and_without_their_place(hub, tmp_path):
    import pyarrow.parquet as pq

    assert b"Exif" in with_gps()
    push("dataset", save_dataset(tmp_path / "made", rows=2, pictures=[with_gps()]), "me/it")
    rows = next(content for name, content in there("dataset").items() if name.endswith(".parquet"))
    assert b"Exif" not in rows and b"somebody" not in rows
    for row in pq.read_table(io.BytesIO(rows)).to_pylist():
        published = Image.open(io.BytesIO(row["images"][0]["bytes"]))
        original = ImageOps.exif_transpose(Image.open(io.BytesIO(with_gps())))
        assert published.tobytes() == original.tobytes() and not published.getexif() and not published.info


@pytest.mark.parametrize(
    ("method", "options", "field"),
    [
        ("../up", (), "method"),
        (".git", (), "method"),
        ("/etc", (), "method"),
        ("principles", ("--split", "../../up"), "split"),
        ("principles", ("--split", "/tmp/up"), "split"),
        ("principles", ("--config_name", "../up"), "config_name"),
        ("principles", ("--config_name", ".git"), "config_name"),
    ],
)
@pytest.mark.case("S23", "refused")
def test_no_name_becomes_a_path_that_climbs(hub, tmp_path, method, options, field):
    folder = save_dataset(tmp_path / "made", method)
    assert f"field {field}: " in kept_here(hub, tmp_path, "dataset", folder, "me/it", *options)


@pytest.mark.case("S23", "accepted")
def test_an_ordinary_name_becomes_a_path(hub, tmp_path):
    push("dataset", save_dataset(tmp_path / "made", "farthest-2"), "me/it", "--split", "validation")
    assert "farthest-2/validation-00000-of-00001.parquet" in there("dataset")
    push("dataset", save_dataset(tmp_path / "again", "principles"), "me/it", "--config_name", "default")
    assert "default/train-00000-of-00001.parquet" in there("dataset")


@pytest.mark.parametrize("carrier", ["results", "recipe"])
@pytest.mark.case("S19", "refused")
def test_a_token_reaches_no_card(hub, copy, tmp_path, carrier):
    told = {"ALL": {"accuracy": 1.0, "n": 1, "correct": 1}, "dataset": TOKEN, "split": TOKEN, "scoring": TOKEN}
    (tmp_path / "told").write_text(json.dumps(told))
    line = kept_here(hub, tmp_path, "model", copy, "me/it", f"--{carrier}", tmp_path / "told")
    assert "a Hugging Face token (hf_aB3…)" in line and TOKEN not in line
