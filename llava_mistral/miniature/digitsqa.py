"""DigitsQA: ScienceQA-shaped questions over real scanned handwritten digits, for trying everything without a download.

The pictures are composed of scikit-learn's 1,797 scans of 8 x 8 pixels (the test half of UCI's "Optical Recognition of
Handwritten Digits", Alpaydin and Kaynak 1998, CC BY 4.0). No scan serves two splits. The folder has ScienceQA's own
form, so the readers of the real data read it, plus an alignment set in the form of LLaVA-558k:

    problems.json pid_splits.json images/{split}/{pid}/image.png example.png
    alignment/alignment.json alignment/images/{number}.png
    instructions/data/{split}-00000-of-00001.parquet

The example is the first picture of test that is asked "Which digit is written?". The instructions are training rows:
each question by letter and once more as people ask it (`instructions.py`). No picture is in two splits, and no wording
with its answer where the text decides.

Every problem carries one field more than ScienceQA's: `image_needed` says whether the question can be answered only by
looking (null without a picture). It is never worded into a prompt; it is what a pruning method is judged by.

    python -m llava_mistral.miniature.digitsqa --output outputs/digitsqa
"""

import json
import random
import shutil
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.miniature.digitsqa_questions import Draft, caption, draft_for
from llava_mistral.miniature.digitsqa_skills import SKILLS, Skill

LICENSE = "cc-by-4.0"
SOURCE = "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)"
SPLIT_SIZES = {"train": 4800, "val": 650, "test": 1040}
ALIGNMENT_SIZE = 4800
TILE, MARGIN = 48, 8  # pixels: a scan is enlarged six times

COLOURS = {"red": (200, 60, 60), "green": (60, 160, 80), "blue": (60, 90, 200), "grey": (120, 120, 120)}
SHAPES = ("circle", "square", "triangle")


class Scans:
    """The scans of one split, drawn by label; `(8, 8)` arrays of ink from 0 to 16."""

    def __init__(self, images, labels, indices):
        self.by_label = {label: [images[index] for index in indices if labels[index] == label] for label in range(10)}

    def draw(self, rng: random.Random, digits: list[int]):
        """A PIL picture of `digits` in a row, on white paper: `(16 + 48 n) x 64` pixels."""
        from PIL import Image

        paper = Image.new("L", (2 * MARGIN + TILE * len(digits), 2 * MARGIN + TILE), 255)
        for place, digit in enumerate(digits):
            ink = rng.choice(self.by_label[digit])
            tile = Image.fromarray((255 - ink * 255 / 16).astype("uint8")).resize(
                (TILE, TILE), Image.Resampling.BICUBIC
            )
            shift = (rng.randint(-MARGIN // 2, MARGIN // 2), rng.randint(-MARGIN // 2, MARGIN // 2))
            paper.paste(tile, (MARGIN + place * TILE + shift[0], MARGIN + shift[1]))
        return paper.convert("RGB")


def draw_shape(rng: random.Random):
    """A drawing that decorates: `(picture, words for it)`."""
    from PIL import Image, ImageDraw

    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    picture = Image.new("RGB", (64, 64), "white")
    pen, low, high = ImageDraw.Draw(picture), rng.randint(8, 20), rng.randint(44, 56)
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle((low, low, high, high), fill=COLOURS[colour])
    else:
        pen.polygon([(low, high), (high, high), ((low + high) // 2, low)], fill=COLOURS[colour])
    return picture, f"a {colour} {shape}"


def load_scans(seed: int) -> dict[str, Scans]:
    """Scans per split: two thirds train, one sixth each for val and test, no scan in two of them."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = list(range(len(digits.target)))
    random.Random(seed).shuffle(order)
    sixth = len(order) // 6
    parts = {"test": order[:sixth], "val": order[sixth : 2 * sixth], "train": order[2 * sixth :]}
    return {split: Scans(digits.images, digits.target, parts[split]) for split in SPLIT_SIZES}


def build(folder: str | Path, seed: int = 0) -> dict[str, int]:
    """Write DigitsQA below the empty `folder`, the same bytes for the same seed; returns what was written, by name."""
    from tqdm import tqdm

    from llava_mistral.miniature.instructions import instruction_rows, write_instructions

    folder, scans, seen = Path(folder), load_scans(seed), {}
    problems, splits, rows = {}, {split: [] for split in SPLIT_SIZES}, {split: [] for split in SPLIT_SIZES}
    with tqdm(total=sum(SPLIT_SIZES.values()) + ALIGNMENT_SIZE, desc="DigitsQA", unit="sample") as bar:
        for split, size in SPLIT_SIZES.items():
            wheel = [skill for skill in SKILLS for _ in range(skill.weight if split == "train" else 1)]
            for index in range(size):
                pid, skill = str(len(problems) + 1), wheel[index % len(wheel)]
                rng = random.Random(f"{seed} problem {pid}")
                draft = draft_for(split, skill.make, rng)
                picture = _picture(rng, draft, scans[split], split, seen)
                problems[pid] = _problem(rng, draft, skill, split, picture and _save(picture[0], folder, split, pid))
                splits[split].append(pid)
                rows[split] += instruction_rows(rng, pid, problems[pid], draft, picture, folder)
                bar.update()
        first = next(pid for pid in splits["test"] if problems[pid]["skill"] == SKILLS[0].name)
        shutil.copyfile(folder / "images" / "test" / first / "image.png", folder / "example.png")
        _write_json(folder / "problems.json", problems)
        _write_json(folder / "pid_splits.json", splits)
        write_instructions(rows, folder / "instructions")
        _build_alignment(folder / "alignment", scans["train"], seed, seen, bar)
    counts = {split: len(pids) for split, pids in splits.items()}
    return {**counts, "alignment": ALIGNMENT_SIZE, "instructions": len(rows["train"])}


def _picture(rng: random.Random, draft: Draft, scans: Scans, split: str, seen: dict[bytes, str]):
    """The picture beside a question and its words, `(picture, words)`, or None; none is in two splits.

    `seen` has the split of every picture made before, by its pixels; a decoration has few ways to look.
    """
    if not draft.digits and not draft.decoration:
        return None
    while True:
        if draft.digits:
            made = scans.draw(rng, draft.digits), caption(draft.digits)
        elif rng.random() < 0.5:
            made = draw_shape(rng)
        else:
            digit = rng.randrange(10)
            made = scans.draw(rng, [digit]), caption([digit])
        if seen.setdefault(made[0].tobytes(), split) == split:
            return made


def _save(picture, folder: Path, split: str, pid: str) -> str:
    target = folder / "images" / split / pid / "image.png"
    target.parent.mkdir(parents=True)
    picture.save(target, compress_level=1)
    return target.name


def _problem(rng: random.Random, draft: Draft, skill: Skill, split: str, image: str | None) -> dict:
    return {
        "question": draft.question,
        "choices": draft.choices,
        "answer": draft.choices.index(draft.answer),
        "hint": draft.hint,
        "image": image,
        "task": "closed choice",
        "grade": f"grade{rng.randint(*skill.grades)}",
        "subject": skill.subject,
        "topic": skill.topic,
        "category": skill.category,
        "skill": skill.name,
        "lecture": skill.lecture,
        "solution": draft.solution,
        "split": split,
        "image_needed": None if image is None else not draft.decoration,
    }


def _build_alignment(folder: Path, scans: Scans, seed: int, seen: dict[bytes, str], bar) -> None:
    (folder / "images").mkdir(parents=True)
    records = []
    for index in range(ALIGNMENT_SIZE):
        rng = random.Random(f"{seed} alignment {index}")
        kind = rng.random()
        if kind < 0.04:
            picture, words = draw_shape(rng)
            while seen.setdefault(picture.tobytes(), "train") != "train":
                picture, words = draw_shape(rng)
        else:
            count = 1 if kind < 0.50 else 2 if kind < 0.76 else 3
            digits = [rng.randrange(10) for _ in range(count)]
            picture, words = scans.draw(rng, digits), caption(digits)
        name = f"{index:05d}.png"
        picture.save(folder / "images" / name, compress_level=1)
        turns = [("human", "<image>\nDescribe the picture."), ("gpt", words)]
        turns = [{"from": speaker, "value": value} for speaker, value in turns]
        records.append({"id": name.removesuffix(".png"), "image": name, "conversations": turns})
        bar.update()
    _write_json(folder / "alignment.json", records)


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser, check_output_folder, whole_folder

    parser = VerbParser(
        prog="llava_mistral.miniature.digitsqa", description="Build DigitsQA from scikit-learn's scanned digits."
    )
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, questions and pictures")
    args = parser.parse_args()
    check_output_folder(args.output, "problems.json")
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise BadInput(
            "scikit-learn carries the scans and is not installed", remedy="pip install scikit-learn"
        ) from None
    with whole_folder(args.output, "problems.json") as folder:
        counts = build(folder, args.seed)
    print(f"{args.output}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
