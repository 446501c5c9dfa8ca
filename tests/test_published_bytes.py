"""A pruned set that nobody touched is published byte for byte; one that holds more than rows and pixels is not."""

import json

import pytest

from tests.support.tiny_publications import png, prepare, save_dataset, with_gps


def save_pruned(folder, pictures=None, **spoil):
    """A pruned set as `llava-mistral prune` writes it: its own writer, bare PNG, a manifest with the hashes."""
    from datasets import load_dataset

    from llava_mistral.pruning.manifest import write_manifest
    from llava_mistral.pruning.output import DATA_FILE, write_rows

    made = save_dataset(folder.parent / "source", pictures=pictures)
    rows = load_dataset("parquet", data_files=str(made / DATA_FILE), split="train")
    write_rows(rows, folder / DATA_FILE, source="source")
    for name, change in spoil.items():
        change(folder / DATA_FILE) if name == "rows" else None
    write_manifest(json.loads((made / "manifest.json").read_text()), folder)
    return folder


def published_rows(folder, tmp_path) -> tuple[bytes, bytes]:
    """The parquet file of a pruned set, and the one that leaves."""
    (own,) = (folder / "data").iterdir()
    staged = prepare(folder, tmp_path).files(None)["principles/train-00000-of-00001.parquet"]
    return own.read_bytes(), staged.read_bytes()


def test_a_pruned_set_that_nobody_touched_is_published_byte_for_byte(tmp_path):
    own, published = published_rows(save_pruned(tmp_path / "made", pictures=[with_gps()]), tmp_path)
    assert published == own and b"somebody" not in own


def with_a_note(path):
    """A text chunk in the first picture, in a file that is otherwise as it was."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import PngImagePlugin

    table = pq.read_table(path)
    rows = table.to_pylist()
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "taken by somebody")
    rows[0]["images"][0]["bytes"] = png(0, pnginfo=note)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def with_a_tail_behind_a_picture(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["images"][0]["bytes"] += b"taken by somebody"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def with_a_named_picture(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["images"][0]["path"] = "somebody.png"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def with_notes_in_the_footer(path):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), b"by": b"somebody"}), path)


def with_bytes_between_the_columns(path):
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    path.write_bytes(content[:-footer] + b"taken by somebody" + content[-footer:])


@pytest.mark.parametrize(
    "spoil",
    [
        with_a_note,
        with_a_tail_behind_a_picture,
        with_a_named_picture,
        with_bytes_between_the_columns,
        with_notes_in_the_footer,
    ],
)
def test_a_file_that_holds_more_than_rows_and_pixels_is_written_again_whatever_its_manifest_says(tmp_path, spoil):
    """Its manifest has the hash of the very file: a hash alone proves that nothing changed, not what it was."""
    own, published = published_rows(save_pruned(tmp_path / "made", rows=spoil), tmp_path)
    assert b"somebody" in own and published != own
    assert b"somebody" not in published
