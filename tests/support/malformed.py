"""What is malformed on purpose: the checkpoints of the catalogue's groups D and E, each with its legal neighbour.

A change takes a folder of its own, of a plugin checkpoint or of a stock LLaVA; their weights and settings go by the
same names, but for what comes before the projector's.
"""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

Change = Callable[[Path], None]
PROJECTOR = "multi_modal_projector.linear_2.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


AUTO_MAP = {
    "AutoConfig": "configuration_llava_mistral.LlavaMistralConfig",
    "AutoModelForImageTextToText": "modeling_llava_mistral.LlavaMistralForConditionalGeneration",
}


def hollow(folder: Path) -> Path:
    """A checkpoint that is looked at and never opened: a configuration that names a model, and no weight."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava_mistral"}')
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return folder


def read_by_libraries(by_itself, file: Path, cache: Path) -> None:
    """What reads a file of records without us: Python, and `datasets`, from which TRL takes its rows."""

    def load():
        import datasets

        datasets.load_dataset("json", data_files=str(file), cache_dir=str(cache))

    by_itself("json", lambda: json.loads(file.read_bytes()) and None)
    by_itself("datasets", load)


def copy(folder: Path, target: Path, change: Change) -> Path:
    """A copy of `folder` with the change."""
    shutil.copytree(folder, target)
    change(target)
    return target


def nothing(folder: Path) -> None:
    """A copy is a legal checkpoint."""


def settings(name: str = "config.json", **changes) -> Change:
    """Set keys of a JSON file, `part__key` those of its part; `None` for a key that has to go is `...`."""

    def change(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        for key, value in changes.items():
            *parts, last = key.split("__")
            place = config
            for part in parts:
                place = place[part]
            place.pop(last, None) if value is ... else place.update({last: value})
        (folder / name).write_text(json.dumps(config))

    return change


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def weights(change: Callable[[dict], None]) -> Change:
    """Have `change` edit {name: tensor} and save what it leaves."""

    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = {name: weight.clone() for name, weight in load_file(folder / "model.safetensors").items()}
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def weight(change: Callable, name: str = PROJECTOR) -> Change:
    """Put what `change` makes of a weight in its place; None drops it."""

    def edit(held: dict) -> None:
        known = next(key for key in held if key.endswith(name))
        held[known] = change(held[known])
        if held[known] is None:
            del held[known]

    return weights(edit)


def put(value: float) -> Change:
    def change(held):
        held[3, 5] = value
        return held

    return weight(change)


def stored_as(dtype: str) -> Change:
    import torch

    return weight(lambda held: held.to(getattr(torch, dtype)))


def raw(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Change:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return edit


def sharded(folder: Path) -> None:
    """Two shards and their index."""
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    names, place = sorted(held), {}
    for number, own in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: held[name] for name in own}, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(own, file)
    (folder / "model.safetensors").unlink()
    size = sum(weight.numel() * 4 for weight in held.values())
    index = {"metadata": {"total_size": size}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def then(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def without_image_token(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("<image>", "<picture>"))


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def led_out(folder: Path) -> None:
    """The index finds a weight beside the folder, where it would load from."""
    (folder / "model-00002-of-00002.safetensors").rename(folder.parent / "elsewhere.safetensors")
    said = (folder / "model.safetensors.index.json").read_text()
    said = said.replace("model-00002-of-00002.safetensors", "../elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text(said)


def header(change: Callable[[dict], None]) -> Change:
    """Edit the header of the weights and leave their bytes."""

    def edit(whole: bytes) -> bytes:
        length = struct.unpack("<Q", whole[:8])[0]
        said = json.loads(whole[8 : 8 + length])
        change(said)
        told = json.dumps(said).encode()
        return struct.pack("<Q", len(told)) + told + whole[8 + length :]

    return raw(edit)


def first(said: dict) -> dict:
    """The entry whose bytes come first."""
    return min((entry for name, entry in said.items() if name != "__metadata__"), key=lambda e: e["data_offsets"])


def second(said: dict) -> dict:
    return sorted((e for name, e in said.items() if name != "__metadata__"), key=lambda e: e["data_offsets"])[1]


def moved(entry: dict, start: int, end: int) -> None:
    entry["data_offsets"] = [entry["data_offsets"][0] + start, entry["data_offsets"][1] + end]


def twice(whole: bytes) -> bytes:
    """A key that occurs twice, which `json` and safetensors read as the last one."""
    length = struct.unpack("<Q", whole[:8])[0]
    told = whole[8 : 8 + length].rstrip()
    end = told.index(PROJECTOR.encode())
    start = told.rindex(b'"', 0, end)
    told = told[:-1] + b"," + told[start : told.index(b"}", end) + 1] + b"}"
    return struct.pack("<Q", len(told)) + told + whole[8 + length :]


HEADERS: dict[str, Change] = {  # D13
    "short": raw(lambda whole: whole[:5]),
    "garbage": raw(lambda whole: whole[:8] + b"\xff" * 40 + whole[48:]),
    "longer than the file": raw(lambda whole: struct.pack("<Q", len(whole)) + whole[8:]),
    "of a tebibyte": raw(lambda whole: struct.pack("<Q", 1 << 40) + whole[8:]),
    "out of range": header(lambda said: moved(first(said), 1 << 40, 1 << 40)),
    "overlapping": header(lambda said: moved(second(said), -4, -4)),
    "with a hole": header(lambda said: moved(first(said), 4, 4)),
    "trailing bytes": raw(lambda whole: whole + bytes(4)),
    "wrong shape": header(lambda said: first(said).update(shape=[side + 1 for side in first(said)["shape"]])),
    "unknown type": header(lambda said: first(said).update(dtype="F99")),
    "overflowing": header(lambda said: first(said).update(shape=[1 << 62, 8])),
    "a key twice": raw(twice),
    "negative offset": header(lambda said: moved(first(said), -8, 0)),
    "no object": raw(lambda whole: struct.pack("<Q", 2) + b"[]" + whole[8:]),
}
SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def ask(folder: Path, questions: Path, output: Path, code: int = 0):
    """Put the questions to a checkpoint with the verb."""
    from llava_mistral.commands.evaluate import main
    from tests.support.running import run_here

    given = ("--dataset", questions, "--split", "train", "--scoring", "likelihood", "--device", "cpu")
    return run_here(main, "--model", folder, *given, "--output", output, code=code)


def refused_by_training(folder: Path, rows: Path, output: Path) -> str:
    """The line with which stage 1 refuses to start from a checkpoint."""
    from llava_mistral.commands.train import main
    from tests.support.running import run_here

    given = {"stage": "pretrain", "model_name_or_path": folder, "dataset": rows, "output_dir": output}
    given |= {"use_cpu": True, "bf16": False, "report_to": "none"}
    return run_here(main, *[word for name, value in given.items() for word in (f"--{name}", value)], code=2).error


def open_stock(folder: Path) -> str | None:
    """What the library's own class does with the same damage."""
    from transformers import LlavaForConditionalGeneration

    model, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    for kind, said in (("missing", "random numbers in place of"), ("unexpected", "leaves out")):
        if keys := info[f"{kind}_keys"]:
            return f"loads, {said} {len(keys)} weights"
    finite = all(weight.isfinite().all() for weight in model.parameters())
    return "loads" if finite else "loads what is not finite"


def default_of_stock(folder: Path) -> str:
    """What the library's own class would build without a configuration; built, it takes more than most machines."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(folder))
    return f"takes a default of {sum(weight.numel() for weight in model.parameters()) / 1e9:.0f} billion weights"


def cases(table: dict[str, tuple]) -> list:
    """A parameter for each line; what its name begins with is the case it shows."""

    def marks(name: str) -> list:
        return [pytest.mark.case(name.split()[0], outcome) for outcome in ("refused", "accepted")]

    return [pytest.param(*values, id=name, marks=marks(name)) for name, values in table.items()]


ASK = {"from": "human", "value": "<image>\nWhat is it?"}
TELL = {"from": "gpt", "value": "A red square."}
GOOD = {"id": "good", "image": "red.png", "conversations": [ASK, TELL]}
