"""What people bring is read as they mean it: answers, ids, splits, folders, caches, forms of pictures and tables."""

import json
import random

import pytest

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.conversations import read_rows
from llava_mistral.ground.bad_input import BadInput
from tests.support.data_forms import pixels, pruned, random_picture, rows_as_read, trained, written
from tests.support.tried_records import ASK, TELL, TURNS, lines


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_turns_that_are_not_learned_are_marked_in_the_row_and_stay_so_in_a_pruned_sets_json(tmp_path):
    turns = [ASK, TELL, {"from": "human", "value": "More?"}, TELL | {"weight": 0}, {"from": "human", "value": "And?"}]
    path = lines(tmp_path, {"id": "1", "image": "a.png", "conversations": [*turns, TELL]})
    (row,) = read_rows(path)
    assert [turn.get("loss") for turn in row["completion"]] == [None, None, False, None, None]
    turns[1] = TELL | {"loss": False}
    path = lines(tmp_path, {"id": "1", "image": "a.png", "conversations": [*turns, TELL]})
    (row,) = read_rows(path)
    assert (len(row["prompt"]), len(row["completion"])) == (5, 1)
    out = pruned(path, tmp_path / "out")
    assert rows_as_read(read_rows(out / "llava.json")) == rows_as_read(read_rows(out)) == rows_as_read([row])


def test_the_same_words_about_other_pictures_are_other_samples(tmp_path):
    from datasets import Dataset, Image, List

    records = [{"id": "cam", "image": name, "conversations": [ASK, TELL]} for name in ("a.png", "b.png")]
    assert read_rows(lines(tmp_path, *records))["id"] == ["cam", "cam~2"]
    cells = [[{"bytes": random_picture(random.Random(i)), "path": None}] for i in (1, 2, 2)]
    table = Dataset.from_list([{"id": "cam", **TURNS, "images": cell} for cell in cells])
    table.cast_column("images", List(Image())).save_to_disk(tmp_path / "set")
    bad = BadSamples("skip", 0.5)
    assert read_rows(tmp_path / "set", bad=bad)["id"] == ["cam", "cam~2"]
    assert [one["problem"] for one in bad.listed] == ["occurs twice"]


def test_ids_that_look_numbered_do_not_collide(tmp_path):
    more = [{"from": "human", "value": "More?"}, TELL]
    records = [{"id": "page", "image": "a.png", "conversations": [ASK, TELL, *more]}]
    records += [{"id": "page#2", "image": "b.png", "conversations": [ASK, TELL]}]
    path = lines(tmp_path, *records)
    assert read_rows(path)["id"] == ["page", "page#2"]
    assert read_rows(path, conversations="answers")["id"] == ["page", "page#2", "page#2~2"]


def test_ids_are_made_where_there_are_none_and_that_is_said(tmp_path, capfd):
    path = lines(tmp_path, TURNS, TURNS)
    for _ in range(2):  # the second time from the cache
        assert read_rows(path)["id"] == ["0", "1"]
        assert "data.jsonl: 2 records without an id are named by their places" in capfd.readouterr().err


def test_a_split_that_is_asked_for_exists_and_held_out_data_is_never_the_training_split(tmp_path):
    from datasets import Dataset, DatasetDict

    row = Dataset.from_list([{"id": "1", **TURNS, "images": [random_picture(random.Random(0))]}])
    DatasetDict({"train": row}).save_to_disk(tmp_path / "one")
    DatasetDict({"train": row, "test": row}).save_to_disk(tmp_path / "two")
    row.save_to_disk(tmp_path / "unnamed")
    for name in ("one", "two", "unnamed"):
        with pytest.raises(BadInput, match="field split: has no split 'tset'; use one of train"):
            read_rows(tmp_path / name, split="tset")
    with pytest.raises(BadInput, match="field eval_split: its only split is train, which is trained on"):
        read_rows(tmp_path / "one", held_out_of=tmp_path / "one")
    assert len(read_rows(tmp_path / "two", held_out_of=tmp_path / "two")) == 1
    with pytest.raises(BadInput, match="field split: has no split 'test'"):
        read_rows(lines(tmp_path / "lines", TURNS), split="test")


def test_what_is_cached_does_not_depend_on_the_working_folder_or_on_links(tmp_path, monkeypatch):
    record = {"id": "1", "image": "a.png", "conversations": [ASK, TELL]}
    lines(tmp_path / "one", record)
    monkeypatch.chdir(tmp_path / "one")
    first = rows_as_read(read_rows("data.jsonl", image_folder="images"))
    monkeypatch.chdir(tmp_path)
    assert rows_as_read(read_rows("one/data.jsonl", image_folder="one/images")) == first
    lines(tmp_path / "two", record)
    (tmp_path / "two" / "images" / "a.png").write_bytes(random_picture(random.Random("other")))
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert rows_as_read(read_rows("link/data.jsonl")) == first
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "two")
    assert rows_as_read(read_rows("link/data.jsonl")) != first


def test_a_picture_that_comes_into_an_earlier_folder_is_read_from_there(tmp_path):
    path = lines(tmp_path / "later", TURNS | {"images": ["a.png"]})
    table = written(tmp_path / "later" / "set" / "data.csv", "question,answer,image\nq,a,a.png\n").parent
    (tmp_path / "first").mkdir()
    folders = {"image_folder": [tmp_path / "first", tmp_path / "later" / "images"]}
    before = [rows_as_read(read_rows(source, **folders)) for source in (path, table)]
    (tmp_path / "first" / "a.png").write_bytes(random_picture(random.Random("first")))
    after = [rows_as_read(read_rows(source, **folders)) for source in (path, table)]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert {pictures for ((*_, pictures),) in after} == {(pixels((tmp_path / "first" / "a.png").read_bytes()),)}


def test_a_file_replaced_under_the_same_name_size_and_time_is_read_again(tmp_path):
    import os

    from llava_mistral.data.picture_check import checked

    folder = tmp_path / "set"
    folder.mkdir()
    for word in ("one", "two"):
        (folder / "data.csv").write_text(f"id,question,answer\n1,what?,{word}\n")
        os.utime(folder / "data.csv", (1_000_000_000, 1_000_000_000))
        assert read_rows(folder)[0]["completion"][0]["content"] == word
    path = lines(tmp_path, {"id": "1", "image": "a.png", "conversations": [ASK, TELL]})
    picture = tmp_path / "images" / "a.png"
    os.utime(picture, (1_000_000_000, 1_000_000_000))
    checked(read_rows(path), "full", BadSamples(), source=path)
    whole = picture.read_bytes()
    picture.write_bytes(whole[:40] + bytes(len(whole) - 40))
    os.utime(picture, (1_000_000_000, 1_000_000_000))
    with pytest.raises(BadInput, match="record 1: field image"):
        checked(read_rows(path), "full", BadSamples(), source=path)


def test_a_picture_that_came_since_is_seen(tmp_path):
    path = lines(tmp_path, TURNS | {"images": ["late.png"]}, TURNS)
    assert len(read_rows(path, bad=BadSamples("skip", 0.5))) == 1
    (tmp_path / "images" / "late.png").write_bytes(random_picture(random.Random(0)))
    assert len(read_rows(path, bad=BadSamples("skip", 0.5))) == 2


def test_pictures_lie_below_any_folder_that_is_named_and_links_lead_among_them(tmp_path):
    path = lines(tmp_path / "here", TURNS | {"images": ["linked.png"]}, TURNS | {"images": ["far.png"]})
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "far.png").write_bytes(random_picture(random.Random(1)))
    (tmp_path / "here" / "images" / "linked.png").symlink_to(tmp_path / "far" / "far.png")
    folders = [tmp_path / "here" / "images", tmp_path / "far"]
    assert len(read_rows(path, image_folder=folders)) == 2
    assert len(trained(path, image_folder=":".join(map(str, folders)))) == 2
    with pytest.raises(BadInput, match="is outside of"):
        read_rows(path, image_folder=folders[0])
    out = pruned(path, tmp_path / "out", "--image_folder", folders[0], "--image_folder", folders[1])
    assert len(read_rows(out)) == 2
    from llava_mistral.commands.train import joined

    given = ["--image_folder", "a", "--stage", "finetune", "--image_folder", "b"]
    assert joined(given, "--image_folder") == ["--stage", "finetune", "--image_folder", "a:b"]


def test_one_bad_row_of_a_table_is_skipped_whatever_ails_it(tmp_path):
    from datasets import Dataset

    good = {"id": "0", "prompt": TURNS["prompt"], "completion": TURNS["completion"], "images": None}
    wrong = {
        "speaker": {"prompt": [{"role": "narrator", "content": "What?"}]},
        "no answer": {"completion": []},
        "absent": {"images": ["absent.png"]},
        "twice": {},
    }
    rows = [good, *(good | {"id": name if name != "twice" else "0"} | change for name, change in wrong.items())]
    Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    bad = BadSamples("skip", 1)
    assert read_rows(tmp_path / "set", bad=bad)["id"] == ["0"]
    assert sorted(one["record"] for one in bad.listed) == [1, 2, 3, 4]
    with pytest.raises(BadInput, match="set: record 1: field prompt: turn 0 is from 'narrator'"):
        read_rows(tmp_path / "set")


def test_a_questions_picture_is_read_from_the_column_that_has_it(tmp_path):
    from datasets import Dataset

    from llava_mistral.data.scienceqa import read_problems
    from llava_mistral.ground.pictures import open_picture

    one, two = (random_picture(random.Random(number)) for number in (1, 2))
    asked = {"question": "Which?", "choices": ["a", "b"], "answer": 1}
    rows = [asked | {"image": one, "images": None}, asked | {"image": None, "images": [two]}]
    Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    shown = [open_picture(problem.image).tobytes() for problem in read_problems(tmp_path / "set")]
    assert shown == [open_picture(picture).tobytes() for picture in (one, two)]
    assert [len(images) for images in read_rows(tmp_path / "set")["images"]] == [1, 1]


def test_lettered_questions_have_their_pictures_in_their_order_at_every_entrance(tmp_path):
    from datasets import Dataset

    from llava_mistral.data.problem import question_parts
    from llava_mistral.evaluation.asking import pictures_of
    from llava_mistral.evaluation.questions import read_questions

    one, two = (random_picture(random.Random(name)) for name in ("a.png", "b.png"))
    asked = {"id": "1", "question": "Is <image> or <image> red?", "choices": ["a", "b"], "answer": 1}
    path = lines(tmp_path, asked | {"images": ["a.png", "b.png"]})
    Dataset.from_list([asked | {"images": [one, two]}]).save_to_disk(tmp_path / "table")
    for source in (path, tmp_path / "table"):
        ((question,), _) = read_questions(source)
        assert [pixels(picture) for picture in pictures_of(question, "real")] == [pixels(one), pixels(two)]
        assert [part["type"] for part in question_parts(question)] == ["text", "image", "text", "image", "text"]
        (row,) = trained(source)
        assert row[3] == (pixels(one), pixels(two))
        assert rows_as_read(read_rows(pruned(source, tmp_path / f"out {source.name}"))) == [row]


def test_pictures_in_base64_or_as_numbers_are_read(tmp_path):
    import base64

    picture = random_picture(random.Random(7))
    text = base64.b64encode(picture).decode()
    forms = [text, f"data:image/png;base64,{text}", {"bytes": text, "path": None}, {"bytes": list(picture)}]
    asked = {"question": "q", "answer": "a"}
    path = lines(tmp_path, *(asked | {"id": str(number), "image": one} for number, one in enumerate(forms)))
    assert [row[3] for row in trained(path)] == [(pixels(picture),)] * len(forms)


def test_csv_is_read_as_the_text_it_is(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.csv").write_text(
        "\ufeffid,question,answer\r\n007,zip?,0123\r\n8,true?,True\r\n9,who?,None\r\n"
    )
    rows = read_rows(tmp_path / "set")
    assert rows["id"] == ["007", "8", "9"]
    assert [row["completion"][0]["content"] for row in rows] == ["0123", "True", "None"]
    (tmp_path / "set" / "a.csv").write_text("id,question,answer\n7,zip?,\n")
    with pytest.raises(BadInput, match="record 7: field answer: is empty"):
        read_rows(tmp_path / "set")


@pytest.mark.parametrize("cells", [("007", "8"), ("1.50", "2"), ("None", "x"), ("True", "False"), ("1", "")])
def test_a_metadata_csv_that_would_be_read_as_something_else_is_refused(tmp_path, cells):
    text = "file_name,question,answer\n" + "".join(f"{i}.png,What?,{cell}\n" for i, cell in enumerate(cells))
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    for index in range(2):
        (folder / f"{index}.png").write_bytes(random_picture(random.Random(index)))
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(BadInput, match="metadata.csv: field answer: holds numbers or words .* write metadata.jsonl"):
        read_rows(tmp_path / "set")
    (folder / "metadata.csv").write_text(
        text.replace(f",{cells[0]}\n", ",10\n").replace(",\n", ",3\n").replace("False", "2")
    )
    assert read_rows(tmp_path / "set")[0]["completion"][0]["content"] == "10"


@pytest.mark.parametrize("form", ["JSON", "JSON lines", "pictures"])
def test_texts_of_json_are_kept_as_they_are_written(tmp_path, form):
    answers = ["2020-01-01", "1999-12-31 23:59:59", "2001-02-03T04:05:06Z"]
    folder = tmp_path / "of-test" / "set"
    folder.mkdir(parents=True)
    records = [{"id": f"00{i}", "question": "When?", "answer": answer} for i, answer in enumerate(answers)]
    if form == "pictures":  # whose own names the library would take for those of splits
        for index, record in enumerate(records):
            record["file_name"] = f"cat-test-{index}.png"
            (folder / record["file_name"]).write_bytes(random_picture(random.Random(index)))
    lines = "\n".join(map(json.dumps, records)) + "\n"
    if form == "JSON":
        (folder / "a.json").write_text(json.dumps(records))
    else:
        (folder / ("metadata.jsonl" if form == "pictures" else "a.jsonl")).write_text(lines)
    rows = read_rows(folder)
    assert rows["id"] == ["000", "001", "002"]
    assert [row["completion"][0]["content"] for row in rows] == answers
    assert [len(images) for images in rows["images"]] == [int(form == "pictures")] * 3


def test_dates_in_turns_of_json_lines_are_texts(tmp_path):
    turns = [{"role": "user", "content": "2020-01-01"}, {"role": "assistant", "content": "2020-01-02"}]
    written(tmp_path / "set" / "a.jsonl", json.dumps({"id": "1", "messages": turns}) + "\n")
    (row,) = read_rows(tmp_path / "set")
    assert row["prompt"][0]["content"] == "2020-01-01" and row["completion"][0]["content"] == "2020-01-02"


def test_a_digit_in_csv_that_is_an_index_and_another_choice_is_refused(tmp_path):
    from llava_mistral.data.scienceqa import read_problems

    file = tmp_path / "set" / "a.csv"
    file.parent.mkdir()

    def read(answer: str, choices: str = '[""1"", ""2"", ""3""]') -> list[int]:
        file.write_text(f'id,question,choices,answer\nq,How many?,"{choices}",{answer}\n')
        return [read_rows(file.parent)[0]["answer"], read_problems(file.parent)[0].answer]

    for reader in (read_rows, read_problems):
        file.write_text('id,question,choices,answer\nq,How many?,"[""1"", ""2"", ""3""]",2\n')
        with pytest.raises(
            BadInput, match=r"record q: field answer: '2' may .*: '2' by its text or '3' by its index; "
        ):
            reader(file.parent)
    assert read("3") == [2, 2] and read("B") == [1, 1] and read("0") == [0, 0]  # only one of the two is there
    assert read("1", '[""0"", ""1""]') == [1, 1]  # both agree
    with pytest.raises(BadInput, match="answer 7 is out of range"):
        read("7")
