"""Sizes as people say them, conversations as what is chosen, and every fault of a data set before hours are spent."""

import json

import pytest
from PIL import Image

from llava_mistral.commands.prune import main
from llava_mistral.pruning.recipe import PruneRecipe, size_of
from tests.support.running import run_here
from tests.support.small_problems import save_problems

COUNTS = {"1000": 1000, "1,000": 1000, "1_000": 1000, "1e3": 1000, "1k": 1000, "1.5k": 1500, "2.0": 2, " 7 ": 7}
SHARES = {"10%": 0.1, "0.1": 0.1, "1e-1": 0.1, "12.5 %": 0.125, ".5": 0.5, "100%": 1.0}
NONE = ["0", "-5", "0%", "150%", "1.0", "1.5", "0,1", "nan", "inf", "1e999", "", "%", "ten", "1e3%", "0x10"]


@pytest.mark.parametrize("text", [*COUNTS, *SHARES])
def test_a_size_is_a_number_or_a_share(text):
    size = size_of(text)
    assert size == {**COUNTS, **SHARES}[text] and isinstance(size, int if text in COUNTS else float)


@pytest.mark.parametrize("text", NONE)
def test_what_is_neither_is_refused(text):
    with pytest.raises(ValueError, match=r"^is (not|neither|below)"):
        size_of(text)


@pytest.mark.parametrize(("samples", "kept"), [(24, 6), (10, 3), (2, 1)])
def test_a_share_is_rounded_to_the_nearest(samples, kept):
    assert PruneRecipe("rows", "random", 0.25).count(samples) == kept


def test_a_share_is_of_all_samples_and_verifies(tmp_path):
    data, out = save_problems(tmp_path / "data"), tmp_path / "out"
    said = run_here(main, "--dataset", data, "--method", "random", "--size", "25%", "--output", out).stdout
    assert "kept 6 of 24" in said
    assert json.loads((out / "manifest.json").read_text())["recipe"]["size"] == 0.25
    assert "byte for byte" in run_here(main, "--verify", out).stdout
    few = ("--dataset", data, "--method", "random", "--size", "1%", "--output", tmp_path / "few")
    assert "1 % of 24 samples is less than one sample; give a larger share" in run_here(main, *few, code=2).error


@pytest.mark.parametrize("method", ["principles", "random", "farthest"])
def test_an_impossible_size_is_refused_before_a_picture_is_opened(tmp_path, method):
    data = save_problems(tmp_path / "data")
    for picture in (data / "images").rglob("*.png"):
        picture.write_bytes(b"no picture")
    vectors = ("--embeddings", data / "vectors.npy") if method == "farthest" else ()
    given = ("--dataset", data, "--method", method, *vectors, "--output", tmp_path / "out", "--size")
    assert "25 samples cannot be picked" in run_here(main, *given, 25, code=2).error.replace(" of 24", "")
    assert "field image" in run_here(main, *given, 5, code=2).error


def save_talks(folder, talks: int = 6, turns: int = 3):
    """Conversations of several answers, about one picture each."""
    (folder / "images").mkdir(parents=True)
    records = []
    for talk in range(talks):
        Image.new("RGB", (9, 9), (40 * talk, 0, 0)).save(folder / f"images/{talk}.png")
        said = []
        for turn in range(turns):
            said += [
                {"from": "human", "value": "<image>\n" * (not turn) + f"What is shown in place {turn} of {talk}?"}
            ]
            said += [{"from": "gpt", "value": f"Thing {turn * talk}."}]
        records.append({"id": f"talk{talk}", "image": f"{talk}.png", "conversations": said})
    (folder / "talks.json").write_text(json.dumps(records))
    return folder / "talks.json", records


def test_conversations_are_chosen_whole_and_both_counts_are_said(tmp_path):
    from datasets import load_dataset

    data, records = save_talks(tmp_path / "data")
    out = tmp_path / "out"
    given = ("--dataset", data, "--method", "principles", "--size", 2, "--llava_json")
    said = run_here(main, *given, "--output", out).stdout
    assert "kept 2 of 6 conversations, 6 of 18 answers" in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["kept_conversations"], manifest["kept_answers"], manifest["input"]["answers"]) == (2, 6, 18)
    written = json.loads((out / "llava.json").read_text())
    by_id = {record["id"]: record["conversations"] for record in records}
    assert {record["id"]: record["conversations"] for record in written} == {
        pid: by_id[pid] for pid in manifest["kept"]
    }
    assert load_dataset(str(out), split="train")["id"] == manifest["kept"]
    assert "byte for byte" in run_here(main, "--verify", out).stdout
    again = ("--dataset", out, "--method", "full", "--output", tmp_path / "again")
    assert "kept 2 of 2 conversations, 6 of 6 answers" in run_here(main, *again).stdout


def test_single_answers_are_chosen_when_asked_for_and_only_they_are_learned(tmp_path):
    data, _ = save_talks(tmp_path / "data")
    out = tmp_path / "out"
    given = ("--dataset", data, "--method", "random", "--size", 5, "--choose", "answers", "--llava_json")
    said = run_here(main, *given, "--output", out).stdout
    manifest = json.loads((out / "manifest.json").read_text())
    conversations = len({name.split("#")[0] for name in manifest["kept"]})
    assert f"kept {conversations} of 6 conversations, 5 of 18 answers" in said and len(manifest["kept"]) == 5
    turns = [turn for one in json.loads((out / "llava.json").read_text()) for turn in one["conversations"]]
    learned = [turn for turn in turns if turn["from"] == "gpt" and turn.get("loss") is not False]
    assert len(learned) == 5


def test_records_that_only_look_numbered_stay_apart(tmp_path):
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]
    names = ("page", "page#2", "page#3")
    (tmp_path / "pages.json").write_text(json.dumps([{"id": name, "conversations": said} for name in names]))
    given = ("--dataset", tmp_path / "pages.json", "--method", "full", "--output", tmp_path / "out")
    assert "kept 3 of 3" in run_here(main, *given).stdout


def test_a_dry_run_lists_every_fault_by_kind_and_writes_nothing(tmp_path):
    data, records = save_talks(tmp_path / "data", talks=8, turns=1)
    for name in ("1.png", "4.png"):
        (data.parent / "images" / name).write_bytes(b"no picture")
    records[2]["conversations"][1]["value"] = ""
    records[3]["conversations"][0]["value"] = "No token, though there is a picture."
    records[5]["image"] = "absent.png"
    data.write_text(json.dumps(records))
    before = sorted(tmp_path.rglob("*"))
    lines = run_here(main, "--dataset", data, "--dry_run", code=1).stdout.splitlines()
    assert lines[0] == f"{data}: 3 samples can be used, 3 with a picture"
    assert lines[1] == f"{data}: 5 faults of 4 kinds"
    assert "       2  field image: " in lines[2] and lines[2].endswith("(records talk1, talk4)")
    assert {line.rpartition("(")[2] for line in lines[3:]} == {"records 2)", "records 3)", "records 5)"}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_good_data_says_so_and_judges_the_size(tmp_path):
    data = save_problems(tmp_path / "data")
    assert "24 samples can be used, 16 with a picture" in run_here(main, "--dataset", data, "--dry_run").stdout
    given = ("--dataset", data, "--dry_run", "--method", "random", "--size", 25)
    assert "field size: 25 of 24 samples" in run_here(main, *given, code=1).stdout
    assert "no such file" in run_here(main, "--dataset", tmp_path / "nowhere", "--dry_run", code=1).stdout


def test_a_dry_run_finds_problems_without_an_answer(tmp_path):
    def unanswered(problems):
        problems["3"]["answer"] = problems["5"]["answer"] = None

    data = save_problems(tmp_path / "data", change=unanswered)
    lines = run_here(main, "--dataset", data, "--dry_run", code=1).stdout.splitlines()
    assert lines[1:] == [f"{data}: 2 faults of 1 kind", f"  {2:>8}  field answer: has no answer (records 3, 5)"]


def test_two_rows_of_one_id_are_refused(tmp_path):
    from datasets import Dataset

    turns = {"prompt": [[{"role": "user", "content": "Hm?"}]] * 2}
    turns["completion"] = [[{"role": "assistant", "content": "Yes."}]] * 2
    (tmp_path / "set").mkdir()
    Dataset.from_dict({"id": ["a", "a"], "images": [[], []], **turns}).to_parquet(tmp_path / "set/train.parquet")
    done = run_here(main, "--dataset", tmp_path / "set", "--method", "full", "--output", tmp_path / "out", code=2)
    assert "record 1: field id: occurs twice" in done.stderr
