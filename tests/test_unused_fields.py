"""A field that says something of a sample is used, mapped by a flag, named, or refused by name: never lost unsaid."""

import json

import pytest

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.conversations import read_rows
from llava_mistral.ground.bad_input import BadInput
from tests.support.data_forms import pruned, rows_as_read, trained
from tests.support.tried_records import ASK, IMAGE, TELL, TURNS, indexed, lines, marked, plain


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


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
    "a place without a picture": (
        {"question": "<image>\nWhat?", "answer": "It."},
        {"question": "What does <image> mean in HTML?", "answer": "It."},
        ("question", "turn 0 has a place for a picture, and the record has no picture"),
    ),
    "a part without a picture": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}, *TURNS["completion"]]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, *TURNS["completion"]]},
        ("messages", "turn 0 has a place for a picture, and the record has no picture"),
    ),
    "a path among the words": (
        {"messages": [{"role": "user", "content": "Picture 1: <img>a.png</img>\nWhat?"}, *TURNS["completion"]]},
        {"messages": [{"role": "user", "content": "What is <img>?"}, *TURNS["completion"]]},
        ("messages", "turn 0 has '<img>a.png</img>', a picture's place in another model's words"),
    ),
    **{
        f"{token} for a place": (
            TURNS | {"prompt": f"{token} What?", "images": ["a.png"]},
            TURNS | {"prompt": f"{token} What?"},
            ("prompt", f"turn 0 has {token!r}, a picture's place in another model's words"),
        )
        for token in ("<IMAGE>", "<Image>", "<image1>", "<image/>", "<img>", "[image]", "<im_start>", "<bbox>")
    },
    "a film's place": (
        TURNS | {"prompt": "<video>\nWhat?"},
        TURNS | {"prompt": "What is <video>?"},
        ("prompt", "turn 0 has '<video>'"),
    ),
    "an element that is not closed": (
        TURNS | {"prompt": "Write <video>.", "images": ["a.png"]},
        TURNS | {"prompt": "Write <video></video>.", "images": ["a.png"]},
        ("prompt", "turn 0 has '<video>'"),
    ),
    "pictures by index in another order": (
        indexed(1, 0),
        indexed(0, 1),
        ("messages", "turn 0 has its pictures by index in another order than the record"),
    ),
    "a thought beside the answer": (
        marked(reasoning_content="Because."),
        marked(reasoning_content=""),
        ("messages", "turn 1 has reasoning_content, which would be left out"),
    ),
    "another trainer's weight": (marked(loss_scale=0.5), marked(), ("messages", "turn 1 is marked by loss_scale")),
    "two texts of one turn": (
        {"conversations": [ASK | {"value": "What?", "content": "Who?"}, TELL]},
        {"conversations": [ASK | {"value": "What?", "content": "What?"}, TELL]},
        ("conversations", "turn 0 says one thing in value and another in content"),
    ),
    "choices with their letters": (
        plain(choices=["A. x", "B. y"]),
        plain(choices=["A. x", "y"]),
        ("choices", "begin with their letters, which a question adds by itself"),
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


def test_a_hint_is_read_before_its_question_at_every_entrance(tmp_path):
    from llava_mistral.evaluation.questions import read_questions

    path = lines(tmp_path, {"question": "Who sings?", "answer": "It.", "context": "A poem.", "image": "a.png"})
    words = "Context: A poem.\nWho sings?"
    (row,) = trained(path, columns="hint=context")
    assert row[1] == (("user", words),)
    assert rows_as_read(read_rows(pruned(path, tmp_path / "out", "--columns", "hint=context"))) == [row]
    ((question,), _) = read_questions(path, columns="hint=context")
    assert question.texts == [words]


def test_fields_that_no_row_is_made_of_are_named_also_from_the_cache(tmp_path, capfd):
    path = lines(tmp_path, TURNS | {"note": "n", "score": 3, "empty": None, "prompt_id": ""})
    for _ in range(2):
        read_rows(path)
        assert "data.jsonl: columns that are not used: note, score\n" in capfd.readouterr().err


def test_records_that_are_marked_as_not_learned_are_left_out_at_every_entrance(tmp_path, capfd):
    from datasets import Dataset

    from llava_mistral.data.scienceqa import read_problems
    from llava_mistral.evaluation.questions import read_questions

    path = lines(tmp_path, TURNS | {"weight": 0}, TURNS | {"loss": False}, TURNS | {"id": "kept", "weight": 1})
    assert len(trained(path)) == len(read_questions(path)[0]) == 1
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
