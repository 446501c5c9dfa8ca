"""Every form x every entrance: random samples, written in each form, come back the same wherever they are read."""

import json
import random

import pytest

from llava_mistral.data.conversations import read_rows
from llava_mistral.data.problem import question_text
from llava_mistral.evaluation.asking import pictures_of
from llava_mistral.evaluation.questions import read_questions
from llava_mistral.ground.bad_input import BadInput
from tests.support.data_forms import (
    CONVERSATIONS,
    LETTERS,
    WORDED,
    answered,
    pixels,
    plain,
    plain_samples,
    pruned,
    random_picture,
    random_samples,
    random_text,
    rows_as_read,
    trained,
    written,
)
from tests.support.question_forms import cqm, problem_sources, questions, sources_of_several


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("form", [*CONVERSATIONS, *WORDED])
@pytest.mark.parametrize("seed", range(2))
def test_samples_are_the_same_in_every_form_and_at_every_entrance(tmp_path, form, seed):
    rng = random.Random(f"{form} {seed}")
    samples = random_samples(rng) if form in CONVERSATIONS else plain_samples(rng)
    path = {**CONVERSATIONS, **WORDED}[form](samples, tmp_path / "data")
    expected = [sample.read() for sample in samples]
    assert rows_as_read(read_rows(path)) == expected
    assert rows_as_read(read_rows(path)) == expected  # from the cache
    assert trained(path) == expected
    assert answered(path) == [one for sample in samples for one in sample.answers()]
    out = pruned(path, tmp_path / "pruned")
    assert sorted(rows_as_read(read_rows(out))) == sorted(expected)
    assert rows_as_read(read_rows(out / "llava.json")) == rows_as_read(read_rows(out))
    counts = json.loads((out / "manifest.json").read_text())["input"]
    assert counts["pictures"] == sum(len(sample.pictures) for sample in samples)
    assert counts["rows_without_picture"] == sum(not sample.pictures for sample in samples)


@pytest.mark.parametrize("seed", range(2))
def test_questions_with_choices_are_the_same_in_every_form_and_at_every_entrance(tmp_path, seed):
    from llava_mistral.ground.pictures import open_picture

    rng = random.Random(seed)
    records = [own | {"right": rng.randrange(len(own["choices"]))} for own in questions(rng)]
    seen = {}
    for form, path in problem_sources(records, tmp_path).items():
        rows = read_rows(path)
        (out,) = [pruned(path, tmp_path / f"pruned {form}")]
        seen[form] = rows_as_read(rows)
        assert trained(path) == seen[form]
        assert sorted(rows_as_read(read_rows(out))) == sorted(seen[form])
        assert rows_as_read(read_rows(out / "llava.json")) == rows_as_read(read_rows(out))
        for source in (path, out, out / "llava.json"):  # a pruned set is evaluated, too
            problems = {problem.pid: problem for problem in read_questions(source)[0]}
            for name, prompt, completion, pictures in seen[form]:
                problem = problems[name]
                assert prompt == (("user", question_text(problem)),)
                assert completion == (("assistant", LETTERS[problem.answer]),)
                shown = (pixels(open_picture(problem.image)),) if problem.has_image else ()
                assert shown == pictures
    first = seen["ScienceQA folder"]
    assert {form for form, rows in seen.items() if rows != first} == set()
    assert [len(row[3]) for row in first] == [int(own["picture"] is not None) for own in records]


@pytest.mark.parametrize("seed", range(2))
def test_the_questions_of_llavas_cqm_file_are_the_same_at_every_entrance(tmp_path, seed):
    rng = random.Random(f"CQM-A {seed}")
    records = [own | {"right": rng.randrange(len(own["choices"]))} for own in questions(rng)]
    path = cqm(records, tmp_path / "data")
    folder = tmp_path / "data" / "images" / "train"
    rows = rows_as_read(read_rows(path, image_folder=folder))
    assert trained(path, image_folder=str(folder)) == rows
    out = pruned(path, tmp_path / "out", "--image_folder", folder)
    assert sorted(rows_as_read(read_rows(out))) == sorted(rows)
    assert rows_as_read(read_rows(out / "llava.json")) == rows_as_read(read_rows(out))
    asked, _ = read_questions(path)
    again = {problem.pid: problem for problem in read_questions(out / "llava.json")[0]}
    assert all(question_text(problem) == question_text(again[problem.pid]) for problem in asked)
    for own, problem, (name, prompt, completion, pictures) in zip(records, asked, rows, strict=True):
        assert (problem.pid, problem.choices, problem.answer) == (own["id"], tuple(own["choices"]), own["right"])
        assert (problem.question, problem.hint) == (own["question"].strip(), own["hint"].strip())
        assert (name, prompt) == (own["id"], (("user", question_text(problem, "")),))
        assert completion == (("assistant", LETTERS[own["right"]]),)
        assert pictures == tuple(map(pixels, pictures_of(problem, "real")))
        assert pictures == ((pixels(own["picture"]),) if own["picture"] else ())


@pytest.mark.parametrize("seed", range(2))
def test_questions_about_several_pictures_are_the_same_in_every_form_and_at_every_entrance(tmp_path, seed):
    rng, records = random.Random(f"several {seed}"), []
    for own in questions(rng):
        pictures = [random_picture(rng) for _ in range(rng.choice([0, 1, 2, 3]))]
        amid = "".join(f"{random_text(rng, 2)} <image> " for _ in pictures) if rng.random() < 0.5 else ""
        right = rng.randrange(len(own["choices"]))
        records.append(own | {"question": amid + own["question"], "pictures": pictures, "answer": right})
    seen = {}
    for form, path in sources_of_several(records, tmp_path).items():
        seen[form] = rows_as_read(read_rows(path))
        assert trained(path) == seen[form]
        out = pruned(path, tmp_path / f"pruned {form}")
        assert sorted(rows_as_read(read_rows(out))) == sorted(seen[form])
        assert rows_as_read(read_rows(out / "llava.json")) == rows_as_read(read_rows(out))
        for source in (path, out, out / "llava.json"):
            asked = {problem.pid: problem for problem in read_questions(source)[0]}
            for name, ((_, said),), completion, pictures in seen[form]:
                assert plain(question_text(asked[name])) == plain(said)
                assert completion == (("assistant", LETTERS[asked[name].answer]),)
                assert tuple(map(pixels, pictures_of(asked[name], "real"))) == pictures
    for own, (name, ((_, said),), completion, pictures) in zip(records, seen["saved"], strict=True):
        assert (name, completion) == (own["id"], (("assistant", LETTERS[own["answer"]]),))
        assert plain(own["question"]) == plain(said)[: len(plain(own["question"]))]
        assert said.count("<image>") == own["question"].count("<image>")
        assert pictures == tuple(map(pixels, own["pictures"]))
    assert {form for form, rows in seen.items() if rows != seen["saved"]} == set()


def test_the_same_rows_give_the_same_loss_in_every_form(stage0, tmp_path):
    from tests.support.training_runs import losses, train

    samples, seen = random_samples(random.Random("loss"), 8), {}
    for form in ("LLaVA JSON", "JSON lines of TRL's", "messages of parts, saved", "TRL's, parquet"):
        path = CONVERSATIONS[form](samples, tmp_path / form)
        for name, source in (("", path), (", pruned", pruned(path, tmp_path / form / "pruned") / "llava.json")):
            out = tmp_path / form / f"out{name}"
            train("finetune", stage0, source, out, max_steps=1, per_device_train_batch_size=8)
            seen[form + name] = losses(out)
            data = json.loads((out / "run.json").read_text())["data"]
            assert data["pictures"] == sum(len(sample.pictures) for sample in samples)
            assert data["rows_without_picture"] == sum(not sample.pictures for sample in samples)
    assert {form for form, loss in seen.items() if loss != seen["LLaVA JSON"]} == set(), seen


def test_one_configuration_of_several_is_read_by_its_name(tmp_path):
    folder = tmp_path / "set"
    for name in ("red", "blue"):
        (folder / name).mkdir(parents=True)
        (folder / name / "train.csv").write_text(f"id,question,answer\n1,what?,{name}\n")
    configs = [{"config_name": name, "data_files": f"{name}/train.csv"} for name in ("red", "blue")]
    (folder / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")
    for name in ("red", "blue"):
        assert read_rows(folder, dataset_config=name)[0]["completion"][0]["content"] == name
    with pytest.raises(BadInput, match="field dataset_config: .*red.*blue.*--dataset_config"):
        read_rows(folder)


def test_a_set_on_the_hub_is_read_by_configuration_and_split_at_every_entrance(tmp_path):
    """In a process of its own, whose Hub is a local one."""
    from llava_mistral.local_hub import LocalHub
    from tests.support.running import run_apart

    rng = random.Random("hub")
    for name in ("red", "blue"):
        for split in ("train", "test"):
            path = WORDED["question and answer, parquet"](plain_samples(rng, 3), tmp_path / name / split)
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            (path / "train.parquet").rename(tmp_path / "set" / name / f"{split}.parquet")
    files = {
        name: [{"split": s, "path": f"{name}/{s}.parquet"} for s in ("train", "test")] for name in ("red", "blue")
    }
    configs = [{"config_name": name, "data_files": own} for name, own in files.items()]
    written(tmp_path / "lines" / "lines.jsonl", '{"question": "When?", "answer": "2020-01-01"}\n')
    (tmp_path / "set" / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")
    read = """if True:
        import sys, json
        from pathlib import Path
        from huggingface_hub import HfApi
        from llava_mistral.data.conversations import read_rows
        from llava_mistral.ground.bad_input import BadInput
        from tests.support.data_forms import answered, plain, pruned, rows_as_read, trained
        for name in ("set", "lines"):
            HfApi().create_repo(f"owner/{name}", repo_type="dataset")
            HfApi().upload_folder(repo_id=f"owner/{name}", repo_type="dataset", folder_path=f"{sys.argv[1]}/{name}")
        for config in ("red", "blue"):
            for split in ("train", "test"):
                told = dict(dataset_config=config, split=split)
                here = rows_as_read(read_rows(Path(sys.argv[1], "set"), **told))
                assert trained(Path("owner/set"), dataset_config=config, dataset_split=split) == here
                there = [(row[2][0][1], row[3], plain(row[1][0][1])) for row in here]
                assert answered(Path("owner/set"), **told) == there
                flags = ("--dataset_config", config, "--split", split)
                out = pruned("owner/set", Path(sys.argv[1], config + split), *flags)
                assert sorted(rows_as_read(read_rows(out))) == sorted(here)
        (row,) = read_rows("owner/lines")
        assert row["completion"][0]["content"] == "2020-01-01"
        for wrong in ({"dataset_config": "green"}, {}, {"dataset_config": "red", "split": "tset"}):
            try:
                read_rows("owner/set", **wrong)
            except BadInput as error:
                print(error)
        """
    token = "hf_" + "T" * 34
    with LocalHub(tmp_path / "hub", token=token) as hub:
        environment = hub.environment(tmp_path / "user") | {"HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
        said = run_apart("-c", read, tmp_path, **environment).stdout.splitlines()[-3:]
    assert ["field dataset_config" in line and "red" in line and "blue" in line for line in said[:2]] == [True, True]
    assert "field split: has no split 'tset'; use one of train, test" in said[2]
