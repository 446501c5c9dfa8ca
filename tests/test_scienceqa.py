"""ScienceQA is read in each of its forms, worded once, and refused with file, record, field and remedy."""

import json
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.data.scienceqa import INSTRUCTION, Problem, answer_text, letters, question_text, read_problems
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import open_picture
from llava_mistral.ground.strict_json import read_json

REAL = Path(__file__).parents[2] / "shared" / "scienceqa"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real ScienceQA files are not beside this checkout")
PROBLEM = {
    "question": "Which is the digit?",
    "choices": ["one", "two", "three"],
    "answer": 1,
    "hint": "Look  closely.",
    "image": "image.png",
    "task": "closed choice",
    "grade": "grade2",
    "subject": "natural science",
    "topic": "digits",
    "category": "Digits",
    "skill": "Read a digit",
    "lecture": "Digits are signs.",
    "solution": "It has a loop.",
    "split": "train",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it loads; here it keeps it in the test's own folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_problems(folder: Path, problems, splits=None) -> Path:
    (folder / "problems.json").write_text(json.dumps(problems))
    if splits is not None:
        (folder / "pid_splits.json").write_text(json.dumps(splits))
    return folder


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(BadInput) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_question_is_worded_in_llavas_form():
    problem = Problem("1", "Which?", ("one", "two"), 1, hint="Look  closely.")
    assert question_text(problem) == f"Context: Look closely.\nWhich?\nA. one\nB. two\n{INSTRUCTION}"
    assert question_text(Problem("1", "Which?", ("one", "two"))).startswith("Which?\nA. one")
    assert letters(problem) == ("A", "B")


def test_an_answer_is_a_letter_or_explained():
    problem = Problem("1", "Which?", ("one", "two"), 1, lecture="Digits are signs.", solution="It has a loop.")
    assert answer_text(problem) == "B"
    assert answer_text(problem, "explained") == "Digits are signs. It has a loop. The answer is B."
    assert answer_text(Problem("1", "Which?", ("one", "two"), 0), "explained") == "The answer is A."
    assert "no answer" in refusal(answer_text, Problem("1", "Which?", ("one", "two")))
    assert "letter" in refusal(answer_text, problem, "sung")


def test_a_folder_is_read_by_split_with_its_pictures(tmp_path):
    picture = tmp_path / "images" / "train" / "1" / "image.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(picture)
    problems = {"1": PROBLEM, "2": PROBLEM | {"split": "test"}}
    write_problems(tmp_path, problems, {"train": ["1"], "test": ["2"], "minitest": ["2"]})
    (problem,) = read_problems(tmp_path, split="train")
    assert (problem.pid, problem.image, problem.has_image, problem.answer) == ("1", picture, True, 1)
    assert (problem.hint, problem.subject, problem.split) == ("Look  closely.", "natural science", "train")
    assert "images/test/2/image.png does not exist" in refusal(read_problems, tmp_path, split="minitest")
    assert "use one of train, test, minitest" in refusal(read_problems, tmp_path, split="dev")


def test_without_an_images_folder_a_problem_still_knows_that_it_has_a_picture(tmp_path):
    (problem,) = read_problems(write_problems(tmp_path, {"1": PROBLEM}))
    assert (problem.image, problem.has_image) == (None, True)


def test_a_picture_outside_of_the_images_folder_is_refused(tmp_path):
    (tmp_path / "images" / "train" / "1").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"")
    (tmp_path / "images" / "train" / "1" / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../../../secret.png", str(tmp_path / "secret.png"), "link.png"):
        write_problems(tmp_path, {"1": PROBLEM | {"image": name}})
        assert "record 1: field image" in refusal(read_problems, tmp_path)


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [({"image": 3}, "image", "give a text or null"), ({"image_needed": "yes"}, "image_needed", "not a boolean")],
)
def test_a_field_of_another_type_is_named(tmp_path, change, field, says):
    """The fields of a question are in tests/test_malformed_problems.py."""
    said = refusal(read_problems, write_problems(tmp_path, {"7": PROBLEM | change}))
    assert said.startswith(f"{tmp_path / 'problems.json'}: record 7: field {field}: ") and says in said


def test_absent_pictures_are_named_together(tmp_path):
    (tmp_path / "images").mkdir()
    write_problems(tmp_path, {str(pid): PROBLEM for pid in range(1, 9)})
    said = refusal(read_problems, tmp_path)
    assert "record 1: field image: " in said and "does not exist (8 such samples; the next: 2, 3, 4, 5)" in said


def test_what_is_neither_problems_nor_records_is_refused(tmp_path):
    assert "neither" in refusal(read_problems, write_problems(tmp_path, 3))
    assert "no problem of split 'val'" in refusal(read_problems, write_problems(tmp_path, {"1": PROBLEM}), split="val")


def test_null_texts_are_empty(tmp_path):
    (problem,) = read_problems(write_problems(tmp_path, {"1": PROBLEM | {"hint": None, "lecture": None}}))
    assert (problem.hint, problem.lecture) == ("", None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b'{"1": ', "not valid JSON at line 1"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'{"1": NaN}', "NaN is not a JSON value"),
        (b'{"1": 1, "1": 2}', "the key '1' is written twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "correct that value"),
        (rb'{"1": "\ud800"}', "holds half a character"),
    ],
)
def test_broken_json_is_named(tmp_path, content, says):
    (tmp_path / "problems.json").write_bytes(content)
    assert says in refusal(read_json, tmp_path / "problems.json")


def test_characters_beyond_the_first_plane_are_accepted_escaped(tmp_path):
    (tmp_path / "problems.json").write_bytes(rb'{"1": "\ud83d\ude00"}')
    assert read_json(tmp_path / "problems.json") == {"1": "😀"}


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "problems.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"1": PROBLEM}).encode())
    assert read_problems(tmp_path)[0].pid == "1"


def test_a_missing_path_is_refused_before_datasets_is_imported(tmp_path):
    for path in (tmp_path / "absent", tmp_path / "absent.json", "absent", "../x"):
        assert "check the path" in refusal(read_problems, path)
    (tmp_path / "empty").mkdir()
    assert "holds no data set" in refusal(read_problems, tmp_path / "empty")


def hub_rows():
    row = {key: value for key, value in PROBLEM.items() if key not in ("image", "split")}
    return [row | {"image": Image.new("RGB", (4, 4), "red")}, row | {"image": None}]


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_the_hub_columns_are_read_from_a_folder(tmp_path, form):
    import datasets

    features = datasets.Dataset.from_list(hub_rows()).features
    rows = datasets.DatasetDict({"validation": datasets.Dataset.from_list(hub_rows(), features=features)})
    if form == "saved":
        rows.save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set").mkdir()
        rows["validation"].to_parquet(tmp_path / "set" / "validation-00000-of-00001.parquet")
    problems = read_problems(tmp_path / "set", split="val")
    assert [(p.pid, p.has_image, p.split, p.answer) for p in problems] == [
        ("validation-0", True, "val", 1),
        ("validation-1", False, "val", 1),
    ]
    assert open_picture(problems[0].image).getpixel((0, 0)) == (255, 0, 0)
    assert "has no split 'test'" in refusal(read_problems, tmp_path / "set", split="test")


CQM = {
    "id": "5",
    "image": "5/image.png",
    "conversations": [
        {"from": "human", "value": "<image>\nContext: A poem.\nIt is old.\nWhich?\nA. Jan:\nI go.\nB. no"},
        {"from": "gpt", "value": "B"},
    ],
}


def test_a_cqm_file_tells_question_choices_hint_and_answer(tmp_path):
    (tmp_path / "llava_test_CQM-A.json").write_text(json.dumps([CQM]))
    (problem,) = read_problems(tmp_path / "llava_test_CQM-A.json")
    assert problem == Problem(
        "5", "Which?", ("Jan:\nI go.", "no"), 1, hint="A poem.\nIt is old.", has_image=True, split="test"
    )


def test_a_second_picture_that_nobody_would_look_at_is_refused_in_both_files(tmp_path):
    cqm, problems = tmp_path / "llava_test_CQM-A.json", tmp_path / "problems.json"
    for more, field in (({"images": ["1.png"]}, "images"), ({"map": "2.png"}, "map")):
        cqm.write_text(json.dumps([CQM | more]))
        with pytest.raises(BadInput, match=f"field {field}: carries pictures and is not used"):
            read_problems(cqm)
    cqm.write_text(json.dumps([CQM | {"image": ["1.png", "2.png"]}]))
    with pytest.raises(BadInput, match=r"field conversations: has \d <image> tokens and 2 pictures"):
        read_problems(cqm)
    for more, field in (({"images": ["1.png"]}, "images"), ({"image": "1.png", "map": {"path": "2.png"}}, "map")):
        problem = {"question": "q", "choices": ["a", "b"], "answer": 1, "split": "test"} | more
        problems.write_text(json.dumps({"1": problem}))
        with pytest.raises(BadInput, match=f"record 1: field {field}: carries pictures and is not used"):
            read_problems(problems)
    problem |= {"image": "1.png", "map": None, "file": "1.png"}
    problems.write_text(json.dumps({"1": problem}))
    assert read_problems(problems)[0].has_image


def test_malformed_cqm_records_are_refused(tmp_path):
    path = tmp_path / "llava_test_CQM-A.json"
    human, gpt = CQM["conversations"]
    for conversations in ([human], [human, gpt | {"value": "C"}], [human | {"value": "Which?"}, gpt], None):
        path.write_text(json.dumps([CQM | {"conversations": conversations}]))
        assert "record 0: field conversations" in refusal(read_problems, path)
    path.write_text(json.dumps([CQM, CQM]))
    assert "record 5: field id: occurs twice" in refusal(read_problems, path)


@needs_real
def test_the_real_problems_are_read():
    problems = read_problems(REAL / "problems_head.json")
    assert len(problems) == 1773
    assert sum(problem.has_image for problem in problems) == 879
    train = read_problems(REAL / "problems_head.json", split="train", pid_splits=REAL / "pid_splits.json")
    assert len(train) == 1041 and {problem.split for problem in train} == {"train"}


@needs_real
def test_the_real_cqm_file_is_worded_back_letter_for_letter():
    records = json.loads((REAL / "llava_test_CQM-A.json").read_text())
    problems = read_problems(REAL / "llava_test_CQM-A.json", split="test", pid_splits=REAL / "pid_splits.json")
    texts = [record["conversations"][0]["value"].removeprefix("<image>\n") for record in records]
    assert [question_text(problem, instruction="") for problem in problems] == texts
    assert (len(problems), sum(problem.has_image for problem in problems)) == (4241, 2017)


@needs_real
def test_both_real_forms_word_a_question_alike():
    """Four of the 361 hints were revised after LLaVA's file was made."""
    head = {problem.pid: problem for problem in read_problems(REAL / "problems_head.json", split="test")}
    cqm = [problem for problem in read_problems(REAL / "llava_test_CQM-A.json") if problem.pid in head]
    alike = [question_text(problem) == question_text(head[problem.pid]) for problem in cqm]
    assert (len(alike), alike.count(False)) == (361, 4)
    assert all(
        (problem.answer, bool(problem.hint)) == (head[problem.pid].answer, bool(head[problem.pid].hint))
        for problem in cqm
    )
