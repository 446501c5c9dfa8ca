"""The verb init: a recipe for the data and the machine at hand, which trains as it is written."""

import json
import shutil

import pytest
import yaml

from llava_mistral.commands import init, train
from llava_mistral.data.column_guesses import guess_columns
from tests.support.running import run_here


@pytest.fixture
def table(rows_file, tmp_path):
    """The eight captioned pictures and as many more as a table with columns of its own, beside their folder."""
    shutil.copytree(rows_file.parent / "images", tmp_path / "photos")
    lines = [f'{index % 8}.png,"Which digit, take {index}?",It is {index % 8}.' for index in range(16)]
    (tmp_path / "data.csv").write_text("\n".join(["shot,ask,reply", *lines]) + "\n")
    return tmp_path / "data.csv"


def test_the_recipe_trains_as_it_is(table, stage0, monkeypatch):
    monkeypatch.chdir(table.parent)
    done = run_here(init.main, "data.csv", "--model", stage0)
    assert done.stdout.rstrip().endswith("llava-mistral train --config recipe.yaml")
    recipe = yaml.safe_load((table.parent / "recipe.yaml").read_text())
    assert recipe["columns"] == "question=ask,answer=reply,image=shot" and recipe["image_folder"] == "photos"
    assert recipe["held_out"] == 0.02 and recipe["sample_answers"] == 4
    assert recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"] == 16

    said = run_here(train.main, "--config", "recipe.yaml").stdout
    assert "2 rows held out, 14 to train on" in said  # both are about one picture
    run = json.loads((table.parent / "tuned" / "run.json").read_text())
    assert run["data"]["rows"] == 14 and run["steps"] == 3 and len(run["eval_curve"]) == 3
    pages = sorted(path.name for path in (table.parent / "tuned" / "samples").glob("*.html"))
    assert pages == ["step-1.html", "step-2.html", "step-3.html"]


def test_llava_json_needs_no_columns(rows_file, stage0, tmp_path):
    run_here(init.main, rows_file, "--model", stage0, "--output", tmp_path / "r.yaml", "--output_dir", tmp_path / "t")
    recipe = yaml.safe_load((tmp_path / "r.yaml").read_text())
    assert not {"columns", "image_folder"} & recipe.keys()
    assert recipe["held_out"] == 0 and "eval_strategy" not in recipe  # eight rows are too few to spare one


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"question": "?", "answer": "!", "image": "a.png"}, {}),
        ({"question": "?", "answer": "!", "photo": "a.png"}, {"image": "photo"}),
        ({"Query": "?", "Response": "!"}, {"question": "Query", "answer": "Response"}),
        ({"caption": "!", "image": "a.png"}, {"answer": "caption"}),
        ({"caption": "!", "text": "!", "image": "a.png"}, {}),
        ({"question": "?", "answer": "!", "left": "a.png", "right": "b.png"}, {}),
        ({"messages": [], "file": "a.png", "text": "x"}, {"image": "file"}),
    ],
)
def test_columns_are_guessed_where_one_can_be_meant(record, columns):
    assert guess_columns(record) == columns


@pytest.mark.parametrize(
    ("header", "said"),
    [("shot,caption,text", "not plain which is what"), ("one,two,three", "not plain which is what")],
)
def test_what_is_not_plain_is_asked(table, stage0, header, said):
    table.write_text(table.read_text().replace("shot,ask,reply", header))
    done = run_here(init.main, table, "--model", stage0, "--output", table.parent / "recipe.yaml", code=2)
    assert said in done.stderr and "--columns" in done.stderr
    assert not (table.parent / "recipe.yaml").exists()


def test_a_recipe_that_is_there_is_kept(table, stage0):
    (table.parent / "recipe.yaml").write_text("mine")
    done = run_here(init.main, table, "--model", stage0, "--output", table.parent / "recipe.yaml", code=2)
    assert "is there already" in done.error and (table.parent / "recipe.yaml").read_text() == "mine"
