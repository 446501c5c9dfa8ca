"""Every form x every entrance: random samples, written in each form, come back the same wherever they are read."""

import io
import json
import random
import re
import tarfile
from pathlib import Path

import pytest

from llava_mistral.data.conversations import read_rows
from llava_mistral.ground.bad_input import BadInput
from tests.support.data_forms import (
    CONVERSATIONS,
    LETTERS,
    WORDED,
    answered,
    pixels,
    plain_samples,
    pruned,
    random_picture,
    random_samples,
    random_text,
    rows_as_read,
    trained,
    written,
)
from tests.support.running import HOME


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


def questions(rng: random.Random, count: int = 8) -> list[dict]:
    return [
        {"question": f"{random_text(rng)}?", "choices": [f"{i} {random_text(rng)}" for i in range(rng.randint(2, 5))]}
        | {"picture": random_picture(rng) if rng.random() < 0.7 else None, "id": f"{number + 1}", "hint": ""}
        for number in range(count)
    ]


def problem_sources(records: list[dict], folder: Path) -> dict[str, Path]:
    """The same questions as a ScienceQA folder, tables with index, label, letter and text for an answer, and a CSV."""
    import csv

    from datasets import ClassLabel, Dataset, Image

    problems = {}
    for record in records:
        fields = {key: record[key] for key in ("question", "choices", "hint")}
        problems[record["id"]] = fields | {"answer": record["right"], "split": "train", "image": None}
        if record["picture"]:
            place = folder / "scienceqa" / "images" / "train" / record["id"]
            place.mkdir(parents=True)
            (place / "image.png").write_bytes(record["picture"])
            problems[record["id"]]["image"] = "image.png"
    (folder / "scienceqa").mkdir(exist_ok=True)
    (folder / "scienceqa" / "problems.json").write_text(json.dumps(problems))
    found = {"ScienceQA folder": folder / "scienceqa"}
    for kind, answer in {
        "index": lambda own: own["right"],
        "letter": lambda own: LETTERS[own["right"]],
        "text": lambda own: own["choices"][own["right"]],
        "label": lambda own: own["right"],
    }.items():
        rows = [{key: own[key] for key in ("id", "question", "choices", "hint")} for own in records]
        rows = [row | {"answer": answer(own)} for row, own in zip(rows, records, strict=True)]
        pictures = [own["picture"] and {"bytes": own["picture"], "path": None} for own in records]
        table = Dataset.from_list([row | {"image": cell} for row, cell in zip(rows, pictures, strict=True)])
        table = table.cast_column("image", Image())
        if kind == "label":
            table = table.cast_column("answer", ClassLabel(names=list(LETTERS[:5])))
        table.save_to_disk(folder / kind)
        found[f"table, answer by {kind}"] = folder / kind
    (folder / "csv").mkdir()
    with (folder / "csv" / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "question", "choices", "hint", "answer"])
        for own in records:
            name = f"{own['id']}.png" if own["picture"] else None
            if name:
                (folder / "csv" / name).write_bytes(own["picture"])
            writer.writerow([own["id"], name, own["question"], json.dumps(own["choices"]), "", own["right"]])
    return found | {"CSV": folder / "csv"}


@pytest.mark.parametrize("seed", range(2))
def test_questions_with_choices_are_the_same_in_every_form_and_at_every_entrance(tmp_path, seed):
    from llava_mistral.data.scienceqa import question_text, read_problems
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
        for source in (path, out):  # a pruned set is evaluated, too
            problems = {problem.pid: problem for problem in read_problems(source, split="train")}
            for name, prompt, completion, pictures in seen[form]:
                problem = problems[name]
                assert prompt == (("user", question_text(problem)),)
                assert completion == (("assistant", LETTERS[problem.answer]),)
                shown = (pixels(open_picture(problem.image)),) if problem.has_image else ()
                assert shown == pictures
    first = seen["ScienceQA folder"]
    assert {form for form, rows in seen.items() if rows != first} == set()
    assert [len(row[3]) for row in first] == [int(own["picture"] is not None) for own in records]


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


def put_example(file: Path, record: str) -> None:
    """Write an example of docs/data.md: JSON as it is, other files by what their names say."""
    from datasets import Dataset

    if file.suffix in (".json", ".jsonl"):
        written(file, record + "\n")
    elif file.suffix == ".csv":
        Dataset.from_list([json.loads(record)]).to_csv(str(file))
    elif file.suffix == ".parquet":
        Dataset.from_list([json.loads(record)]).to_parquet(str(file))
    elif file.suffix == ".tar":
        file.parent.mkdir()
        with tarfile.open(file, "w") as tar:
            for name, content in json.loads(record).items():
                data = (Path("images") / content).read_bytes() if content.endswith(".png") else content.encode()
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        Dataset.from_list([json.loads(record)]).save_to_disk(str(file))


def test_the_examples_of_docs_data_are_read(tmp_path, monkeypatch):
    page = (HOME / "docs" / "data.md").read_text(encoding="utf-8")
    examples = re.findall(r"### (.+)\n```text\n(\S+) +(.+)\n(--dataset .+)\n```", page)
    assert [name for name, *_ in examples] == re.findall(r"^\| \[(.+?)\]", page, re.MULTILINE) and len(examples) > 12
    for name, file, record, flags in examples:
        place = tmp_path / name
        for picture in ("images/a.png", "images/b.png", "set/a.png", "pruned/images/000000-0.png"):
            (place / picture).parent.mkdir(parents=True, exist_ok=True)
            (place / picture).write_bytes(random_picture(random.Random(picture)))
        monkeypatch.chdir(place)
        put_example(Path(file), record)
        given = dict(re.findall(r"--(\w+) (\S+)", flags))
        (row,) = read_rows(given.pop("dataset"), split=given.pop("dataset_split", None), **given)
        assert len(row["images"]) == len(set(re.findall(r"[a-z0-9-]+\.png(?=\")", record)) - {"1.png"}), name
        assert row["completion"][0]["content"], name
