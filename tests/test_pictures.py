"""One decoder: 24 kinds of files and what becomes of each, in little time and memory, and pixels that agree with
what a user's loader makes of them at inference."""

import hashlib
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from bad_input import BadInput
from pictures import PictureFolder, check_header, open_picture
from tests.running import HOME, run_apart

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 4), np.uint8)


def encoded(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.array([[0, 255, 256, 30_000, 65_535]], np.uint16))
    return Image.fromarray(NOISE).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A black picture of any size whose file is small."""
    pack = zlib.compressobj(9)
    line = bytes((width + 7) // 8 + 1)
    lines = b"".join(pack.compress(line * min(500, height - start)) for start in range(0, height, 500)) + pack.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def with_chunk(kind: bytes, data: bytes) -> bytes:
    whole = encoded(noise())
    return whole[:33] + chunk(kind, data) + whole[33:]


def wrong_checksum() -> bytes:
    whole = bytearray(encoded(noise()))
    whole[whole.index(b"IEND") - 5] ^= 1  # the last byte of the checksum of the pixels
    return bytes(whole)


JPEG = encoded(noise(), "JPEG", quality=95)
PNG = encoded(noise())
REFUSED = {  # C1-C8, C17, C18, C21, each with a legal neighbour
    "empty": (b"", PNG),
    "page": (b"<!doctype html><title>404</title>", JPEG),
    "cut": (JPEG[: len(JPEG) * 6 // 10], JPEG),
    "no end": (PNG[: PNG.index(b"IEND") - 4], PNG + b"\0"),
    "wrong checksum": (wrong_checksum(), PNG),
    "bomb": (png_of(20_000, 20_000), png_of(2_000, 2_000)),
    "near-bomb": (png_of(10_000, 9_000), png_of(3_000, 3_000)),
    "line": (png_of(100_000, 1), png_of(200, 1)),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', PNG),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", PNG),
    "text bomb": (
        with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20))),
        with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(99))),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_file_is_refused_by_name_and_its_neighbour_accepted(kind, tmp_path):
    bad, good = REFUSED[kind]
    (tmp_path / "bad.png").write_bytes(bad)
    for source in (bad, tmp_path / "bad.png", {"bytes": bad, "path": None}):
        with pytest.raises(BadInput) as refused:
            open_picture(source, file="set", record="7")
        said = str(refused.value)
        assert said.startswith("set: record 7: field image: ") and "\n" not in said and "0x" not in said
    assert open_picture(good).mode == "RGB"


def test_hostile_files_take_little_time_and_memory(tmp_path):
    """All of them, in a process that may hold no more than 500 MB."""
    for name, (bad, _) in REFUSED.items():
        (tmp_path / name).write_bytes(bad)
    code = """if True:
        import sys, time
        from pathlib import Path
        from bad_input import BadInput
        from pictures import open_picture
        for path in sorted(Path(sys.argv[1]).iterdir()):
            started = time.process_time()
            try:
                open_picture(path)
                print("opened", path)
            except BadInput:
                pass
            if time.process_time() - started > 1:
                print("slow", path)
        status = Path("/proc/self/status").read_text()  # ru_maxrss is the parent's where that was larger
        if int(status.partition("VmHWM:")[2].split()[0]) > 500_000:
            print("large")
        """
    assert run_apart("-c", code, tmp_path).stdout == ""


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), tmp_path / "absent.png"):
        with pytest.raises(BadInput, match="is no regular file|cannot be read"):
            open_picture(path)


def test_a_picture_stays_in_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out.png").write_bytes(PNG)
    (tmp_path / "in" / "own.png").write_bytes(PNG)
    (tmp_path / "in" / "leads-out.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "leads-in.png").symlink_to(tmp_path / "in" / "own.png")
    os.mkfifo(tmp_path / "in" / "fifo")
    (tmp_path / "root").symlink_to(tmp_path / "in")
    for root in (tmp_path / "in", tmp_path / "root"):
        folder = PictureFolder(root)
        for name in ("own.png", "leads-in.png", "../in/own.png"):
            assert folder.find(name, file="set", record=1) == root / name
        outside = (
            "leads-out.png",
            "up/out.png",
            "../out.png",
            str(tmp_path / "out.png"),
            "own.png\0",
            "/etc/hostname",
        )
        for name in outside:
            with pytest.raises(BadInput, match="set: record 1: field image: .* is outside of"):
                folder.find(name, file="set", record=1)
        for name, said in (("absent.png", "does not exist"), ("fifo", "no regular file"), (".", "no regular file")):
            with pytest.raises(BadInput, match=said):
                folder.find(name, file="set", record=1)


def animated(form: str) -> bytes:
    return encoded(noise(), form, save_all=True, append_images=[Image.new("RGB", (64, 48), "red")], lossless=True)


def broken_profile() -> bytes:
    return encoded(noise(), icc_profile=b"\0\0\0\x80 no profile at all")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    return PNG + buffer.getvalue()


ACCEPTED = {  # C9-C15, C19, C20, C22
    "one pixel": encoded(noise().crop((0, 0, 1, 1))),
    "cmyk": encoded(noise("CMYK"), "JPEG"),
    "grey of 16 bits": encoded(noise("I;16")),
    "rgba": encoded(noise("RGBA")),
    "palette": encoded(noise("P"), transparency=3),
    "grey and alpha": encoded(noise("LA")),
    "gif": animated("GIF"),
    "webp": animated("WEBP"),
    "apng": animated("PNG"),
    "trailing zip": zipped(),
    "profile": broken_profile(),
    "tiff": encoded(noise(), "TIFF"),
    "bmp": encoded(noise(), "BMP"),
}
GOLDEN = {  # of Pillow 13.0
    "one pixel": "e7c06d7b2a4d",
    "cmyk": "193effb245ad",
    "grey of 16 bits": "5996e5ecf175",
    "rgba": "679d328eac19",
    "palette": "9423d93e85c0",
    "grey and alpha": "74f9b3c69a86",
    "gif": "c1fc6753ff16",
    "webp": "679d328eac19",
    "apng": "679d328eac19",
    "trailing zip": "679d328eac19",
    "profile": "679d328eac19",
    "tiff": "679d328eac19",
    "bmp": "679d328eac19",
}


def pixels(picture: Image.Image) -> str:
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()[:12]


@pytest.mark.parametrize("kind", ACCEPTED)
def test_an_odd_file_gives_the_pixels_that_inference_gives(kind, tmp_path):
    """`load_image` is what chat templates and pipelines open pictures with."""
    from transformers.image_utils import load_image

    (tmp_path / "wrong-extension.jpg").write_bytes(ACCEPTED[kind])
    picture = open_picture(tmp_path / "wrong-extension.jpg")
    assert picture.mode == "RGB" and not picture.info
    assert pixels(picture) == GOLDEN[kind]
    theirs = load_image(Image.open(io.BytesIO(ACCEPTED[kind])))
    assert (picture.tobytes() == theirs.tobytes()) == (kind != "grey of 16 bits")


def test_grey_of_16_bits_is_scaled_not_clipped():
    assert [open_picture(ACCEPTED["grey of 16 bits"]).getpixel((x, 0))[0] for x in range(5)] == [0, 0, 1, 117, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_comes_out_upright(orientation):
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "taken at home"
    data = encoded(noise(), "PNG", exif=exif)
    picture = open_picture(data)
    assert picture.size == ((64, 48) if orientation < 5 else (48, 64))
    assert picture.tobytes() == load_image(Image.open(io.BytesIO(data))).tobytes()
    assert not picture.getexif() and not picture.info
    assert open_picture(Image.open(io.BytesIO(data))).tobytes() == picture.tobytes()


def test_the_header_alone_tells_no_picture_and_sizes_but_not_damage():
    for kind in ("empty", "page", "bomb", "line", "svg", "pointer"):
        with pytest.raises(BadInput):
            check_header(REFUSED[kind][0])
    check_header(REFUSED["cut"][0])


def test_pillow_is_never_told_to_make_up_what_is_missing():
    files = [path for path in HOME.rglob("*.py") if ".venv" not in path.parts and path != Path(__file__)]
    assert files and not [path for path in files if "LOAD_TRUNCATED_IMAGES" in path.read_text(encoding="utf-8")]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_thousand_damaged_files_open_or_are_refused():
    rng = np.random.default_rng(1)
    seeds = [JPEG, *ACCEPTED.values()]
    outcomes = {"opened": 0, "refused": 0}
    for number in range(1000):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.integers(1, 6)):
            place = int(rng.integers(len(data)))
            if rng.random() < 0.2:
                del data[place : place + int(rng.integers(1, 40))]
                data = data or bytearray(b"\0")
            else:
                data[place] = int(rng.integers(256))
        try:
            open_picture(bytes(data))
            outcomes["opened"] += 1
        except BadInput:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100
