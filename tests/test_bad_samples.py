"""Samples without their picture, or with a corrupt one: refused in one line, or left out, listed, counted, limited."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.conversations import read_rows
from llava_mistral.data.picture_check import checked
from llava_mistral.ground.bad_input import BadInput
from tests.support.running import run_apart
from tests.support.tiny_components import save_rows

ASK = {"from": "human", "value": "<image>\nWhat is it?"}
TELL = {"from": "gpt", "value": "A red square."}
GOOD = {"id": "good", "image": "red.png", "conversations": [ASK, TELL]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write(tmp_path):
    """Write a JSON file of records beside one good picture."""

    def to(records: list) -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(tmp_path / "images" / "red.png")
        path = tmp_path / "data.json"
        path.write_text(json.dumps(records))
        return path

    return to


def ids(path: Path, bad: BadSamples | None = None) -> list[str]:
    return read_rows(path, bad=bad)["id"]


def other(**change) -> dict:
    return {key: value for key, value in (GOOD | {"id": "other"} | change).items() if value is not ...}


def talk(*turns) -> dict:
    return other(conversations=list(turns))


UNUSABLE = {  # the record, its legal neighbour, the field, what is said; the rest is in test_malformed_llava_json.py
    "absent picture": (other(image="blue.png"), other(), "image", "does not exist"),
    "picture elsewhere": (other(image="../data.json"), other(image="../images/red.png"), "image", "is outside of"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_record_is_refused_or_left_out_and_listed(write, tmp_path, case):
    record, neighbour, field, said = UNUSABLE[case]
    path = write([GOOD, record])
    with pytest.raises(BadInput) as refused:
        read_rows(path)
    assert f"data.json: record 1: field {field}: " in str(refused.value) and said in str(refused.value)
    for _ in range(2):  # the second time from the cache, with the same list
        bad = BadSamples("skip", 0.5)
        assert ids(path, bad) == ["good"]
        (one,) = bad.listed
        assert (one["record"], one["field"], one["file"]) == (1, field, str(path)) and said in one["problem"]
    bad.write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "skipped.json").read_text()) == bad.listed
    with pytest.raises(BadInput, match=r"1 of 2 samples are bad \(50 %\).*raise --max_bad_samples"):
        read_rows(path, bad=BadSamples("skip", 0.49))
    assert ids(write([GOOD, neighbour])) == ["good", "other"]


def test_absent_pictures_are_named_together(write):
    path = write([GOOD, *(other(id=str(i), image=f"{i}.png") for i in range(9))])
    with pytest.raises(BadInput, match=r"record 1: .*0.png does not exist \(9 such samples; the next: 2, 3, 4, 5\)"):
        read_rows(path)


def test_a_number_given_to_a_numbered_record_is_not_another_records_id(write):
    records = [other(), talk(ASK, TELL | {"value": "It is red."}), other(id="other~2")]
    assert ids(write(records)) == ["other", "other~2", "other~2~2"]
    assert ids(write([*records[:2], other(id="other~3")])) == ["other", "other~2", "other~3"]


def test_rows_are_read_once_and_again_when_the_file_or_its_folder_changes(write, tmp_path, monkeypatch):
    path = write([GOOD])
    read_rows(path)
    with monkeypatch.context() as patch:
        patch.setattr("llava_mistral.data.llava_json.read_records", None)
        assert ids(path) == ["good"]
    assert ids(write([GOOD | {"id": "new!"}])) == ["new!"]
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(BadInput, match="elsewhere/red.png does not exist"):
        read_rows(path, image_folder=tmp_path / "elsewhere")
    assert not list((tmp_path / "cache" / "llava_mistral").glob("*.partial*"))


def test_a_cached_file_that_is_cut_short_is_written_again(write, tmp_path):
    path = write([GOOD])
    read_rows(path)
    (arrow,) = (tmp_path / "cache" / "llava_mistral").glob("*.arrow")
    os.truncate(arrow, 100)
    assert ids(path) == ["good"]


def damage(file: Path, *numbers: int) -> Path:
    """Cut the pictures of these rows short."""
    for number in numbers:
        picture = file.parent / "images" / f"{number}.png"
        picture.write_bytes(picture.read_bytes()[:60])
    return file


def test_corrupt_pictures_are_named_with_their_number_or_left_out(tmp_path):
    file = damage(save_rows(tmp_path / "rows"), 2, 5)
    with pytest.raises(BadInput, match=r"rows.json: record 2: field image: .*\(2 such samples; the next: 5\)"):
        checked(read_rows(file), "full", BadSamples(), source=file)
    for _ in range(2):
        bad = BadSamples("skip", 0.25)
        rows = checked(read_rows(file), "full", bad, source=file)
        assert rows["id"] == ["0", "1", "3", "4", "6", "7"]
        assert [one["record"] for one in bad.listed] == ["2", "5"]
    with pytest.raises(BadInput, match="2 of 8 samples are bad"):
        checked(read_rows(file), "full", BadSamples("skip", 0.24), source=file)
    assert len(checked(read_rows(file), "header", BadSamples(), source=file)) == 8
    assert len(checked(read_rows(file), "none", BadSamples(), source=file)) == 8


def test_pictures_that_passed_are_not_opened_again_until_one_changes(tmp_path, monkeypatch):
    file = save_rows(tmp_path / "rows")
    checked(read_rows(file), "full", BadSamples(), source=file)
    with monkeypatch.context() as patch:
        patch.setattr("llava_mistral.data.picture_check.open_picture", None)
        checked(read_rows(file), "full", BadSamples(), source=file)
    damage(file, 3)
    with pytest.raises(BadInput, match="record 3"):
        checked(read_rows(file), "full", BadSamples(), source=file)


def test_training_skips_lists_and_counts(stage0, tmp_path):
    from tests.support.training_runs import train

    file, out = damage(save_rows(tmp_path / "rows"), 2), tmp_path / "out"
    records = json.loads(file.read_text())
    records[3] |= {"weight": 0}
    records[4] |= {"place": "Rome"}
    file.write_text(json.dumps(records))
    done = train("pretrain", stage0, file, out, code=2)
    assert "rows.json: record 2: field image: " in done.stderr and not out.exists()
    for place in (out, tmp_path / "again"):  # the rows come from the cache
        done = train("pretrain", stage0, file, place, on_bad_sample="skip", max_bad_samples="0.2")
        assert "6 rows, 6 pictures, 0 rows without one, 1 not learned by their own mark" in done.stdout
        data = json.loads((place / "run.json").read_text())["data"]
        assert (data["rows"], data["skipped"], data["not_learned"], data["unused_columns"]) == (6, 1, 1, ["place"])
    assert [one["record"] for one in json.loads((out / "skipped.json").read_text())] == ["2"]


def test_unknown_modes_are_refused(stage0, rows_file, tmp_path):
    from tests.support.training_runs import train

    for flag, value in (("on_bad_sample", "ignore"), ("check_pictures", "some"), ("max_bad_samples", "2")):
        assert (
            f"field {flag}: " in train("pretrain", stage0, rows_file, tmp_path / "out", code=2, **{flag: value}).error
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_large_file_is_read_in_little_memory(tmp_path):
    """300,000 records, 90 MB: what stays resident beyond the libraries is a fraction of the file."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "red.png")
    with (tmp_path / "data.json").open("w") as file:
        for number in range(300_000):
            told = TELL | {"value": f"A picture of something or other, number {number}. " * 4}
            record = GOOD | {"id": str(number), "conversations": [ASK, told]}
            file.write(("," if number else "[") + json.dumps(record))
        file.write("]")
    code = """if True:
        import sys
        import datasets, datasets.arrow_writer, filelock, numpy
        from llava_mistral.data.conversations import read_rows
        def peak():  # without the pages of mapped files, which the system drops when it needs the memory
            status = dict(line.split(":") for line in open("/proc/self/status"))
            return int(status["VmHWM"].split()[0]) - int(status["RssFile"].split()[0])
        before = peak()
        rows = read_rows(sys.argv[1])
        print(len(rows), (peak() - before) // 1000)
        """
    done = run_apart("-c", code, tmp_path / "data.json", HF_DATASETS_CACHE=str(tmp_path / "cache"))
    rows, grown = map(int, done.stdout.split())
    assert rows == 300_000 and grown < 100


def test_several_processes_read_at_once_and_one_of_them_writes(tmp_path):
    import subprocess
    import sys

    from tests.support.running import HOME

    file = save_rows(tmp_path / "rows")
    code = """if True:
        import sys
        from llava_mistral.data.bad_samples import BadSamples
        from llava_mistral.data.conversations import read_rows
        from llava_mistral.data.picture_check import checked
        rows = checked(read_rows(sys.argv[1]), "full", BadSamples(), source=sys.argv[1])
        print(len(rows), rows[7]["id"])
        """
    started = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, str(file)]
    running = [subprocess.Popen(command, cwd=HOME, env=started, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=300)[0] for process in running] == ["8 7\n"] * 3
    kinds = [path.suffix for path in (tmp_path / "cache" / "llava_mistral").iterdir() if path.suffix != ".lock"]
    assert sorted(kinds) == [".arrow", ".json", ".pictures"]
