"""What people bring is read as they mean it or refused by name: pictures, answers, ids, splits, folders, caches."""

import json
import random
from pathlib import Path

import pytest

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.conversations import read_rows
from llava_mistral.ground.bad_input import BadInput
from tests.support.data_forms import pruned, random_picture, rows_as_read, trained


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


ASK, TELL = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}
TURNS = {"prompt": [{"role": "user", "content": "What?"}], "completion": [{"role": "assistant", "content": "It."}]}


def lines(folder: Path, *records: dict) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        (folder / "images" / name).write_bytes(random_picture(random.Random(name)))
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "data.jsonl"


def plain(**fields) -> dict:
    return {"question": "q", "answer": "B"} | fields


def marked(**marks) -> dict:
    """A question and its answer, whose turn has these keys besides."""
    return {"messages": [*TURNS["prompt"], TURNS["completion"][0] | marks]}


UNUSABLE = {  # a record that loses something, its neighbour, the field, what is said
    "pictures elsewhere": (
        plain(photo="a.png"),
        plain(image="a.png"),
        ("photo", "carries pictures and is not used; map it with --columns images=photo"),
    ),
    "pictures twice": (
        TURNS | {"image": "a.png", "images": ["b.png"]},
        TURNS | {"images": ["a.png", "b.png"]},
        ("images", "has pictures in image and in images"),
    ),
    "a second picture elsewhere": (
        TURNS | {"image": "a.png", "after": "b.png"},
        TURNS | {"image": "a.png", "file_name": "images/a.png", "image_url": "https://a.example/b.png"},
        ("after", "carries pictures and is not used; map it with --columns images=after"),
    ),
    "base64 elsewhere": (plain(photo="iVBORw0KGgoAAAANSUhEUg"), plain(photo="a house"), ("photo", "carries pictures")),
    "an address elsewhere": (
        plain(photo={"url": "https://a.example/b.jpg?size=3"}),
        plain(photo={"url": "https://a.example/"}),
        ("photo", "carries pictures and is not used"),
    ),
    "pictures beside a turn's words": (
        {"messages": [TURNS["prompt"][0] | {"images": ["a.png"]}, *TURNS["completion"]]},
        {"messages": [*TURNS["prompt"], *TURNS["completion"]], "images": ["a.png"]},
        ("messages", "turn 0 has pictures in images"),
    ),
    "a picture of the assistant's": (
        {"messages": [*TURNS["prompt"], {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, *TURNS["completion"]]},
        ("messages", "turn 1 has a picture, and is no question"),
    ),
    "a call of a tool": (
        marked(tool_calls=[{"name": "f"}]),
        marked(tool_calls=None, name="it"),
        ("messages", "turn 1 has tool_calls"),
    ),
    "tools": (TURNS | {"tools": [{"name": "f"}]}, TURNS | {"tools": []}, ("tools", "names tools")),
    "another trainer's mark": (marked(train=False), marked(weight=1), ("messages", "turn 1 is marked by train")),
    "context of a question": (
        {"question": "q", "answer": "a", "context": "c"},
        {"question": "q", "answer": "a", "hint": "c", "context": " "},
        ("context", "content of the sample and is not used; map it with --columns hint=context, or leave it out"),
    ),
    "a system's words beside a conversation": (
        {"conversations": [ASK | {"value": "What?"}, TELL], "system": "Be brief."},
        {"conversations": [{"from": "system", "value": "Be brief."}, ASK | {"value": "What?"}, TELL], "system": ""},
        ("system", "content of the sample and is not used; put it into the conversation"),
    ),
    "an answer that is not wanted": (
        TURNS | {"rejected": "That."},
        TURNS | {"rejected": None, "score": 3},
        ("rejected", "content of the sample and is not used"),
    ),
    "a film": (
        TURNS | {"videos": ["a.mp4"]},
        TURNS | {"videos": []},
        ("videos", "content of the sample and is not used"),
    ),
    "two forms": (
        {"conversations": [ASK | {"value": "What?"}, TELL], "question": "Who?", "answer": "It."},
        {"conversations": [ASK | {"value": "What?"}, TELL], "question": "What?", "answer": "It."},
        ("question", "says something else than conversations"),
    ),
    "two conversations": (
        {"messages": [*TURNS["prompt"], *TURNS["completion"]]} | TURNS | {"completion": "That."},
        {"messages": [*TURNS["prompt"], *TURNS["completion"]]} | TURNS,
        ("messages", "says something else than prompt and completion"),
    ),
    "a conversation and other choices": (
        TURNS | {"question": "What?", "choices": ["x", "y"], "answer": 1},
        TURNS | {"question": "What?", "answer": "It."},
        ("choices", "says something else than prompt and completion"),
    ),
    "half a record": (
        TURNS | {"weight": 0.5},
        TURNS | {"weight": 1.0, "loss": True},
        ("weight", "is '0.5'; give 1 (learned) or 0 (not learned), or leave it out with --columns unused=weight"),
    ),
    "another model's place of a picture": (
        {"messages": [{"role": "user", "content": "<|image_pad|>What?"}, *TURNS["completion"]], "images": ["a.png"]},
        {"messages": [{"role": "user", "content": "<|image_pad|>What?"}, *TURNS["completion"]]},
        ("messages", "turn 0 has '<|image_pad|>', a picture's place in another model's words"),
    ),
    "half of base64": (
        {"question": "q", "answer": "a", "image": "data:image/png;base64,iVBORw0KGgo*"},
        {"question": "q", "answer": "a", "image": "a.png"},
        ("image", "is not whole base64"),
    ),
    "a part that is no picture": (
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, *TURNS["completion"]]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}]}, *TURNS["completion"]]},
        ("messages", "turn 0 has a part of type 'video', not text or image"),
    ),
    "choices under another name": (
        plain(options=["x", "y"]),
        plain(options=[]),
        ("options", "holds choices and is not used; map it with --columns choices=options"),
    ),
    "choices as text": (
        plain(options="(A) x (B) y"),
        plain(choices=["x", "y"]),
        ("options", "holds choices and is not used"),
    ),
    "a column a choice": (
        plain(A="x", B="y"),
        plain(A=None, B=None),
        ("A", "holds a choice and is not used; give them as a list in choices"),
    ),
    "a letter that is another choice's text": (
        plain(choices=["B", "A"], answer="A"),
        plain(choices=["A", "B"], answer="A"),
        ("answer", "'A' may mean several choices; give the index"),
    ),
    "two choices of one text": (
        plain(choices=["x", "x"], answer="x"),
        plain(choices=["x", "x"], answer=1),
        ("answer", "'x' may mean several choices; give the index"),
    ),
    "nobody answers": (
        TURNS | {"completion": [{"role": "user", "content": "secret"}]},
        TURNS,
        ("completion", "has no turn of the assistant's"),
    ),
    "empty answer": (TURNS | {"completion": "  "}, TURNS | {"completion": "a"}, ("prompt", "turn 1 is empty")),
    "nothing learned": (marked(loss=False), marked(loss=True), ("messages", "has no answer to learn")),
    "half a weight": (marked(weight=0.5), marked(weight=1), ("messages", "turn 1 has weight '0.5'")),
    "too few tokens": (
        TURNS | {"prompt": "<image> and?", "images": ["a.png", "b.png"]},
        TURNS | {"prompt": "<image> and <image>?", "images": ["a.png", "b.png"]},
        ("prompt", "has 1 <image> tokens and 2 pictures"),
    ),
    "unanswered picture": (
        {"image": "a.png", "conversations": [ASK, TELL, ASK]},
        {"image": "a.png", "conversations": [ASK, TELL, TELL | {"from": "human"}]},
        ("conversations", "turn 2 names a picture, but no answer follows"),
    ),
    "system later": (
        {"messages": [*TURNS["prompt"], {"role": "system", "content": "s"}, *TURNS["completion"]]},
        {"messages": [{"role": "system", "content": "s"}, *TURNS["prompt"], *TURNS["completion"]]},
        ("messages", "turn 1 is from 'system'"),
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_would_be_lost_is_refused_by_name_or_skipped(tmp_path, case):
    record, neighbour, (field, said) = UNUSABLE[case]
    good = {"question": "good?", "answer": "yes", "image": "b.png"}
    path = lines(tmp_path, good, record)
    with pytest.raises(BadInput) as refused:
        read_rows(path)
    assert f"{path}: record 1: field {field}: " in str(refused.value) and said in str(refused.value)
    bad = BadSamples("skip", 0.5)
    assert len(read_rows(path, bad=bad)) == 1 and bad.listed[0]["field"] == field
    assert len(read_rows(lines(tmp_path, good, neighbour))) == 2


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


def test_a_hint_is_read_before_its_question_at_every_entrance(tmp_path):
    from llava_mistral.evaluation.questions import read_asked

    path = lines(tmp_path, {"question": "Who sings?", "answer": "It.", "context": "A poem.", "image": "a.png"})
    words = "Context: A poem.\nWho sings?"
    (row,) = trained(path, columns="hint=context")
    assert row[1] == (("user", words),)
    assert rows_as_read(read_rows(pruned(path, tmp_path / "out", "--columns", "hint=context"))) == [row]
    ((question,), _) = read_asked(path, columns="hint=context")
    assert question.texts == [words]


def test_fields_that_no_row_is_made_of_are_named_also_from_the_cache(tmp_path, capfd):
    path = lines(tmp_path, TURNS | {"note": "n", "score": 3, "empty": None, "prompt_id": ""})
    for _ in range(2):
        read_rows(path)
        assert "data.jsonl: columns that are not used: note, score\n" in capfd.readouterr().err


def test_records_that_are_marked_as_not_learned_are_left_out_at_every_entrance(tmp_path, capfd):
    from datasets import Dataset

    from llava_mistral.data.scienceqa import read_problems
    from llava_mistral.evaluation.questions import read_asked

    path = lines(tmp_path, TURNS | {"weight": 0}, TURNS | {"loss": False}, TURNS | {"id": "kept", "weight": 1})
    assert len(trained(path)) == len(read_asked(path)[0]) == 1
    assert "2 records with a loss or weight of 0 are left out" in capfd.readouterr().err
    assert len(read_rows(pruned(path, tmp_path / "out"))) == 1
    asked = {"question": "Which?", "choices": ["a", "b"], "answer": 1}
    Dataset.from_list([asked | {"id": str(number), "weight": number} for number in (0, 1)]).save_to_disk(
        tmp_path / "t"
    )
    assert [one.pid for one in read_problems(tmp_path / "t")] == read_rows(tmp_path / "t")["id"] == ["1"]


def test_columns_say_what_is_unused_in_files_of_questions_too(tmp_path):
    from llava_mistral.data.scienceqa import read_problems

    asked = {"question": "Which?", "choices": ["a", "b"], "answer": 1, "split": "test", "source": "x/99.jpg"}
    (tmp_path / "problems.json").write_text(json.dumps({"1": asked}))
    turns = [ASK | {"value": "Which?\nA. a\nB. b"}, TELL | {"value": "B"}]
    record = {"id": "1", "image": "a.png", "source": "x/99.jpg", "conversations": turns}
    (tmp_path / "llava_test_CQM-A.json").write_text(json.dumps([record]))
    for name in ("problems.json", "llava_test_CQM-A.json"):
        with pytest.raises(BadInput, match="record 1: field source: carries pictures .* --columns unused=source"):
            read_problems(tmp_path / name)
        assert len(read_problems(tmp_path / name, columns="unused=source")) == 1
        with pytest.raises(BadInput, match="field columns: there is no column 'sauce'"):
            read_problems(tmp_path / name, columns="unused=sauce")
    assert len(read_rows(tmp_path, split="test", columns="unused=source,question=question")) == 1


def test_lettered_questions_have_their_pictures_in_their_order_at_every_entrance(tmp_path):
    from datasets import Dataset

    from llava_mistral.data.problem import question_parts
    from llava_mistral.evaluation.asking import pictures_of
    from llava_mistral.evaluation.questions import read_asked
    from tests.support.data_forms import pixels

    one, two = (random_picture(random.Random(name)) for name in ("a.png", "b.png"))
    asked = {"id": "1", "question": "Is <image> or <image> red?", "choices": ["a", "b"], "answer": 1}
    path = lines(tmp_path, asked | {"images": ["a.png", "b.png"]})
    Dataset.from_list([asked | {"images": [one, two]}]).save_to_disk(tmp_path / "table")
    for source in (path, tmp_path / "table"):
        ((question,), _) = read_asked(source)
        assert [pixels(picture) for picture in pictures_of(question, "real")] == [pixels(one), pixels(two)]
        assert [part["type"] for part in question_parts(question)] == ["text", "image", "text", "image", "text"]
        (row,) = trained(source)
        assert row[3] == (pixels(one), pixels(two))
        assert rows_as_read(read_rows(pruned(source, tmp_path / f"out {source.name}"))) == [row]


def test_pictures_in_base64_or_as_numbers_are_read(tmp_path):
    import base64

    from tests.support.data_forms import pixels

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
