"""One picture, every form, every entrance: the pixels are those that training and evaluation see, or it is refused."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.odd_pictures import chunk
from tests.support.tiny_components import IMAGE_TOKENS

ASKING = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
GREY = np.tile(np.linspace(0, 255, 40).astype("uint8"), (24, 1))
ALPHA = ((GREY > 100) * 255).astype("uint8")


def rgb() -> Image.Image:
    return Image.merge("RGB", [Image.fromarray(part) for part in (GREY, 255 - GREY, GREY // 2)])


def with_alpha() -> Image.Image:
    picture = rgb().convert("RGBA")
    picture.putalpha(Image.fromarray(ALPHA))
    return picture


def deep(kind: str, bits: int) -> Image.Image:
    """Grey of so many bits in numbers of a `kind`, as scanners and microscopes write it."""
    return Image.fromarray((GREY / 255 * (2**bits - 1)).astype(kind))


def turned(kind: str = "PNG") -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    rgb().save(file, kind, exif=exif)
    return file.getvalue()


def colours_of_16_bits(picture: Image.Image, kind: int) -> bytes:
    """A PNG that Pillow reads and does not write; `kind` is 2 of RGB, 6 of RGBA."""
    lines = (np.asarray(picture).astype(">u2") * 257).reshape(picture.height, -1)
    header = struct.pack(">IIBBBBB", *picture.size, 16, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "RGB.png": lambda: encoded(rgb(), "PNG"),
    "RGB.jpg": lambda: encoded(rgb(), "JPEG"),
    "grey.png": lambda: encoded(Image.fromarray(GREY), "PNG"),
    "grey16.png": lambda: encoded(Image.fromarray(GREY.astype("uint16") * 257), "PNG"),
    "grey16.tif": lambda: encoded(Image.fromarray(GREY.astype("uint16") * 257), "TIFF"),
    **{
        f"{kind} of {bits} bits.{end}": lambda kind=kind, bits=bits, end=end: encoded(deep(kind, bits), end)
        for kind, end in (("uint16", "PNG"), ("uint16", "TIFF"), ("int32", "TIFF"), ("float32", "TIFF"))
        for bits in (9, 10, 12, 14, 16)
    },
    "floats.TIFF": lambda: encoded(Image.fromarray((GREY / 255).astype("float32")), "TIFF"),
    "floats to 255.TIFF": lambda: encoded(Image.fromarray(GREY * np.float32(0.99)), "TIFF"),
    "RGB.avif": lambda: encoded(rgb(), "AVIF"),
    "RGB.jp2": lambda: encoded(rgb(), "JPEG2000"),
    "RGBA.png": lambda: encoded(with_alpha(), "PNG"),
    "grey-alpha.png": lambda: encoded(with_alpha().convert("LA"), "PNG"),
    "palette.gif": lambda: encoded(rgb().convert("P"), "GIF"),
    "palette-transparent.png": lambda: encoded(rgb().convert("P"), "PNG", transparency=3),
    "grey-key.png": lambda: encoded(Image.fromarray(GREY), "PNG", transparency=0),  # one colour is transparent
    "colour-key.png": lambda: encoded(rgb(), "PNG", transparency=(0, 255, 0)),
    "palette-key.gif": lambda: encoded(rgb().convert("P"), "GIF", transparency=3),
    "RGBA.webp": lambda: encoded(with_alpha(), "WEBP", lossless=True),
    "RGB48.png": lambda: colours_of_16_bits(rgb(), 2),
    "RGBA64.png": lambda: colours_of_16_bits(with_alpha(), 6),
    "CMYK.jpg": lambda: encoded(rgb().convert("CMYK"), "JPEG"),
    "YCbCr.tif": lambda: encoded(rgb().convert("YCbCr"), "TIFF"),
    "two pages.tif": lambda: encoded(rgb(), "TIFF", save_all=True, append_images=[Image.new("RGB", (40, 24))]),
    "two frames.png": lambda: encoded(rgb(), "PNG", save_all=True, append_images=[Image.new("RGB", (40, 24))]),
    "turned.png": turned,
    "turned.jpg": lambda: turned("JPEG"),
    "bits.png": lambda: encoded(rgb().convert("1"), "PNG"),
}


@pytest.fixture(scope="module")
def processor(stage0):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(stage0, trust_remote_code=True)


def forms(data: bytes, path) -> dict:
    """What a user may hand over of one file. Nobody can tell an array of a palette's indices from grey, or one of inks
    or of YCbCr from RGB."""
    path.write_bytes(data)
    picture, upright = Image.open(io.BytesIO(data)), path.stem != "turned"
    text = base64.b64encode(data).decode()
    given = {
        "path": {"path": str(path)},
        "pathlib": {"path": path},
        "PIL": {"image": picture},
        "bytes": {"image": data},
        "base64": {"base64": text},
        "data url": {"url": f"data:image/png;base64,{text}"},
    }
    if picture.mode not in ("P", "1", "LA", "I", "F", "CMYK", "YCbCr") and upright:
        given["array"] = {"image": np.asarray(picture)}
    return given


@pytest.mark.parametrize("name", FILES)
def test_every_form_of_a_file_has_the_pixels_of_training(processor, tmp_path, name):
    from llava_mistral.ground.pictures import open_picture

    data = FILES[name]()
    trained = processor.image_processor([open_picture(data)], return_tensors="pt")["pixel_values"]
    for form, part in forms(data, tmp_path / name).items():
        chat = [{"role": "user", "content": [{"type": "image", **part}, {"type": "text", "text": "Which?"}]}]
        assert processor.apply_chat_template(chat, **ASKING)["pixel_values"].equal(trained), f"{form} in a chat"
        called = processor(images=[next(iter(part.values()))], text=["<image>"], return_tensors="pt")
        assert called["pixel_values"].equal(trained), f"{form} in a call"


def written(files: dict[str, bytes], folder: Path) -> Iterator[tuple[str, Path]]:
    """Data sets of a question about each file: named, spelled out, and in a table."""
    from datasets import Dataset
    from datasets import Image as Cell

    (folder / "images").mkdir()
    for name, data in files.items():
        (folder / "images" / name).write_bytes(data)
    spelled = {name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in files.items()}
    for kind, pictures in (("named", dict(zip(files, files, strict=True))), ("spelled", spelled)):
        rows = [{"id": n, "image": one, "question": "which?", "answer": n} for n, one in pictures.items()]
        (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        yield kind, folder / f"{kind}.jsonl"
    cells = [{"bytes": data, "path": None} for data in files.values()]
    columns = {"id": list(files), "image": cells, "question": ["which?"] * len(files), "answer": list(files)}
    table = Dataset.from_dict(columns).cast_column("image", Cell())
    table.save_to_disk(folder / "saved")
    yield "table", folder / "saved"


def test_every_entrance_has_the_pixels_of_every_file(processor, tmp_path, monkeypatch):
    """Training, evaluation, pruned sets and the chat page give the tower what the processor gives it."""
    from llava_mistral.chatting.turns import conversation
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.data.sources import undecoded
    from llava_mistral.evaluation.asking import pictures_of
    from llava_mistral.evaluation.questions import read_questions
    from llava_mistral.training.batch_pictures import Pictures
    from tests.support.data_forms import pruned

    def learned(path):
        rows = undecoded(read_rows(path))
        return {row["id"]: Pictures(processor)(row["images"], [row["id"]])[0]["pixel_values"] for row in rows}

    def seen(picture):
        return processor.image_processor([picture], return_tensors="pt")["pixel_values"]

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    files = {name: make() for name, make in FILES.items()}
    served = {n: processor(images=[data], text="<image>", return_tensors="pt") for n, data in files.items()}
    found = {}
    for kind, path in written(files, tmp_path):
        found[kind, "training"] = learned(path)
        asked, _ = read_questions(path)
        found[kind, "evaluation"] = {one.pid: seen(pictures_of(one, "real")[0]) for one in asked}
        out = pruned(path, tmp_path / f"pruned {kind}")
        found |= {(kind, "pruned"): learned(out), (kind, "pruned JSON"): learned(out / "llava.json")}
    pages = {n: conversation({"text": "?", "files": [str(tmp_path / "images" / n)]}, []) for n in files}
    found["chat page", ""] = {name: seen(page[0]["content"][0]["image"]) for name, page in pages.items()}
    wrong = {(*where, n) for where, one in found.items() for n in files if not one[n].equal(served[n]["pixel_values"])}
    assert not wrong, sorted(wrong)
    assert all(len(one) == len(files) for one in found.values())


@pytest.mark.parametrize("name", ["grey16.png", "RGBA.png", "colour-key.png"])
def test_the_pipeline_sees_them_too(processor, stage0, tmp_path, name):
    from transformers import pipeline

    (tmp_path / name).write_bytes(FILES[name]())
    pipe = pipeline("image-text-to-text", model=str(stage0), processor=processor, trust_remote_code=True)
    chat = [{"role": "user", "content": [{"type": "image", "path": str(tmp_path / name)}]}]
    from transformers.pipelines.image_text_to_text import Chat

    from llava_mistral.ground.pictures import open_picture

    trained = processor.image_processor([open_picture(tmp_path / name)], return_tensors="pt")["pixel_values"]
    assert pipe.preprocess(Chat(chat))["pixel_values"].equal(trained)


ARRAYS = {
    "float32 0..1": lambda a: (a / 255).astype("float32"),
    "float64 0..1": lambda a: a / 255,
    "float 0..255": lambda a: a.astype("float32"),
    "int64": lambda a: a.astype("int64"),
    "uint16": lambda a: a.astype("uint16") * 257,
    "big-endian uint16": lambda a: (a.astype("uint16") * 257).astype(">u2"),
    "channels first": lambda a: np.moveaxis(a, 2, 0),
}


@pytest.mark.case("G8", "accepted")
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("tensor", [False, True], ids=["array", "tensor"])
def test_an_array_of_any_numbers_has_the_pixels_of_its_picture(processor, kind, tensor):
    import torch

    array = ARRAYS[kind](np.asarray(rgb()))
    if tensor and not array.dtype.isnative:
        pytest.skip("torch has no such numbers")
    array = torch.from_numpy(np.ascontiguousarray(array)) if tensor else array
    expected = processor(images=[rgb()], text=["<image>"], return_tensors="pt")["pixel_values"]
    assert processor(images=[array], text=["<image>"], return_tensors="pt")["pixel_values"].equal(expected)
    batch = processor(images=array[None], text=["<image>"], return_tensors="pt")["pixel_values"]
    assert batch.equal(expected)


def test_floats_that_are_scaled_already_stay_as_they_are(processor):
    scaled = np.asarray(rgb().resize((32, 32))).astype("float32") / 255
    options = {"text": ["<image>"], "return_tensors": "pt"}
    expected = processor(images=[rgb().resize((32, 32))], **options)["pixel_values"]
    given = processor(images=[scaled], do_rescale=False, **options)["pixel_values"]
    assert (given - expected).abs().max() < 0.02


REFUSED = {
    "floats beyond": (GREY.astype("float32") * 2.5, "give 0 to 255 as uint8"),
    "NaN": (np.full((8, 8), np.nan), "give 0 to 255 as uint8"),
    "below 0": (GREY.astype("int16") - 9, "give 0 to 255 as uint8"),
    "texts": (GREY.astype(str), "is not a picture; give a PIL picture"),
    "two channels": (np.zeros((8, 8, 2), "uint8"), "is not a picture"),
    "channels at both ends": (np.zeros((3, 8, 3), "uint8"), "channels first or last"),
    "one row": (np.zeros(8, "uint8"), "is not a picture"),
    "too long": (Image.new("RGB", (20_000, 1)), "20000 x 1 pixels"),
    "too long a file": (encoded(Image.new("L", (20_000, 1)), "PNG"), "20000 x 1 pixels"),
    "too wide for its square": (Image.new("L", (17_000, 100)), "17000 x 100 pixels"),
    "too many pixels": (encoded(Image.new("1", (8_100, 8_000)), "PNG"), "8100 x 8000 pixels"),
    "a TIFF below 0": (encoded(Image.fromarray(GREY - np.float32(9)), "TIFF"), "scale it to 0 to 255"),
    "cut short": (FILES["RGB.png"]()[:-20], "is not a picture|cannot be read"),
    "no picture": (b"x", "bytes is not a picture"),
    "absent": ("/nowhere/picture.png", "neither a picture's file nor base64"),
}


@pytest.mark.case("G8", "refused")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_right_is_refused_with_a_remedy(processor, kind):
    picture, said = REFUSED[kind]
    with pytest.raises(ValueError, match=said):
        processor(images=[picture], text=["<image>"])


def test_the_largest_picture_an_engine_makes_up_is_taken(processor):
    """vLLM sizes its memory by one of 10,000 x 10,000."""
    from processing.pictures_llava_mistral import as_rgb

    assert as_rgb(Image.new("RGB", (10_000, 10_000))).size == (10_000, 10_000)
    out = processor(images=[Image.new("L", (8, 8))], text=["<image>"], return_tensors="pt")
    assert (out["input_ids"] == processor.image_token_id).sum() == IMAGE_TOKENS
