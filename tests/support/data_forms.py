"""The same random samples written in every form that is read: what each has to come back as."""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.running import run_here

WORDS = ["what", "small", "bird", "doing", "7", "é", "<b>", "\\", '"', "'", ",", ";", "{x}", "😀"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LLAVA = {"user": "human", "assistant": "gpt", "system": "system"}


@dataclass
class Sample:
    """A conversation: texts by turn, in which an <image> stands where a picture does, and the pictures' files."""

    id: str
    turns: list[tuple[str, str]]
    pictures: list[bytes]

    @property
    def single(self) -> bool:
        """Whether it is one question and one answer."""
        return [role for role, _ in self.turns] == ["user", "assistant"]

    def read(self) -> tuple:
        """What it is as a row: id, prompt, completion and the hashes of its pictures' pixels."""
        turns = list(self.turns)
        first = next(place for place, (role, _) in enumerate(turns) if role == "user")
        leading = "<image>\n" * len(self.pictures)
        if self.pictures and turns[first][1].startswith(leading):
            turns[first] = ("user", turns[first][1].removeprefix(leading))
        answer = next(place for place, (role, _) in enumerate(turns) if role == "assistant")
        return self.id, tuple(turns[:answer]), tuple(turns[answer:]), tuple(map(pixels, self.pictures))

    def answers(self) -> list[tuple]:
        """What is asked of it: each answer, the pixels of the pictures named before it, the words of its question."""
        rows, shown, asked = [], 0, ""
        for role, text in self.turns:
            if role == "user":
                shown, asked = shown + text.count("<image>"), text
            elif role == "assistant":
                rows.append((text, tuple(map(pixels, self.pictures[:shown])), plain(asked)))
        return rows


def plain(text: str) -> str:
    """A text without the places of pictures and without blanks."""
    return "".join(text.replace("<image>", "").split())


def pixels(picture: bytes | Image.Image) -> str:
    """The hash of a picture's size and pixels."""
    picture = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    picture = picture.convert("RGB")
    return hashlib.sha256(str(picture.size).encode() + picture.tobytes()).hexdigest()


def rows_as_read(rows: Any) -> list[tuple]:
    """Training rows as `Sample.read` has them."""
    found = []
    for row in rows:
        sides = [tuple((turn["role"], turn["content"]) for turn in row[side]) for side in ("prompt", "completion")]
        found.append((row["id"], *sides, tuple(pixels(picture) for picture in row["images"])))
    return found


def trained(path: Path, **options) -> list[tuple]:
    """The rows that training would see, its check of pictures included."""
    from llava_mistral.commands.train import checked_rows
    from llava_mistral.data.sources import decoded
    from llava_mistral.training.recipe import StageArguments

    return rows_as_read(decoded(checked_rows(StageArguments(stage="finetune", dataset=str(path), **options))[0]))


def answered(path: Path, **options) -> list[tuple]:
    """What evaluation would ask, as `Sample.answers` has it."""
    from llava_mistral.evaluation.asking import pictures_of
    from llava_mistral.evaluation.questions import read_questions

    asked, _ = read_questions(path, **options)
    return [(one.answer, tuple(map(pixels, pictures_of(one, "real"))), plain(one.question)) for one in asked]


def pruned(path: Path, folder: Path, *flags: object) -> Path:
    """A pruned set of all there is, its JSON included."""
    from llava_mistral.commands.prune import main

    run_here(main, "--dataset", path, "--method", "full", "--llava_json", "--output", folder, *flags)
    return folder


def random_samples(rng: random.Random, count: int = 12) -> list[Sample]:
    """Samples of one to three questions about none to three pictures, in front, amid the words or in later turns."""
    samples = []
    for number in range(count):
        pictures = [random_picture(rng) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
        questions = [random_text(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        way = rng.choice(["front", "front", "amid", "later"])
        if way == "front" or not pictures:
            questions[0] = "<image>\n" * len(pictures) + questions[0]
        elif way == "amid":
            for _ in pictures:
                questions[0] = f"{random_text(rng, 2)} <image> {questions[0]}"
        else:
            for _ in pictures:
                place = rng.randrange(len(questions))
                questions[place] = f"<image>\n{questions[place]}"
        turns = [("system", random_text(rng))] if rng.random() < 0.2 else []
        for question in questions:
            turns += [("user", question), ("assistant", random_text(rng))]
        samples.append(Sample(f"s{number}", turns, pictures))
    return samples


def plain_samples(rng: random.Random, count: int = 8) -> list[Sample]:
    """Samples of one question about one picture, in front: what forms without conversations can say."""
    asked = [[("user", f"<image>\n{random_text(rng)}"), ("assistant", random_text(rng))] for _ in range(count)]
    return [Sample(f"s{number}", turns, [random_picture(rng)]) for number, turns in enumerate(asked)]


def random_text(rng: random.Random, longest: int = 9) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest)))


def random_picture(rng: random.Random) -> bytes:
    file = io.BytesIO()
    size = rng.randint(3, 9), rng.randint(3, 9)
    Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1])).save(file, "PNG")
    return file.getvalue()


def put_pictures(samples: list[Sample], folder: Path) -> list[list[str]]:
    """Write the pictures below `folder`; returns their names by sample."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for sample in samples:
        names.append([f"{sample.id}-{place}.png" for place in range(len(sample.pictures))])
        for name, picture in zip(names[-1], sample.pictures, strict=True):
            (folder / name).write_bytes(picture)
    return names


def turns_of(sample: Sample, speaker: str, text: str, roles: dict[str, str] | None = None) -> list[dict[str, str]]:
    return [{speaker: (roles or {}).get(role, role), text: said} for role, said in sample.turns]


def parts_of(sample: Sample) -> list[dict]:
    """Messages whose contents are lists of parts."""
    messages = []
    for role, said in sample.turns:
        parts = []
        for place, text in enumerate(said.split("<image>") if role == "user" else [said]):
            leads = place > 0 and not any(part["type"] == "text" for part in parts)
            text = text.removeprefix("\n") if leads else text
            parts += [{"type": "image", "text": None}] if place else []
            parts += [{"type": "text", "text": text}] if text else []
        messages.append({"role": role, "content": parts})
    return messages


def records(samples: list[Sample], folder: Path, make: Callable[[Sample], dict]) -> list[dict]:
    """Records with an id and, where there are pictures, `images`, whose files lie below `folder`."""
    named = zip(samples, put_pictures(samples, folder), strict=True)
    return [{"id": sample.id, **make(sample), **({"images": names} if names else {})} for sample, names in named]


def llava_list(samples: list[Sample], folder: Path) -> Path:
    rows = records(samples, folder / "images", lambda own: {"conversations": turns_of(own, "from", "value", LLAVA)})
    for record in rows:
        names = record.pop("images", [])
        record |= {"image": names[0] if len(names) == 1 else names} if names else {}
    return written(folder / "data.json", json.dumps(rows))


def lines(make: Callable[[Sample], dict], name: str = "data.jsonl", images: str = "images") -> Callable:
    def write(samples: list[Sample], folder: Path) -> Path:
        rows = records(samples, folder / images, make)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in rows)
        return written(folder / name, text)

    return write


def trl(sample: Sample) -> dict:
    messages = turns_of(sample, "role", "content")
    first = next(place for place, turn in enumerate(messages) if turn["role"] == "assistant")
    return {"prompt": messages[:first], "completion": messages[first:]}


def table(make: Callable[[Sample], dict], form: str, column: str = "images") -> Callable:
    """A table with the pictures inside: saved, or as parquet."""

    def write(samples: list[Sample], folder: Path) -> Path:
        from datasets import Dataset, Image, List

        cells = [[{"bytes": picture, "path": None} for picture in sample.pictures] for sample in samples]
        own = cells if column == "images" else [cell[0] for cell in cells]
        rows = [{"id": sample.id, **make(sample)} | {column: cell} for sample, cell in zip(samples, own, strict=True)]
        made = Dataset.from_list(rows)
        kind = List(Image()) if column == "images" else Image()
        made = made.cast_column(column, kind)
        if form == "saved":
            made.save_to_disk(folder / "set")
        else:
            (folder / "set").mkdir(parents=True)
            made.to_parquet(folder / "set" / "train.parquet")
        return folder / "set"

    return write


def asked(sample: Sample) -> dict:
    (_, question), (_, answer) = sample.turns
    return {"question": question.removeprefix("<image>\n"), "answer": answer}


def comma_separated(samples: list[Sample], folder: Path) -> Path:
    import csv

    rows = records(samples, folder / "set", asked)
    with (folder / "set" / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "question", "answer"])
        writer.writerows([one["id"], one["images"][0], one["question"], one["answer"]] for one in rows)
    return folder / "set"


def picture_folder(samples: list[Sample], folder: Path) -> Path:
    rows = records(samples, folder / "set" / "train", asked)
    text = [json.dumps({"file_name": one.pop("images")[0], **one}) for one in rows]
    written(folder / "set" / "train" / "metadata.jsonl", "\n".join(text) + "\n")
    return folder / "set"


def shards(samples: list[Sample], folder: Path) -> Path:
    """Two tar files of a WebDataset."""
    (folder / "set").mkdir(parents=True)
    for number, part in enumerate((samples[: len(samples) // 2], samples[len(samples) // 2 :])):
        with tarfile.open(folder / "set" / f"train-{number:05d}.tar", "w") as tar:
            for sample in part:
                for suffix, data in (("png", sample.pictures[0]), ("json", json.dumps(asked(sample)).encode())):
                    member = tarfile.TarInfo(f"{sample.id}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder / "set"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


CONVERSATIONS = {  # what can say all that a conversation has
    "LLaVA JSON": llava_list,
    "JSON lines, human and gpt": lines(lambda own: {"conversations": turns_of(own, "from", "value", LLAVA)}),
    "JSON lines, user and assistant": lines(lambda own: {"conversations": turns_of(own, "role", "content")}),
    "JSON lines of messages": lines(lambda own: {"messages": turns_of(own, "role", "content")}),
    "JSON lines of TRL's": lines(trl),
    "folder of JSON lines": lambda samples, folder: (
        lines(lambda own: {"messages": turns_of(own, "role", "content")}, "set/train.jsonl", "set")(
            samples, folder
        ).parent
    ),
    "conversations, parquet": table(lambda own: {"conversations": turns_of(own, "from", "value", LLAVA)}, "parquet"),
    "messages of parts, saved": table(lambda own: {"messages": parts_of(own)}, "saved"),
    "TRL's, saved": table(trl, "saved"),
    "TRL's, parquet": table(trl, "parquet"),
}
WORDED = {  # one question, one answer, one picture
    "question and answer, parquet": table(asked, "parquet", "image"),
    "question and answer, saved, images": table(asked, "saved"),
    "texts of TRL's, saved": table(
        lambda own: {"prompt": asked(own)["question"], "completion": asked(own)["answer"]}, "saved"
    ),
    "CSV": comma_separated,
    "pictures with metadata.jsonl": picture_folder,
    "WebDataset": shards,
}
