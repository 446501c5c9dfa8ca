"""Any data set: its columns under our names, with choices or in words, and what to say of those that are not there."""

import json

import datasets
import pytest
from PIL import Image

from llava_mistral.commands.prune import main
from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.columns import parse_columns
from llava_mistral.data.conversations import read_rows
from llava_mistral.data.sources import undecoded
from llava_mistral.ground.bad_input import BadInput
from tests.support.running import run_here

PICTURE = Image.new("RGB", (6, 4), "red")
MAPPED = "question=q,choices=options,answer=label,image=img,skill=ability"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def quiz(tmp_path):
    """12 questions with choices, two of three with a picture, under names that are not ours."""
    rows = [
        {"q": f"Which colour is shown in {i}?", "options": ["red", "blue"], "label": i % 2, "answer": "in the way"}
        | {"img": PICTURE if i % 3 else None, "ability": f"s{i % 2}"}
        for i in range(12)
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "quiz")
    return tmp_path / "quiz"


def test_named_columns_become_rows(quiz):
    rows = read_rows(quiz, columns=MAPPED)
    assert rows.column_names[:4] == ["id", "images", "prompt", "completion"]
    assert rows[1]["prompt"][0]["content"].startswith("Which colour is shown in 1?\nA. red\nB. blue\n")
    assert (rows[1]["completion"][0]["content"], rows["skill"][:2]) == ("B", ["s0", "s1"])
    assert [len(images) for images in rows["images"][:3]] == [0, 1, 1]
    assert rows[1]["images"][0].getpixel((0, 0)) == (255, 0, 0)


def test_questions_in_words_need_no_choices(tmp_path):
    rows = [{"ask": "What is it?", "say": "A square.", "image": PICTURE}, {"ask": "1 + 1?", "say": "2", "image": None}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "set" / "train.parquet")
    read = read_rows(tmp_path / "set", columns={"question": "ask", "answer": "say"})
    assert read["id"] == ["0", "1"] and read[0]["completion"][0]["content"] == "A square."
    assert [len(images) for images in read["images"]] == [1, 0]


def test_an_empty_answer_in_words_is_named_or_skipped(tmp_path):
    rows = [{"question": "What is it?", "answer": said} for said in ("A square.", "  ", "A circle.")]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    with pytest.raises(BadInput, match="set: record 1: field answer: is empty or is not text"):
        read_rows(tmp_path / "set")
    bad = BadSamples("skip", 0.4)
    assert read_rows(tmp_path / "set", bad=bad)["id"] == ["0", "2"] and bad.listed[0]["record"] == "1"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("question=query", "there is no column 'query'; use one of q, options, label, answer, img, ability"),
        ("question=q,answer=q", "the column 'q' stands for two things"),
        ("query=q", "'query' is unknown; use question, choices"),
        ("question", "'question' is not of the form name=column; write question=their_column"),
        ("question=q,question=label", "names one thing twice"),
    ],
)
def test_columns_that_cannot_be_are_one_line(quiz, tmp_path, columns, said):
    given = ("--dataset", quiz, "--method", "full", "--output", tmp_path / "out", "--columns", columns)
    done = run_here(main, *given, code=2)
    assert "field columns: " in done.stderr and said in done.stderr and not (tmp_path / "out").exists()


def test_a_key_that_no_record_of_a_json_file_has_is_refused(rows_file):
    with pytest.raises(BadInput, match="field columns: there is no column 'q'"):
        read_rows(rows_file, columns="question=q")
    assert parse_columns(None) == {} and parse_columns(" question = q , ") == {"question": "q"}


@pytest.mark.parametrize("method", ["principles", "random", "full", "farthest"])
def test_a_set_with_columns_of_its_own_is_pruned_by_every_method(quiz, tmp_path, method):
    import numpy as np

    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    sized = () if method == "full" else ("--size", 4)
    vectors = ("--embeddings", tmp_path / "vectors.npy") if method == "farthest" else ()
    given = ("--dataset", quiz, "--columns", MAPPED, "--method", method, *sized, *vectors)
    run_here(main, *given, "--output", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["size"] == (12 if method == "full" else 4) and told["coverage"]["skill"][2] == 2
    assert sum(told["counts"].values()) == 12


@pytest.mark.parametrize("choose", ["whole", "answers"])
@pytest.mark.parametrize("method", ["principles", "random", "full", "farthest"])
def test_conversations_with_and_without_pictures_are_pruned_and_what_is_lacking_is_said(tmp_path, method, choose):
    """As in the 665k mix: several answers, text-only records, one picture asked about twice."""
    import numpy as np

    (tmp_path / "images").mkdir()
    PICTURE.save(tmp_path / "images" / "a.png")
    ask, tell = {"from": "human", "value": "<image>\nWhat is shown?"}, {"from": "gpt", "value": "Red."}
    more = [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]
    records = [{"id": "a", "image": "a.png", "conversations": [ask, tell, *(more if i else [])]} for i in range(2)]
    records.append({"id": "text", "conversations": [ask | {"value": "What is 1 + 1?"}, tell | {"value": "2"}]})
    (tmp_path / "mix.json").write_text(json.dumps(records))
    samples = {"a", "a~2", "text"} | ({"a~2#2"} if choose == "answers" else set())
    np.save(tmp_path / "vectors.npy", np.eye(len(samples), dtype=np.float32))
    sized = () if method == "full" else ("--size", 2)
    vectors = ("--embeddings", tmp_path / "vectors.npy") if method == "farthest" else ()
    given = ("--dataset", tmp_path / "mix.json", "--method", method, "--choose", choose, *sized, *vectors)
    done = run_here(main, *given, "--output", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(told["kept"]) | set(told["dropped"]) == samples
    assert (told["input"]["conversations"], told["input"]["answers"]) == (3, 4)
    assert ("not judged by coverage" in done.stdout) == (method == "principles")


def test_pruning_skips_a_bad_picture_lists_it_and_verifies(quiz, tmp_path):
    table = datasets.load_from_disk(quiz)
    rows = list(table.cast_column("img", datasets.Image(decode=False)))
    rows[1]["img"]["bytes"] = rows[1]["img"]["bytes"][:50]
    broken = datasets.Dataset.from_list(rows, features=table.features)
    broken.save_to_disk(tmp_path / "broken")
    out = tmp_path / "out"
    given = ("--dataset", tmp_path / "broken", "--columns", MAPPED, "--method", "full", "--output", out)
    assert "record train-1: field image: " in run_here(main, *given, code=2).stderr and not out.exists()
    done = run_here(main, *given, "--on_bad_sample", "skip", "--max_bad_samples", 0.1)
    assert "left out 1 bad samples, see skipped.json" in done.stdout
    told = json.loads((out / "manifest.json").read_text())
    assert (told["input"]["rows"], told["input"]["skipped"], "skipped.json" in told["files"]) == (11, 1, True)
    assert "byte for byte" in run_here(main, "--verify", out).stdout


def test_a_tables_pictures_are_not_decoded_to_read_its_rows(quiz, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a picture was opened")

    monkeypatch.setattr("PIL.Image.open", refuse)
    assert len(undecoded(read_rows(quiz, columns=MAPPED))[1]["images"][0]["bytes"]) > 0


def test_a_tables_path_is_one_below_its_folder(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(name: str) -> None:
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = {"question": ["Which?"], "answer": ["Red."], "image": pa.array([{"bytes": None, "path": name}], kind)}
        schema = pa.schema([("question", pa.string()), ("answer", pa.string()), ("image", kind)])
        features = datasets.Features(
            {"question": datasets.Value("string"), "answer": datasets.Value("string"), "image": datasets.Image()}
        )
        schema = schema.with_metadata(features.arrow_schema.metadata)
        pq.write_table(pa.table(table, schema=schema), tmp_path / "set" / "train.parquet")

    (tmp_path / "set").mkdir()
    PICTURE.save(tmp_path / "set" / "in.png")
    PICTURE.save(tmp_path / "out.png")
    write("in.png")
    assert read_rows(tmp_path / "set")[0]["images"][0].size == (6, 4)
    write("../out.png")
    with pytest.raises(BadInput, match="record 0: field image: .* is outside of"):
        read_rows(tmp_path / "set")


def test_evaluation_reads_columns_configurations_and_folders_as_training_does(tmp_path):
    from llava_mistral.commands.evaluate import main

    folder = tmp_path / "set"
    (tmp_path / "far").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "far" / "a.png")
    for name, right in (("red", "a"), ("blue", "b")):
        (folder / name).mkdir(parents=True)
        row = f'1,a.png,Which?,"[""a"", ""b""]",{right}'
        (folder / name / "test.csv").write_text(f"id,img,ask,options,said\n{row}\n")
    configs = [
        {"config_name": name, "data_files": [{"split": "test", "path": f"{name}/test.csv"}]}
        for name in ("red", "blue")
    ]
    (folder / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")
    (tmp_path / "predictions.json").write_text('{"results": {"1": 1}}')
    given = ("--dataset", folder, "--predictions", tmp_path / "predictions.json", "--dataset_config", "blue")
    given += ("--split", "test", "--columns", "image=img,question=ask,choices=options,answer=said")
    run_here(main, *given, "--image_folder", tmp_path / "far", "--output", tmp_path / "out")
    columns = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (columns["ALL"]["correct"], columns["IMG"]["n"]) == (1, 1)
    assert "a.png does not exist" in run_here(main, *given, code=2).stderr
