"""No secret and no local path leaves, wherever it hides; ordinary text passes."""

import base64
import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
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


OTHERS = [
    "Authorization: Basic c29tZW9uZTpzM2NyZXQ=", "Bearer a1B2c3D4e5F6g7H8i9J0k1", "redis://:s3cret@db.example.org/0",
    "https://someone:s3@cret@example.org", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
    "pypi-" + "Ag1" * 20, "npm_" + "a1" * 18, "sk_live_" + "a1" * 12, "dapi" + "a1" * 16, "r8_" + "aB1" * 12,
    "dckr_pat_" + "aB1" * 9, "SG." + "a1" * 11 + "." + "b2" * 20, "gldt-" + "a1" * 10, "ya29." + "a1" * 12,
    "123456789:AA" + "a1" * 17, "wandb_v1_" + "aB1" * 9, "WANDB_API_KEY=" + "a1" * 20, "AccountKey=" + "aB1/" * 12,
    "wandb login --relogin " + "a1" * 20, 'wandb.login(key="' + "b2" * 20, "git+ssh://someone@host.example.org/x.git",
    "COMET_API_KEY=a1b2c3d4e5f6g7h8i9", "machine example.org\n  login someone\n  password s3cret",
    "x" + TOKEN, "_" + TOKEN, "7" + TOKEN, "hf_jwt_eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
]  # fmt: skip
PLACES = [
    "/data/somebody/runs", "/srv/nfs/x", "/opt/models/x", "/gpfs/somebody", "/lustre/work", "/scratch/x",
    "/nfs/homes/x", "/storage/a/b",
    "/projects/group/x", "/media/somebody/x", "/Volumes/Disk", "/content/drive/MyDrive", "/kaggle/working/x",
    "/home2/somebody", "/export/home/x", "/run/user/1000/x", "D:\\work\\secret", "key:/home/somebody", "file:/home/x",
    r"\\nas\projects", r"\\fs01\homes$", r"\\host.example.org\share\x",
    "%2Fhome%2Fsomebody", "\\/home\\/somebody",
]  # fmt: skip
HARMLESS = [
    "the bearer of good news about characterisation", "Basic understanding of characterizations", "https://x.org/data/a/b",
    "password: see the manual", "tokens: 12345678901234567890", "train/data-00000", "a ratio of 3:/4", "x/opt/y/z",
    r"a \\ \hline b \\hline\textbf{x}",
    r"\\alpha\beta \\d\\w", "wandb at commit " + "a1" * 20, "sha256 " + "5f" * 32, "ssh://git@github.com/a/b.git",
    "home = 'a' + 'b'", "text: >\n  one\n  two\n",
]  # fmt: skip


@pytest.mark.parametrize("text", OTHERS + PLACES)
@pytest.mark.case("S36", "refused")
def test_further_kinds_are_found(text):
    assert list(scan_bytes(f"first line\n{text} and more\n".encode(), "file"))


@pytest.mark.parametrize("text", HARMLESS)
@pytest.mark.case("S36", "accepted")
def test_what_only_resembles_one_passes(text):
    assert not list(scan_bytes(text.encode(), "file")) and not list(scan_bytes(json.dumps([text]).encode(), "file"))


def _npz(text: str) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, notes=np.array(["fine", f"see {text}"]))
    return buffer.getvalue()


def _tarred(text: str, mode: str = "w") -> bytes:
    buffer, data = io.BytesIO(), gzip.compress(f"see {text}".encode())
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        member = tarfile.TarInfo("notes.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


DISGUISES = {
    "tar": _tarred,
    "tar.gz": lambda text: _tarred(text, "w:gz"),
    "binary": lambda text: bytes(60) + f" {text} ".encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "bz2": lambda text: bz2.compress(text.encode()),
    "xz": lambda text: lzma.compress(text.encode()),
    "gzip in gzip": lambda text: gzip.compress(gzip.compress(text.encode())),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + json.dumps({"a": text}).encode(),
    "UTF-16 unmarked": lambda text: f"value {text}".encode("utf-16-le"),
    "UTF-16 the other way": lambda text: f"value {text}".encode("utf-16-be"),
    "UTF-32": lambda text: f"value {text}".encode("utf-32"),
    "JSONL": lambda text: b'{"a": 1}\n' + json.dumps({"b": text}).replace(text[3], f"\\u{ord(text[3]):04x}").encode(),
    "a key twice": lambda text: json.dumps({"a": text}).replace("}", ', "a": "fine"}').replace("/", "\\/").encode(),
    "base64": lambda text: json.dumps({"a": base64.b64encode(f"token is {text}".encode()).decode()}).encode(),
    "zero width": lambda text: f"{text[:5]}\u200b{text[5:]}".encode(),
    "soft hyphen": lambda text: f"{text[:5]}\u00ad{text[5:]}".encode(),
    "full width": lambda text: "".join(
        chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text
    ).encode(),
    "concatenated": lambda text: f"token = '{text[:6]}' + '{text[6:]}'\n".encode(),
    "side by side": lambda text: f'token = ("{text[:6]}"\n    "{text[6:]}")\n'.encode(),
    "over a line's end": lambda text: f"export X={text[:6]}\\\n{text[6:]}\n".encode(),
    "folded YAML": lambda text: f"key: >-\n  {text[:6]}\n  {text[6:]}\nnext: 1\n".encode(),
    "hexadecimal": lambda text: f"key = {f'the token is {text}'.encode().hex()}\n".encode(),
    "escapes": lambda text: ("key = '" + "".join(f"\\x{ord(sign):02x}" for sign in text) + "'").encode(),
    "concatenated in a notebook": lambda text: json.dumps({"source": [f"t = '{text[:6]}' + '{text[6:]}'"]}).encode(),
    "npz of wide letters": lambda text: _npz(text),
    "gzip in a pickle": lambda text: pickle.dumps({"a": gzip.compress(text.encode())}),
    "percent": lambda text: "".join(f"%{ord(sign):02X}" for sign in text).encode(),
}


@pytest.mark.parametrize("text", [TOKEN, "/home/somebody/runs"])
@pytest.mark.parametrize("form", DISGUISES)
@pytest.mark.case("S36", "refused")
def test_a_disguise_does_not_help(text, form):
    assert list(scan_bytes(DISGUISES[form](text), "file"))


@pytest.mark.parametrize("key", ["password", "db_password", "api_key", "client_secret", "access_token"])
def test_a_record_that_calls_a_value_a_secret_is_found(key):
    assert list(scan_bytes(json.dumps({"a": {key: "s3cret-thing"}}).encode(), "file"))


@pytest.mark.parametrize(
    "part",
    [
        "a+", "eyJ-", "A_", "machine x login ", "x://", "/data/", "Bearer ", "%", "[", '{"a":', "wandb ", '" + "',
        "\\x6", "6f", ">\n a\n", "\\\\nas", "\\\n", "\0\0\0a",
    ],
)  # fmt: skip
def test_the_time_of_a_search_grows_with_the_text(part):
    """Four times the text takes about four times the time; by a square law it would take sixteen times as long."""
    times = []
    for size in (50_000, 200_000):
        text = (part * size)[:size].encode()
        started = time.perf_counter()
        list(scan_bytes(text, "file"))
        times.append(time.perf_counter() - started)
    assert times[1] < max(12 * times[0], 2)
