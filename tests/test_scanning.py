"""No secret and no local path leaves, wherever it hides; ordinary text passes."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.publishing.scanning import (
    is_local_path,
    plain_name,
    refuse_findings,
    scan_bytes,
    scan_file,
    scan_folder,
)
from tests.support.secret_forms import FORMS

TOKEN = "hf_" + "aB3" * 11 + "x"  # the form of one, never anybody's
SECRETS = [
    TOKEN,
    "AKIA" + "ABCDEFGH12345678",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "ghp_" + "a1" * 18,
    "sk-proj-" + "a1B2" * 12,
    "https://someone:s3cret@example.org/x",
]
PATHS = [
    "/home/somebody/runs",
    "/root/.cache/x",
    "/Users/some.body/x",
    "C:\\Users\\somebody\\x",
    "file:///srv/x",
    "/tmp/x1",
]
ORDINARY = [
    "hf_model", "sk-learn and sk-image", "https://example.org/home/user/page", "a/b/tmp/c", "openai/clip-vit-base",
    "and/or 1/2", "~3000 rows", "modeling_llava_mistral.LlavaMistralConfig", "text/home", "10:30/tmp",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS + PATHS)
@pytest.mark.parametrize("form", ["text", "json", "escaped json", "pickle", "zip", "zip in zip", "utf-16"])
@pytest.mark.case("S18", "refused")
@pytest.mark.case("S20", "refused")
def test_what_must_not_leave_is_found_in_every_container(text, form):
    assert [f.kind for f in scan_bytes(FORMS[form](text), "file")]


@pytest.mark.parametrize("text", ORDINARY)
@pytest.mark.parametrize("form", ["text", "json", "pickle", "zip"])
@pytest.mark.case("S18", "accepted")
@pytest.mark.case("S20", "accepted")
def test_ordinary_text_passes(text, form):
    assert not list(scan_bytes(FORMS[form](text), "file"))


def test_a_pickle_is_read_and_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    list(scan_bytes(pickle.dumps(Trap()), "trap"))
    assert not (tmp_path / "ran").exists()


def test_the_place_is_named_down_to_the_key():
    found = next(scan_bytes(json.dumps({"model": {"paths": ["x", "/home/somebody/x"]}}).encode(), "run.json"))
    assert (found.file, found.place, found.kind) == ("run.json", "model.paths[1]", "a local path")


def test_a_value_that_a_repeated_key_hides_is_found():
    assert list(scan_bytes(b'{"a": "/home/somebody/x", "a": "fine"}', "file"))


def test_a_secret_is_not_quoted_in_the_refusal():
    with pytest.raises(BadInput) as error:
        refuse_findings(list(scan_bytes(f"token: {TOKEN}".encode(), "notes.txt")), "folder")
    assert TOKEN not in str(error.value)
    assert "notes.txt" in str(error.value)
    assert "line 1" in str(error.value)


@pytest.mark.case("S18", "refused")
@pytest.mark.case("S18", "accepted")
def test_safetensors_metadata_is_searched_and_tensors_are_not(tmp_path):
    def write(metadata: str, tensor: bytes) -> Path:
        header = {
            "__metadata__": {"from": metadata},
            "w": {"dtype": "U8", "shape": [len(tensor)], "data_offsets": [0, len(tensor)]},
        }
        data = json.dumps(header).encode()
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(data)) + data + tensor)
        return path

    assert list(scan_file(write("/home/somebody/run", b"1234"), "model.safetensors"))
    assert not list(scan_file(write("pt", TOKEN.encode()), "model.safetensors"))


def test_parquet_rows_and_metadata_are_searched(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    table = pa.table({"id": ["a", "b"], "note": ["fine", "see /home/somebody/x"], "blob": [b"", b""]})
    pq.write_table(table, path)
    assert [f.place for f in scan_file(path, "rows.parquet")] == ["row 1.note"]
    pq.write_table(table.select(["id"]).replace_schema_metadata({"made": TOKEN}), path)
    assert [f.place for f in scan_file(path, "rows.parquet")] == ["metadata.made"]
    pq.write_table(pa.table({"blob": [b"", pickle.dumps(TOKEN)]}), path)
    assert list(scan_file(path, "rows.parquet"))


def test_the_users_own_token_and_folders_are_found_whatever_they_look_like(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "not-a-usual-token")
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "a.txt").write_text("bearer not-a-usual-token")
    (staged / "b.txt").write_text("read from /srv/models/mine/x")
    (staged / "c.txt").write_text("fine")
    assert [f.file for f in scan_folder(staged, Path("/srv/models/mine"))] == ["a.txt", "b.txt"]


@pytest.mark.case("S9", "refused")
def test_an_archive_bomb_is_refused_unread():
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(2**20))
    assert [f.kind for f in scan_bytes(bomb.getvalue(), "file")] == ["an archive that cannot be searched"]


def test_json_without_end_does_no_harm():
    assert not list(scan_bytes(b"[" * 100_000, "file"))


def test_the_real_mistral_tokenizer_may_be_published():
    folder = Path(__file__).parents[2] / "shared" / "mistral_tokenizer"
    if not folder.is_dir():
        pytest.skip("the shared Mistral tokenizer is not at hand")
    assert not scan_folder(folder, Path("/srv/models/mine"))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("/home/a/run-7", "run-7"), ("./outputs/x", "x"), ("outputs/a/b/", "b"), ("C:\\data\\set", "set"),
        ("~/x", "x"), ("openai/clip", "openai/clip"), ("https://a.org/b/c", "https://a.org/b/c"), ("1/6", "1/6"),
        ("farthest", "farthest"),
    ],
)  # fmt: skip
def test_a_local_path_becomes_its_plain_name(value, plain):
    assert plain_name(value) == plain
    assert is_local_path(value) == (value != plain)
