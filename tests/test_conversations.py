"""Every source becomes the same training rows; a bad record is refused with file, record and field."""

import json
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.data.conversations import read_rows
from llava_mistral.ground.bad_input import BadInput

REAL = Path(__file__).parents[2] / "shared" / "scienceqa"
ASK = {"from": "human", "value": "What is it?\n<image>"}
TELL = {"from": "gpt", "value": "A red square."}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it loads; here it keeps it in the test's own folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder: Path, records, name: str = "data.json") -> Path:
    picture = folder / "images" / "00" / "red.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(picture)
    (folder / name).write_text(json.dumps(records))
    return folder / name


def record(*turns, **fields):
    return {"id": "1", "image": "00/red.png", "conversations": list(turns)} | fields


def test_an_alignment_record_becomes_one_row_with_its_picture(tmp_path):
    rows = read_rows(write(tmp_path, [record(ASK, TELL)]))
    assert rows.column_names == ["id", "images", "prompt", "completion"]
    assert rows[0]["images"][0].getpixel((0, 0)) == (255, 0, 0)
    assert rows[0]["prompt"] == [{"role": "user", "content": "What is it?"}]
    assert rows[0]["completion"] == [{"role": "assistant", "content": "A red square."}]


def test_a_conversation_becomes_one_row_or_where_that_is_wanted_one_per_answer(tmp_path):
    turns = [ASK, TELL, {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]
    (whole,) = read_rows(write(tmp_path, [record(*turns)]))
    assert (whole["id"], [turn["role"] for turn in whole["prompt"]]) == ("1", ["user"])
    said = [("assistant", "A red square."), ("user", "Sure?"), ("assistant", "Yes.")]
    assert [(turn["role"], turn["content"]) for turn in whole["completion"]] == said
    rows = read_rows(write(tmp_path, [record(*turns)]), conversations="answers")
    assert rows["id"] == ["1", "1#2"]
    assert [turn["role"] for turn in rows[1]["prompt"]] == ["user", "assistant", "user"]
    assert rows[1]["completion"][0]["content"] == "Yes."
    assert [len(row["images"]) for row in rows] == [1, 1]


def test_a_record_without_a_picture_has_an_empty_list(tmp_path):
    text = record({"from": "human", "value": "What is 1 + 1?"}, {"from": "gpt", "value": "2"}, image=None)
    assert read_rows(write(tmp_path, [text]))[0]["images"] == []


def test_several_conversations_about_one_picture_keep_apart(tmp_path):
    other = record(ASK, {"from": "gpt", "value": "It is red."})
    assert read_rows(write(tmp_path, [record(ASK, TELL), other]))["id"] == ["1", "1~2"]
    with pytest.raises(BadInput, match="record 1: field id: occurs twice"):
        read_rows(write(tmp_path, [record(ASK, TELL), record(ASK, TELL)]))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("00/blue.png", "does not exist"),
        ("../data.json", "is outside of"),
        ("/etc/hostname", "is outside of"),
        ("00/red\0.png", "is outside of"),
        (5, "not a path"),
        ("é" * 300, "is not a path (File name too long)"),
    ],
)
def test_a_picture_that_is_no_file_below_the_folder_is_refused(tmp_path, image, says):
    path = write(tmp_path, [record(ASK, TELL, image=image)])
    with pytest.raises(BadInput) as caught:
        read_rows(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: record 0: field image: ") and says in said


def test_missing_sources_are_refused(tmp_path):
    path = write(tmp_path, [record(ASK, TELL)])
    with pytest.raises(BadInput, match="no such folder"):
        read_rows(path, image_folder=tmp_path / "absent")
    with pytest.raises(BadInput, match="no such file"):
        read_rows(tmp_path / "absent.json")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no data")
    with pytest.raises(BadInput, match="holds no data set"):
        read_rows(tmp_path / "other")


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_training_rows_come_back_from_a_folder_as_they_were(tmp_path, form):
    rows = read_rows(write(tmp_path / "pruned", [record(ASK, TELL)]))
    folder = tmp_path / "pruned"
    if form == "parquet":  # with the picture's path, where `save_to_disk` takes its bytes
        (folder / "data").mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    else:
        folder = tmp_path / "saved"
        rows.save_to_disk(folder)
    again = read_rows(folder)
    assert again[0]["prompt"] == rows[0]["prompt"] and again["id"] == ["1"]
    assert again[0]["images"][0].convert("RGB").getpixel((0, 0)) == (255, 0, 0)


PROBLEM = {
    "question": "Which?",
    "choices": ["one", "two"],
    "answer": 1,
    "hint": "",
    "solution": "It is.",
    "skill": "s",
}


def test_a_scienceqa_folder_becomes_rows_of_one_split(tmp_path):
    problems = {"1": PROBLEM | {"split": "train", "image": "i.png"}, "2": PROBLEM | {"split": "test"}}
    picture = tmp_path / "images" / "train" / "1" / "i.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(picture)
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    rows = read_rows(tmp_path, answer_style="explained")
    assert (rows["id"], rows["skill"]) == (["1"], ["s"])
    assert rows[0]["prompt"][0]["content"].startswith("Which?\nA. one\nB. two\n")
    assert rows[0]["completion"][0]["content"] == "It is. The answer is B."
    assert rows[0]["images"][0].size == (4, 4)
    assert read_rows(tmp_path, split="test")[0]["images"] == []


def test_a_problem_whose_picture_is_not_at_hand_is_refused(tmp_path):
    (tmp_path / "problems.json").write_text(json.dumps({"1": PROBLEM | {"split": "train", "image": "i.png"}}))
    with pytest.raises(BadInput, match="record 1: field image: the picture is not at hand"):
        read_rows(tmp_path)


def test_hub_tables_with_scienceqas_or_llavas_columns_become_rows(tmp_path):
    import datasets

    picture = Image.new("RGB", (4, 4), "red")
    datasets.Dataset.from_list([PROBLEM | {"image": picture}]).save_to_disk(tmp_path / "problems")
    rows = read_rows(tmp_path / "problems")
    assert rows[0]["completion"][0]["content"] == "B"
    assert rows[0]["images"][0].getpixel((0, 0)) == (255, 0, 0)
    talk = {"id": "9", "image": picture, "conversations": [ASK, TELL]}
    datasets.Dataset.from_list([talk]).save_to_disk(tmp_path / "talks")
    rows = read_rows(tmp_path / "talks")
    assert (rows[0]["id"], rows[0]["prompt"][0]["content"], len(rows[0]["images"])) == ("9", "What is it?", 1)
    datasets.Dataset.from_list([{"a": 1}]).save_to_disk(tmp_path / "other")
    with pytest.raises(BadInput, match="has the columns a"):
        read_rows(tmp_path / "other")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real ScienceQA files are not beside this checkout")
def test_the_released_finetuning_rows_are_read(tmp_path):
    records = json.loads((REAL / "llava_format_sample.json").read_text())
    for row in records:
        picture = tmp_path / row["image"]
        picture.parent.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(picture)
    rows = read_rows(REAL / "llava_format_sample.json", image_folder=tmp_path)
    assert len(rows) == 40 and all(len(row["images"]) == 1 for row in rows)
    assert not any("<image>" in row["prompt"][0]["content"] for row in rows)


@pytest.mark.parametrize("folder", [None, "images"])
def test_a_picture_may_be_named_from_the_files_own_folder(tmp_path, folder):
    rows = read_rows(
        write(tmp_path, [record(ASK, TELL, image="images/00/red.png")]), image_folder=folder and tmp_path / folder
    )
    assert rows[0]["images"][0].getpixel((0, 0)) == (255, 0, 0)


def test_a_folder_of_the_same_name_inside_comes_first_and_nothing_outside_is_reached(tmp_path):
    path = write(tmp_path, [record(ASK, TELL, image="images/blue.png")])
    inner = tmp_path / "images" / "images"
    inner.mkdir()
    Image.new("RGB", (4, 4), "blue").save(inner / "blue.png")
    assert read_rows(path)[0]["images"][0].getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(BadInput, match="is outside of"):
        read_rows(write(tmp_path, [record(ASK, TELL, image="images/../../data.json")]))
