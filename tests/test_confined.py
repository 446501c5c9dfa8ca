"""Rows stay inside the data set that was named, and files unpack to about what they are."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_mistral.data.confined import check_confined, check_parquet
from llava_mistral.data.conversations import read_rows
from llava_mistral.data.sources import load_splits
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.publishing.staging import own_files

shows = pytest.mark.case


def save_rows(file: Path, text: str = "ours") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": [text] * 3}), file)
    return file


@pytest.fixture
def secret(tmp_path) -> Path:
    return save_rows(tmp_path / "private" / "secret.parquet", "salaries")


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_rows(tmp_path / "set" / "train.parquet").parent


def card(folder: Path, **config) -> None:
    configs = json.dumps([{"config_name": "default", **config}])
    (folder / "README.md").write_text(f"---\nconfigs: {configs}\n---\n# A set\n")


@pytest.mark.parametrize(
    "place",
    ["{secret}", "../private/secret.parquet", "../private/*.parquet", "data/../../private/*", "~/secret.parquet",
     "http://127.0.0.1:9/secret.parquet", "file://{secret}", "zip://a.parquet::b.zip", "C:\\secret.parquet"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["text", "list", "splits", "folder"])
@shows("S30", "refused")
def test_a_card_that_names_files_elsewhere_is_refused(folder, secret, place, form):
    place = place.format(secret=secret)
    files = {"text": place, "list": ["train.parquet", place], "splits": [{"split": "train", "path": place}]}
    card(folder, **({"data_dir": place} if form == "folder" else {"data_files": files[form]}))
    with pytest.raises(BadInput, match="outside of the data set"):
        load_splits(folder)


@pytest.mark.parametrize("form", ["\ufeff{}", "\n\n{}", "{}".replace("{}", "{} ")])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@shows("S30", "refused")
def test_a_card_is_read_as_the_library_reads_it(folder, form, ends):
    """A byte order mark before it, or old line ends, and a pattern of our own would see no YAML."""
    text = "---\nconfigs:\n- config_name: default\n  data_files: ../private/*.parquet\n---"
    (folder / "README.md").write_bytes((form.format(text).replace("\n", ends) + "\n# A set\n").encode())
    with pytest.raises(BadInput, match="outside of the data set"):
        load_splits(folder)


@pytest.mark.parametrize("kind", ["Audio", "Video", "Pdf", "Nifti", "Mesh", "BioSequence", "BioStructure"])
@shows("S30", "refused")
def test_sound_films_and_papers_that_a_row_names_are_not_opened(folder, secret, kind, monkeypatch):
    import datasets

    monkeypatch.setattr(getattr(datasets, kind), "decode_example", lambda *_, **__: pytest.fail("it was opened"))
    place = {"bytes": None, "path": str(secret)}
    table = pa.table({"question": ["a"], "answer": ["b"], "more": [place]})
    told = {name: {"dtype": "string", "_type": "Value"} for name in ("question", "answer")} | {"more": {"_type": kind}}
    table = table.cast(datasets.Features.from_dict(told).arrow_schema)
    pq.write_table(table, folder / "train.parquet")
    assert load_splits(folder)["train"][0]["more"] == place


@shows("S25", "refused")
def test_a_script_in_a_data_folder_is_not_run(folder):
    """The one that is called as its folder the library once ran; beside another the rows are read."""
    trap = f"open({str(folder / 'ran')!r}, 'w')\n"
    (folder / "train.py").write_text(trap)
    assert load_splits(folder)["train"]["text"][:] == ["ours"] * 3
    (folder / f"{folder.name}.py").write_text(trap)
    with pytest.raises(BadInput, match="scripts are no longer supported"):
        load_splits(folder)
    assert not (folder / "ran").exists()


@shows("S30", "accepted")
def test_a_card_that_names_its_own_files_and_a_link_within_are_read(folder):
    save_rows(folder / "more" / "train.parquet")
    (folder / "again.parquet").symlink_to("more/train.parquet")
    card(folder, data_files=[{"split": "train", "path": ["train.parquet", "more/*.parquet"]}])
    assert load_splits(folder)["train"]["text"][:] == ["ours"] * 6


@pytest.mark.parametrize("name", ["train.parquet", "more.parquet", "data"])
@shows("S30", "refused")
def test_a_link_out_of_the_folder_is_refused(folder, secret, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret.parent if name == "data" else secret)
    with pytest.raises(BadInput, match="link to somewhere outside"):
        save_rows(folder / "other.parquet")
        load_splits(folder)


@shows("S30", "refused")
def test_the_state_of_a_saved_set_that_names_files_elsewhere_is_refused(tmp_path, secret):
    from datasets import Dataset

    Dataset.from_dict({"text": ["salaries"]}).save_to_disk(tmp_path / "private" / "saved")
    Dataset.from_dict({"text": ["ours"]}).save_to_disk(tmp_path / "saved")
    assert load_splits(tmp_path / "saved")["train"]["text"][:] == ["ours"]
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../private/saved/data-00000-of-00001.arrow"}]
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    with pytest.raises(BadInput, match="_data_files.*outside of the data set"):
        load_splits(tmp_path / "saved")


@pytest.mark.parametrize("rows", [["a" * 4000] * 250_000, [b"\0" * (1 << 20)] * 600])
@shows("S31", "refused")
def test_a_small_parquet_of_much_is_refused(tmp_path, rows):
    pq.write_table(pa.table({"text": rows}), tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 20
    with pytest.raises(BadInput, match="unpacks to"):
        check_confined(tmp_path)


@shows("S31", "accepted")
def test_few_different_texts_in_many_rows_are_accepted(tmp_path):
    """A column of answers: 300,000 of one letter are as much in memory as they say."""
    pq.write_table(pa.table({"answer": ["B"] * 300_000, "hint": ["a hint " * 20] * 300_000}), tmp_path / "a.parquet")
    check_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["LICENSE.txt", "config.json", "deep/NOTICE"])
@shows("S29", "refused")
def test_a_link_in_what_is_published_leads_nowhere_else(tmp_path, name):
    (tmp_path / "salaries.txt").write_text("private")
    (tmp_path / "checkpoint" / "deep").mkdir(parents=True)
    (tmp_path / "checkpoint" / name).symlink_to(tmp_path / "salaries.txt")
    with pytest.raises(BadInput, match="link to somewhere outside"):
        own_files(tmp_path / "checkpoint")


@shows("S29", "accepted")
def test_a_snapshot_of_the_hubs_cache_may_be_published(tmp_path):
    snapshot = tmp_path / "models--me--model" / "snapshots" / ("a" * 40)
    (tmp_path / "models--me--model" / "blobs").mkdir(parents=True)
    (tmp_path / "models--me--model" / "blobs" / "1").write_text("{}")
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "again.json").symlink_to("config.json")
    assert list(own_files(snapshot)) == ["again.json", "config.json"]


def save_arrow(file: Path, table: pa.Table, compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    opened = pa.ipc.new_file if "file" in file.name else pa.ipc.new_stream
    with opened(str(file), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=1 << 20)
    return file


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("kind", ["zstd", "lz4", "dictionary", "nulls", "runs"])
@shows("S31", "refused")
def test_a_small_arrow_of_much_is_refused_before_it_is_unpacked(tmp_path, form, kind):
    long = pa.array(["a" * (1 << 20)] * 300)
    columns = {
        "dictionary": pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), long),
        "nulls": pa.nulls(1 << 30),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1 << 30]), pa.array(["x"])),
    }
    packed = kind if kind in ("zstd", "lz4") else "zstd" if kind == "dictionary" else None
    file = save_arrow(tmp_path / f"a {form}.arrow", pa.table({"text": columns.get(kind, long)}), packed)
    assert file.stat().st_size < 2 << 20
    with pytest.raises(BadInput, match="unpacks to"):
        check_confined(file)


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@shows("S31", "accepted")
def test_an_arrow_of_about_what_it_says_is_read(tmp_path, form, compression):
    labels = pa.array(["p", "q"] * 500).dictionary_encode()
    table = pa.table({"a": ["x", "y"] * 500, "b": [[1, 2]] * 1000, "c": labels, "d": pa.nulls(1000)})
    check_confined(save_arrow(tmp_path / f"a {form}.arrow", table, compression))


@pytest.mark.parametrize("data", [b"", b"ARROW1\0\0", b"ARROW1\0\0" + b"\xff" * 100, b"\xff" * 8 + b"\x7f" * 90])
@shows("S31", "refused")
def test_what_is_no_arrow_is_refused_by_name(tmp_path, data):
    (tmp_path / "a.arrow").write_bytes(data)
    with pytest.raises(BadInput, match="a.arrow: is not a complete arrow file"):
        check_confined(tmp_path)


@pytest.mark.parametrize("column", [pa.array(np.full(60_000_000, 7)), pa.nulls(80_000_000, pa.int32())])
@shows("S31", "refused")
def test_a_parquet_of_few_numbers_many_times_is_refused_also_by_its_own_name(tmp_path, column):
    pq.write_table(pa.table({"n": column}), tmp_path / "bomb.parquet")
    with pytest.raises(BadInput, match="unpacks to"):
        load_splits(tmp_path / "bomb.parquet")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tar", "ROWS.TSV"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@shows("S9", "refused")
def test_an_archive_under_the_name_of_a_table_is_not_unpacked(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(b'{"question": "?"}\n' * 1000))
    with pytest.raises(BadInput, match="is an archive; unpack it"):
        check_confined(tmp_path)


MEMBERS = {
    "climbs": ({"name": "../../x.jpg"}, "a member outside of it"),
    "absolute": ({"name": "/etc/x.jpg"}, "a member outside of it"),
    "link": ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "not a regular file"),
    "hard link": ({"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "not a regular file"),
    "device": ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}, "not a regular file"),
    "pipe": ({"type": tarfile.FIFOTYPE}, "not a regular file"),
    "sparse": ({"type": tarfile.GNUTYPE_SPARSE}, "not a complete tar file|not a regular file"),
    "claims much": ({"size": 1 << 40}, "a member of 1,099,511,627,776 bytes"),
}


@pytest.mark.parametrize("kind", MEMBERS)
@shows("S8", "refused")
def test_a_tar_of_more_than_files_is_refused(tmp_path, kind):
    member, said = tarfile.TarInfo("a.jpg"), MEMBERS[kind][1]
    for key, value in MEMBERS[kind][0].items():
        setattr(member, key, value)
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(BadInput, match=said):
        check_confined(tmp_path)


@shows("S8", "accepted")
def test_a_tar_of_files_and_folders_is_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        folder = tarfile.TarInfo("part..1")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        member = tarfile.TarInfo("part..1/a.txt")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"words"))
    check_confined(tmp_path)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
@shows("S31", "refused")
def test_a_file_that_is_a_hole_is_refused_unread(tmp_path, name):
    (tmp_path / name).write_text("[")
    os.truncate(tmp_path / name, 1 << 40)
    with pytest.raises(BadInput, match="has 1,099,511,627,776 bytes, of which"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("name", ["train.parquet", "README.md", "state.json", "rows.arrow", "rows.jsonl", "a.png"])
@shows("S30", "refused")
def test_a_pipe_in_a_data_folder_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(BadInput, match="is not a regular file"):
        check_confined(folder)
