"""The same random questions with choices in every form that is read."""

import csv
import json
import random
from pathlib import Path

from llava_mistral.data.problem import Problem, question_text
from tests.support.data_forms import LETTERS, random_picture, random_text, written


def questions(rng: random.Random, count: int = 8) -> list[dict]:
    return [
        {"question": f"{random_text(rng)}?", "choices": [f"{i} {random_text(rng)}" for i in range(rng.randint(2, 5))]}
        | {"picture": random_picture(rng) if rng.random() < 0.7 else None, "id": f"{number + 1}"}
        | {"hint": random_text(rng) if rng.random() < 0.3 else ""}
        for number in range(count)
    ]


def problem_sources(records: list[dict], folder: Path) -> dict[str, Path]:
    """The same questions as a ScienceQA folder, tables with index, label, letter and text for an answer, and a CSV."""
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
            writer.writerow([own["id"], name, own["question"], json.dumps(own["choices"]), own["hint"], own["right"]])
    return found | {"CSV": folder / "csv"}


def cqm(records: list[dict], folder: Path) -> Path:
    """LLaVA's own file of ScienceQA."""
    made = []
    for own in records:
        (folder / "images" / "train" / own["id"]).mkdir(parents=True)
        problem = Problem(own["id"], own["question"], tuple(own["choices"]), hint=own["hint"])
        token, place = "<image>\n" if own["picture"] else "", f"{own['id']}/image.png"
        turns = [("human", token + question_text(problem, "")), ("gpt", LETTERS[own["right"]])]
        made.append({"id": own["id"], "conversations": [{"from": who, "value": said} for who, said in turns]})
        if own["picture"]:
            (folder / "images" / "train" / place).write_bytes(own["picture"])
            made[-1]["image"] = place
    return written(folder / "llava_train_CQM-A.json", json.dumps(made))


def sources_of_several(records: list[dict], folder: Path) -> dict[str, Path]:
    """Questions with choices about any number of pictures: JSON lines, saved, as parquet and as CSV."""
    from datasets import Dataset, Image, List

    fields = ("id", "question", "choices", "answer")
    rows = [{key: own[key] for key in fields} for own in records]
    names = [[f"{own['id']}-{place}.png" for place in range(len(own["pictures"]))] for own in records]
    for place in ("images", "csv"):
        (folder / place).mkdir(parents=True)
        for own, named in zip(records, names, strict=True):
            for name, picture in zip(named, own["pictures"], strict=True):
                (folder / place / name).write_bytes(picture)
    named = [row | {"images": own} for row, own in zip(rows, names, strict=True)]
    found = {"JSON lines": written(folder / "data.jsonl", "".join(json.dumps(row) + "\n" for row in named))}
    cells = [[{"bytes": picture, "path": None} for picture in own["pictures"]] for own in records]
    table = Dataset.from_list([row | {"images": own} for row, own in zip(rows, cells, strict=True)])
    table = table.cast_column("images", List(Image()))
    table.save_to_disk(folder / "saved")
    (folder / "parquet").mkdir()
    table.to_parquet(folder / "parquet" / "train.parquet")
    with (folder / "csv" / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*fields, "images"])
        for row in named:
            choices, images = json.dumps(row["choices"]), json.dumps(row["images"])
            writer.writerow([row["id"], row["question"], choices, LETTERS[row["answer"]], images])
    return found | {"saved": folder / "saved", "parquet": folder / "parquet", "CSV": folder / "csv"}
