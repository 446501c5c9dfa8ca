"""Things small enough to publish in a test: a random vision-language checkpoint and a pruned dataset of ten rows."""

import io
import json
from pathlib import Path

RUN = {
    "stage": "finetune",
    "recipe": {"learning_rate": 2e-5, "model_name_or_path": "outputs/miniature/stage-1"},
    "base_model": ["openai/clip-vit-large-patch14-336", "outputs/miniature/language-model"],
    "seed": 42,
    "versions": {"torch": "2.13.0"},
    "data": {"path": "outputs/miniature/pruned", "rows": 512, "sha256": "ab" * 32},
    "parameters": {"trainable": 1234567, "frozen": 89},
    "steps": 4321,
    "seconds": 77.25,
}


def save_checkpoint(folder: Path, **run) -> Path:
    """A stock LLaVA of a few thousand random weights, with what training leaves beside it."""
    from tests.support.tiny_llava import save_tiny_llava

    save_tiny_llava(folder)
    (folder / "run.json").write_text(json.dumps({**RUN, **run}))
    (folder / "training_args.bin").write_bytes(b"a pickle that holds the token")
    (folder / "checkpoint-8").mkdir()
    (folder / "checkpoint-8" / "optimizer.pt").write_bytes(b"moments")
    return folder


def save_dataset(
    folder: Path, method: str = "principles", rows: int = 10, pictures: list[bytes] | None = None, **manifest
) -> Path:
    """A pruned dataset folder: rows of pictures, prompt and completion, every fourth without a picture."""
    from datasets import Dataset, Features, Image, List, Value

    turn = [{"role": Value("string"), "content": Value("string")}]
    turns = {"prompt": turn, "completion": turn, "messages": turn}
    features = Features({"id": Value("string"), "images": List(Image()), **turns})
    given = pictures or [png(value) for value in range(rows)]
    samples = [
        {
            "id": f"{method}-{i}",
            "images": [] if i % 4 == 3 else [{"bytes": given[i % len(given)], "path": None}],
            "prompt": [{"role": "user", "content": f"Which digit is written? Row {i}"}],
            "completion": [{"role": "assistant", "content": str(i)}],
        }
        for i in range(rows)
    ]
    samples = [{**sample, "messages": sample["prompt"] + sample["completion"]} for sample in samples]
    (folder / "data").mkdir(parents=True)
    Dataset.from_list(samples, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    ids = [sample["id"] for sample in samples]
    whole = {
        "method": method,
        "size": rows,
        "seed": 7,
        "recipe": {"method": method, "size": rows},
        "input": {"name": "digitsqa", "rows": 5 * rows, "sha256": "ab" * 32},
        "versions": {"datasets": "5.2.0"},
        "kept": ids,
        "dropped": {f"left-{i}": "answered without the picture" for i in range(4 * rows)},
        "counts": {"answered without the picture": 4 * rows, "kept": rows},
        "license": "cc-by-4.0",
    }
    whole = {key: value for key, value in {**whole, **manifest}.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(whole))
    return folder


def png(value: int, **save) -> bytes:
    """A small picture whose pixels depend on `value`."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((12, 8)).point(lambda x: (x + 9 * value) % 256).convert("RGB").save(
        buffer, **{"format": "PNG", **save}
    )
    return buffer.getvalue()


SUMMARY = {
    "ALL": {"accuracy": 74.386, "n": 600, "correct": 446, "ci95": [70.7, 77.7]},
    "NAT": {"accuracy": 80.0, "n": 200, "correct": 160, "ci95": [73.9, 85.0]},
    "SOC": None,
    "unread": 3,
    "scoring": "letter",
    "dataset": "digitsqa",
    "split": "test",
    "question_hash": "c0ffee",
}


FORBIDDEN = [
    "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "events.out.1",
    "wandb/run.json", ".env", ".git/config", "core", "__pycache__/x.pyc", "pytorch_model.bin", "my_notes.txt",
    "checkpoint-8/config.json", "modeling_other.py", ".cache/x.json", "README.md", "samples/8.json", "skipped.json",
    "runs/events.out.1", ".lock", ".damaged-checkpoint-8/model.safetensors", "MANIFEST.json", "samples/8.png",
]  # fmt: skip


def with_gps() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: lies on its side
    exif[0x010E] = "at /home/somebody"
    exif.get_ifd(0x8825)[1] = "N"
    return png(3, format="JPEG", exif=exif, comment=b"secret comment")


def prepare(folder: Path, tmp_path: Path, **options):
    """A data set's publication, staged in `tmp_path`."""
    from llava_mistral.publishing.dataset_publication import prepare_dataset

    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return prepare_dataset(folder, "owner/name", workspace, **options)
