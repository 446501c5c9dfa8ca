"""Rows of any form are evaluated: lettered choices in anybody's columns, and answers in words by a rule."""

import io
import json
import re
import sys

import pytest
from PIL import Image

from llava_mistral.commands import compare as compare_verb
from llava_mistral.commands import evaluate as evaluate_verb
from llava_mistral.evaluation.answers_page import answers_page
from llava_mistral.evaluation.questions import Question, held_out_split, read_questions
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.publishing.reported_results import checked_summary, eval_results, result_table
from tests.support.tiny_llava import save_tiny_llava

KINDS = ("cat", "dog", "cow")
COLUMNS = "question=ask,answer=label,image=photo"


def png(shade: int) -> dict:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def table(path, rows: list[dict], split: str = "test"):
    import datasets

    path.mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_list(rows)
    if "photo" in made.column_names:
        made = made.cast_column("photo", datasets.Image())
    made.to_parquet(path / f"{split}.parquet")
    return path


@pytest.fixture
def words(tmp_path):
    """Twelve questions in somebody's own columns; the first has hostile words."""
    rows = [
        {"ask": f"What is on picture {i}?", "label": KINDS[i % 3], "photo": png(20 * i), "place": f"farm {i % 2}"}
        for i in range(12)
    ]
    rows[0]["ask"] = "<script>alert(1)</script> What\u202e is it?"
    return table(tmp_path / "words", rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_llava(tmp_path_factory.mktemp("tiny") / "llava")


def evaluate(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["llava-mistral evaluate", *map(str, arguments)])
    evaluate_verb.main()


def scored(monkeypatch, tmp_path, data, texts: dict, *arguments) -> dict:
    (tmp_path / "texts.json").write_text(json.dumps({"outputs": texts}))
    source = ["--dataset", data, "--columns", COLUMNS, "--split", "test", "--predictions", tmp_path / "texts.json"]
    evaluate(monkeypatch, *source, "--output", tmp_path / "out", *arguments)
    return json.loads((tmp_path / "out" / "summary.json").read_text())


def test_a_checkpoint_answers_rows_of_anybodys_columns(monkeypatch, tmp_path, words, checkpoint, capsys):
    arguments = ["--model", checkpoint, "--dataset", words, "--columns", COLUMNS, "--group_by", "place"]
    arguments += ["--images", "real", "blank", "--max_new_tokens", 4, "--output", tmp_path / "out"]
    evaluate(monkeypatch, *arguments)
    said = capsys.readouterr().out
    assert "by place" in said and "farm 0" in said and "unread, and counted as wrong:" in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["ALL"]["n"], summary["IMG"]["n"], summary["match"]) == (12, 12, "normalised")
    assert {name: cell["n"] for name, cell in summary["groups"]["cells"].items()} == {"farm 0": 6, "farm 1": 6}
    assert summary["split"] == "test" and summary["ALL"]["chance"] == pytest.approx(100 / 3)
    page = (tmp_path / "out" / "answers.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "\u202e" not in page
    assert "default-src 'none'" in page and page.count("data:image/jpeg") == 12 and 'alt="picture 1 of' in page
    before = (tmp_path / "out" / "summary.json").read_bytes()
    evaluate(monkeypatch, *arguments)
    assert (tmp_path / "out" / "summary.json").read_bytes() == before, "a second run only reads what was answered"


def test_lettered_choices_in_anybodys_columns_are_read_as_letters(monkeypatch, tmp_path, checkpoint):
    rows = [{"ask": "Which?", "photo": png(9), "options": list(KINDS), "label": i % 3, "place": "x"} for i in range(4)]
    data = table(tmp_path / "lettered", rows)
    arguments = ["--dataset", data, "--columns", f"{COLUMNS},choices=options", "--group_by", "place"]
    evaluate(monkeypatch, "--model", checkpoint, *arguments, "--output", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["ALL"]["n"] == 4 and summary["readers"]["ALL"].keys() == {"ours", "LLaVA", "lmms-eval"}
    assert summary["groups"]["cells"]["x"] == summary["ALL"] and summary["NAT"] is None
    assert (tmp_path / "out" / "answers.html").read_text().count("A. cat") >= 4


TEXTS = {str(i): KINDS[i % 3] for i in range(12)}


@pytest.mark.parametrize(
    ("match", "changed", "correct", "unread"),
    [
        ("exact", {"0": "Cat"}, 11, 0),
        ("normalised", {"0": "The Cat.", "1": "cow", "2": ""}, 10, 1),
        ("f1", {"0": "cat dog"}, 11, 0),
        (r"regex:it is (\w+)", {"0": "it is cat", "1": "it is cow"}, 1, 10),
    ],
)
def test_texts_are_scored_by_the_rule_asked_for(monkeypatch, tmp_path, words, match, changed, correct, unread):
    summary = scored(monkeypatch, tmp_path, words, TEXTS | changed, "--match", match)
    assert (summary["ALL"]["correct"], summary["unread"], summary["match"]) == (correct, unread, match)
    low, high = summary["ALL"]["ci95"]
    assert 0 <= low <= summary["ALL"]["accuracy"] <= high <= 100 and low < high
    if match == "f1":
        assert summary["ALL"]["accuracy"] == pytest.approx(100 * (11 + 2 / 3) / 12)


def test_what_says_little_is_warned_of(monkeypatch, tmp_path, words, capsys):
    assert scored(monkeypatch, tmp_path, words, TEXTS)["warnings"] == []
    summary = scored(monkeypatch, tmp_path, words, dict.fromkeys(TEXTS, "a horse"))
    assert [line.split(",")[0] for line in summary["warnings"]] == [
        "every question was given the same answer",
        "the accuracy",
    ]
    summary = scored(monkeypatch, tmp_path, words, {**dict.fromkeys(TEXTS, ""), "0": "cat"})
    assert summary["warnings"][0].startswith("11 of 12 answers could not be read")
    assert "warning: 11 of 12" in capsys.readouterr().out


def test_summaries_of_words_are_compared_and_shown_on_a_card(monkeypatch, tmp_path, words):
    for name, texts in (("good", TEXTS), ("bad", dict.fromkeys(TEXTS, "cat"))):
        for match in ("normalised", "f1"):
            summary = scored(monkeypatch, tmp_path, words, texts, "--match", match)
            (tmp_path / "out").rename(tmp_path / f"{name}-{match}")
    for match, test in (("normalised", "exact McNemar"), ("f1", "paired t")):
        folders = [f"{name}={tmp_path / f'{name}-{match}'}" for name in ("good", "bad")]
        monkeypatch.setattr(sys, "argv", ["compare", *folders, "--output", str(tmp_path / "both")])
        compare_verb.main()
        (pair,) = json.loads((tmp_path / "both" / "comparison.json").read_text())["pairs"]
        assert pair["difference"] == pytest.approx(-100 * 8 / 12) and pair["test"].startswith(test)
    card = result_table(checked_summary(summary))
    assert "| ALL | IMG |" in card["table"].replace("| | ", "| ") and "| mean token F1 | " in card["table"]
    told = {(row.task_name, row.metric_type, row.metric_name) for row in eval_results(summary)}
    assert told == {
        ("questions with answers in words about pictures", "f1", f"f1, {column}, match: f1")
        for column in ("ALL", "IMG")
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--match", "letters"], "has no choices; name their column"),
        (["--match", "yes_no"], "record 0: field answer: 'cat' is neither yes nor no"),
        (["--match", "fuzzy"], "field match: 'fuzzy' is unknown"),
        (["--group_by", "colour"], "there is no column 'colour'"),
        (["--group_by", "grade"], "no question has a grade"),
        (["--columns", "question=absent"], "there is no column 'absent'"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(monkeypatch, tmp_path, words, arguments, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        scored(monkeypatch, tmp_path, words, TEXTS, *arguments)
    assert not (tmp_path / "out").exists()


def test_texts_for_other_rows_are_refused_or_counted(monkeypatch, tmp_path, words):
    fewer = {pid: text for pid, text in TEXTS.items() if pid != "3"}
    with pytest.raises(BadInput, match=r"1 questions have no text \(first: 3\)"):
        scored(monkeypatch, tmp_path, words, fewer)
    with pytest.raises(BadInput, match=r"1 predictions are for questions that are not in this set \(first: 99\)"):
        scored(monkeypatch, tmp_path, words, TEXTS | {"99": "cat"})
    summary = scored(monkeypatch, tmp_path, words, fewer | {"99": "cat"}, "--allow_missing")
    assert (summary["ALL"]["correct"], summary["unread"], summary["ALL"]["n"]) == (11, 1, 12)


def test_answers_in_words_have_no_likelihood(monkeypatch, tmp_path, words, checkpoint):
    arguments = ["--model", checkpoint, "--dataset", words, "--columns", COLUMNS, "--scoring", "likelihood"]
    with pytest.raises(BadInput, match="field scoring: free-text answers have no letters"):
        evaluate(monkeypatch, *arguments)


@pytest.mark.parametrize("lettered", [True, False])
@pytest.mark.parametrize("form", ["list", "lines", "csv"])
def test_records_of_a_file_are_asked_as_they_would_be_trained_on(tmp_path, form, lettered):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    record = {"id": "r7", "image": "a.png", "ask": "Which?", "label": "B" if lettered else "dog", "place": "farm"}
    record |= {"options": list(KINDS)} if lettered else {}
    path = tmp_path / {"list": "data.json", "lines": "data.jsonl", "csv": "data.csv"}[form]
    if form == "csv":
        fields = record | ({"options": json.dumps(record["options"])} if lettered else {})
        quoted = ['"' + text.replace('"', '""') + '"' for text in fields.values()]
        path.write_text(f"{','.join(fields)}\n{','.join(quoted)}\n")
    else:
        path.write_text(json.dumps([record]) if form == "list" else json.dumps(record) + "\n")
    columns = "question=ask,answer=label" + ",choices=options" * lettered
    (one,), groups = read_questions(path, columns=columns, group_by="place", image_folder=[str(tmp_path)])
    assert (one.question, one.has_image, groups) == ("Which?", True, {one.pid: "farm"})
    assert (one.answer, one.choices) == ((1, KINDS) if lettered else ("dog", ()))


def test_a_conversation_is_asked_turn_by_turn_with_its_pictures(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    turns = [("human", "<image>\nWhat?"), ("gpt", "A cat."), ("human", "Where?"), ("gpt", "On a mat.")]
    record = {"id": "7", "image": "a.png", "conversations": [{"from": who, "value": said} for who, said in turns]}
    (tmp_path / "llava.json").write_text(json.dumps([record]))
    asked, groups = read_questions(tmp_path / "llava.json")
    assert groups is None and [(one.pid, one.question, one.answer) for one in asked] == [
        ("7", "What?", "A cat."),
        ("7#2", "Where?", "On a mat."),
    ]
    first, *others = asked[1].chat
    assert [part["type"] for part in first["content"]] == ["image", "text"] and asked[1].has_image
    assert [turn["role"] for turn in others] == ["assistant", "user"]


def test_a_checkpoint_is_asked_the_test_split_and_never_silently_another(tmp_path):
    row = [{"ask": "?", "label": "x"}]
    for split in ("train", "validation"):
        table(tmp_path / "data", row, split)
    assert held_out_split(tmp_path / "data") == "validation"
    table(tmp_path / "data", row, "test")
    assert held_out_split(tmp_path / "data") == "test"
    assert held_out_split(table(tmp_path / "one", row, "train")) == "train", "a source of one split is asked whole"


def test_the_page_shows_some_of_either_kind_whatever_their_number():
    asked = [Question(str(i), ({"role": "user", "content": "?"},), (), "yes") for i in range(200)]
    right = {one.pid: index % 2 == 0 for index, one in enumerate(asked)}
    told = {"unread": {"1"}, "title": "t & u", "facts": "<b>"}
    page = answers_page(asked[:2], {"0": "y", "1": "?"}, right, lambda one: [], **told)
    assert "answered (unread): ?" in page and "answered (right): y" in page and "(wrong)" not in page
    page = answers_page(asked, dict.fromkeys(right, "x" * 5000), right, lambda one: [], **told)
    assert "Wrong answers: 24 of 100" in page and "Right answers: 24 of 100" in page
    assert "t &amp; u" in page and "&lt;b&gt;" in page and "x" * 1201 not in page
