"""Hostile data and hostile checkpoints, through the verbs: refused in one line with nothing written, twin accepted."""

import json
import pickle
import shutil
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_mistral.commands import prune as prune_dataset
from llava_mistral.commands import train as train_sft
from tests.support.refusals import Trap, refused, training
from tests.support.running import run_here
from tests.support.small_problems import save_problems
from tests.support.tiny_components import save_rows

shows = pytest.mark.case


def pruned(dataset: Path, output: Path, *options, code: int = 0) -> str:
    given = ("--dataset", dataset, "--method", "full", "--output", output, *options)
    return refused(prune_dataset.main, *given, output=output) if code else run_here(prune_dataset.main, *given).stdout


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def rows(tmp_path) -> Path:
    """Two captioned pictures, and a third one beside their folder that is nobody's business."""
    path = save_rows(tmp_path / "set", 2)
    Image.new("RGB", (9, 9), "white").save(tmp_path / "secret.png")
    return path


def show(rows: Path, image: str) -> Path:
    """Let the second record name `image`."""
    records = json.loads(rows.read_text())
    records[1]["image"] = image
    rows.write_text(json.dumps(records))
    return rows


def link(rows: Path, to: Path) -> str:
    (rows.parent / "images" / "link.png").symlink_to(to)
    return "link.png"


def written(rows: Path, name: str, content: bytes | None = None) -> str:
    path = rows.parent / "images" / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(rows.parent / "images" / "1.png", path) if content is None else path.write_bytes(content)
    return name


def outside(rows: Path) -> Path:
    return rows.parents[1] / "secret.png"


PATHS = {  # case: the picture a record names, its legal neighbour, what is said
    "S1": (lambda rows: "../../secret.png", lambda rows: "../images/1.png", "is outside of"),
    "S2": (lambda rows: str(outside(rows)), lambda rows: str(rows.parent / "images" / "1.png"), "is outside of"),
    "S3": (
        lambda rows: link(rows, outside(rows)),
        lambda rows: link(rows, rows.parent / "images/1.png"),
        "outside of",
    ),
    "S4 file": (lambda rows: f"file://{outside(rows)}", lambda rows: written(rows, "file:.png"), "is an address"),
    "S4 http": (lambda rows: "http://192.0.2.1/1.png", lambda rows: written(rows, "http:.png"), "is an address"),
    "S4 hf": (lambda rows: "hf://datasets/a/b/1.png", lambda rows: written(rows, "hf:.png"), "is an address"),
    "S4 zip": (lambda rows: "zip://1.png::x.zip", lambda rows: written(rows, "zip::.png"), "is an address"),
    "S5 NUL": (lambda rows: "1.png\0.png", lambda rows: written(rows, "1.png .png"), "is outside of"),
    "S5 backslash": (lambda rows: "..\\secret.png", lambda rows: written(rows, "..\\own.png"), "does not exist"),
    "S5 tilde": (lambda rows: "~/secret.png", lambda rows: written(rows, "~/own.png"), "does not exist"),
    "S5 user": (lambda rows: "~root/secret.png", lambda rows: written(rows, "~root.png"), "does not exist"),
    "S7": (
        lambda rows: written(rows, "x.png", b"\x7fELF no picture"),
        lambda rows: written(rows, "x.exe"),
        "is not a JPEG",
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=shows(case[:2], "refused")) for case in PATHS])
def test_a_picture_that_is_none_of_the_data_sets_own_is_refused(rows, stage0, tmp_path, case, monkeypatch):
    name, _, said = PATHS[case]
    monkeypatch.setenv("HOME", str(tmp_path))  # where `~` would lead
    show(rows, name(rows))
    out = tmp_path / "out"
    for line in (
        pruned(rows, out, code=2),
        pruned(rows, out, "--check_pictures", "none", code=2),
        refused(train_sft.main, *training(stage0, rows, out), output=out),
    ):
        assert "field image: " in line and said in line, line


@pytest.mark.parametrize("case", [pytest.param(case, marks=shows(case[:2], "accepted")) for case in PATHS])
def test_its_legal_neighbour_is_read(rows, tmp_path, case):
    show(rows, PATHS[case][1](rows))
    assert "kept 2 of 2" in pruned(rows, tmp_path / "out")


@shows("S6", "accepted")
def test_an_image_folder_may_be_a_link_itself(rows, tmp_path):
    (rows.parent / "images").rename(tmp_path / "elsewhere")
    (rows.parent / "images").symlink_to(tmp_path / "elsewhere")
    assert "kept 2 of 2" in pruned(rows, tmp_path / "out")
    link(rows, outside(rows))
    assert "is outside of" in pruned(show(rows, "link.png"), tmp_path / "more", code=2)


def save_table(folder: Path, picture: str | None) -> Path:
    """Two training rows as parquet whose pictures are named, not held."""
    import pyarrow.parquet as pq
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    turns = List({"role": Value("string"), "content": Value("string")})
    features = Features({"id": Value("string"), "images": List(ImageFeature()), "prompt": turns, "completion": turns})
    row = {"images": [{"bytes": None, "path": picture}], "prompt": [{"role": "user", "content": "?"}]}
    row |= {"completion": [{"role": "assistant", "content": "!"}]}
    folder.mkdir()
    table = Dataset.from_list([{"id": str(i), **row} for i in range(2)], features=features).data.table
    pq.write_table(table, folder / "train.parquet")
    Image.new("RGB", (9, 9)).save(folder / "own.png")
    return folder


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        pytest.param("../secret.png", "is outside of", marks=shows("S1", "refused")),
        pytest.param("SECRET", "is outside of", marks=shows("S2", "refused")),
        pytest.param("http://192.0.2.1/1.png", "is an address", marks=shows("S4", "refused")),
        pytest.param("hf://datasets/a/b/1.png", "is an address", marks=shows("S4", "refused")),
        pytest.param("own.png", None, marks=[shows("S1", "accepted"), shows("S4", "accepted")]),
    ],
)
def test_rows_of_a_table_name_no_file_of_this_machine_but_their_folders_own(rows, tmp_path, picture, said):
    """`datasets` opens and fetches whatever a row names."""
    folder = save_table(tmp_path / "table", str(outside(rows)) if picture == "SECRET" else picture)
    done = pruned(folder, tmp_path / "out", code=2 if said else 0)
    assert (said or "kept 2 of 2") in done


def slip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("../../climbed.json", "[]")
    return folder / "data.zip"


def climbing_tar(folder: Path) -> Path:
    with tarfile.open(folder / "data.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("../../climbed.json")
        archive.addfile(member, BytesIO(b""))
    return folder / "data.tar.gz"


def bomb(folder: Path) -> Path:
    with (
        zipfile.ZipFile(folder / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("rows.json", "w", force_zip64=True) as member,
    ):
        for _ in range(1024):
            member.write(bytes(2**20))
    return folder / "data.zip"


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(slip, marks=shows("S8", "refused")),
        pytest.param(climbing_tar, marks=shows("S8", "refused")),
        pytest.param(bomb, marks=shows("S9", "refused")),
    ],
)
def test_no_archive_is_unpacked_as_data(tmp_path, pack):
    (tmp_path / "folder").mkdir()
    archive = pack(tmp_path / "folder")
    assert "is an archive; unpack it" in pruned(archive, tmp_path / "out", code=2)
    for folder in (tmp_path / "folder", save_table(tmp_path / "table", "own.png")):
        shutil.copy(archive, folder) if folder.name == "table" else None
        assert f"holds the archive {archive.name}" in pruned(folder, tmp_path / "out", code=2)
    assert not list(tmp_path.rglob("climbed*")) and not list(tmp_path.rglob("rows.json"))


@shows("S8", "accepted")
@shows("S9", "accepted")
def test_what_was_in_an_archive_is_data(rows, tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in rows.parent.rglob("*.*"):
            archive.write(path, path.relative_to(rows.parent))
    with zipfile.ZipFile(tmp_path / "data.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert "kept 2 of 2" in pruned(tmp_path / "unpacked" / "rows.json", tmp_path / "out")


@pytest.mark.parametrize("form", ["npy", "npz", "pickle"])
@shows("S11", "refused")
def test_a_pickle_among_the_vectors_is_not_run(tmp_path, form, by_itself):
    folder, trap = save_problems(tmp_path / "set"), np.array([Trap(tmp_path / "ran")] * 24, dtype=object)
    path = folder / "hostile.npy"
    with path.open("wb") as file:
        {"npy": np.save, "npz": np.savez, "pickle": lambda f, x: pickle.dump(x, f)}[form](file, trap)
    given = ("--dataset", folder, "--method", "farthest", "--size", 4, "--embeddings", path)
    line = refused(prune_dataset.main, *given, "--output", tmp_path / "out", output=tmp_path / "out")
    assert f"{path}: {'is an archive of arrays' if form == 'npz' else 'is not a .npy file'}" in line
    assert not (tmp_path / "ran").exists()
    by_itself(f"numpy, {form}", lambda: np.load(path) and None)


@shows("S11", "accepted")
def test_vectors_of_numbers_and_a_table_with_a_type_of_its_own_are_read(tmp_path, rows):
    """A pickle in the metadata of an extension type stays the bytes that it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = save_problems(tmp_path / "set2")
    given = ("--dataset", folder, "--method", "farthest", "--size", 4, "--embeddings", folder / "vectors.npy")
    run_here(prune_dataset.main, *given, "--output", tmp_path / "far")
    table = pq.read_table(save_table(tmp_path / "table", "own.png") / "train.parquet")
    hostile = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    hostile[b"ARROW:extension:metadata"] = pickle.dumps(Trap(tmp_path / "ran"))
    column = pa.field("more", pa.string(), metadata=hostile)
    pq.write_table(table.append_column(column, pa.array(["x", "y"])), tmp_path / "table" / "train.parquet")
    assert "kept 2 of 2" in pruned(tmp_path / "table", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
