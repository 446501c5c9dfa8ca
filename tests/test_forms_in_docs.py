"""The examples of docs/data.md are read, and its table says which command reads which form."""

import io
import json
import random
import re
import tarfile
from pathlib import Path

import pytest

from llava_mistral.data.conversations import read_rows
from llava_mistral.evaluation.questions import Question, read_questions
from llava_mistral.ground.bad_input import BadInput
from tests.support.data_forms import pruned, random_picture, rows_as_read, trained, written
from tests.support.running import HOME

PAGE = (HOME / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"### (.+)\n```text\n(\S+) +(.+)\n(--dataset .+)\n```", PAGE)
REFUSED = {  # forms that are not read: file, its text, what is said
    "Preference pairs": (
        "data.jsonl",
        '{"prompt": "q", "chosen": "a", "rejected": "b"}',
        "has no question and answer",
    ),
    "Plain text": ("data.jsonl", '{"text": "A bird."}', "has no question and answer"),
    "JSON lists in an object": ("data.json", '{"data": [{"question": "q", "answer": "a"}]}', "'data' is not a number"),
    "Archives": ("set/train.jsonl.gz", "", "holds the archive train.jsonl.gz"),
    "Films": ("data.jsonl", '{"question": "q", "answer": "a", "videos": ["a.mp4"]}', "videos: holds content"),
}


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


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def entrances(path: Path, split: str | None, flags: dict[str, str]) -> list[str]:
    """How train, prune and evaluate read a source of one sample."""
    (row,) = rows_as_read(read_rows(path, split=split, **flags))
    assert trained(path, dataset_split=split, **flags) == [row]
    given = flags | ({"split": split} if split else {})
    given = [part for name, value in given.items() for part in (f"--{name}", value)]
    out = pruned(path, Path("out"), *given)
    assert rows_as_read(read_rows(out)) == rows_as_read(read_rows(out / "llava.json")) == [row]
    ((question,), _) = read_questions(path, split=split, **flags)
    return ["read", "read", "in words" if isinstance(question, Question) else "by letters"]


def refusals(path: Path, said: str) -> list[str]:
    for read in (read_rows, trained, read_questions):
        with pytest.raises(BadInput, match=re.escape(said)):
            read(path)
    with pytest.raises(AssertionError, match="code=2"):
        pruned(path, Path("out"))
    return ["refused"] * 3


def test_the_examples_of_docs_data_are_read_as_its_table_says(tmp_path, monkeypatch):
    assert [name for name, *_ in EXAMPLES] == re.findall(r"^\| \[(.+?)\]", PAGE, re.MULTILINE)
    found = {}
    for name, file, record, flags in EXAMPLES:
        place = tmp_path / name
        for picture in ("images/a.png", "images/b.png", "set/a.png", "pruned/images/000000-0.png"):
            (place / picture).parent.mkdir(parents=True, exist_ok=True)
            (place / picture).write_bytes(random_picture(random.Random(picture)))
        monkeypatch.chdir(place)
        put_example(Path(file), record)
        given = dict(re.findall(r"--(\w+) (\S+)", flags))
        path, split = Path(given.pop("dataset")), given.pop("dataset_split", None)
        (row,) = read_rows(path, split=split, **given)
        assert len(row["images"]) == len(set(re.findall(r"[a-z0-9-]+\.png(?=\")", record)) - {"1.png"}), name
        assert row["completion"][0]["content"], name
        found[name] = entrances(path, split, given)
    for name, (file, text, said) in REFUSED.items():
        monkeypatch.chdir(written(tmp_path / name / file, text).parents[file.count("/")])
        found[name] = refusals(Path(file.partition("/")[0]), said)
    lines = ["| format | train | prune | evaluate |", "|---|---|---|---|"]
    lines += [f"| {' | '.join([name, *cells])} |" for name, cells in found.items()]
    assert "\n".join(lines) in PAGE, "\n".join(lines)
