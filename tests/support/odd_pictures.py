"""Picture files of the catalogue's group C: what is refused with a legal neighbour, and what is odd but accepted."""

import hashlib
import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

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


def tiff_of(width: int, height: int) -> bytes:
    """A TIFF of few bytes whose header claims so many pixels."""
    data = bytearray(encoded(Image.new("L", (8, 8)), "TIFF"))
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    for place in range(first + 2, first + 2 + 12 * count, 12):
        if (tag := struct.unpack_from("<H", data, place)[0]) in (256, 257):
            struct.pack_into("<HHII", data, place, tag, 4, 1, width if tag == 256 else height)
    return bytes(data)


def webp_of(width: int, height: int) -> bytes:
    """A WebP of few bytes whose header claims so many pixels."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    place = data.index(b"VP8L") + 9
    flags = struct.unpack_from("<I", data, place)[0] >> 28
    struct.pack_into("<I", data, place, flags << 28 | (height - 1) << 14 | width - 1)
    return bytes(data)


JPEG = encoded(noise(), "JPEG", quality=95)
PNG = encoded(noise())
REFUSED = {  # name: what is refused, its legal neighbour
    "C1 empty": (b"", PNG),
    "C2 page": (b"<!doctype html><title>404</title>", JPEG),
    "C3 cut": (JPEG[: len(JPEG) * 6 // 10], JPEG),
    "C4 no end": (PNG[: PNG.index(b"IEND") - 4], PNG + b"\0"),
    "C5 wrong checksum": (wrong_checksum(), PNG),
    "C6 bomb": (png_of(20_000, 20_000), png_of(2_000, 2_000)),
    "C7 near-bomb": (png_of(10_000, 9_000), png_of(3_000, 3_000)),
    "C7 near-bomb.tiff": (tiff_of(10_000, 9_000), encoded(noise(), "TIFF")),
    "C7 near-bomb.webp": (webp_of(10_000, 9_000), encoded(noise(), "WEBP", lossless=True)),
    "C8 line": (png_of(100_000, 1), png_of(200, 1)),
    "C17 svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', PNG),
    "C18 pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", PNG),
    "C21 text bomb": (
        with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20))),
        with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(99))),
    ),
}


def animated(form: str) -> bytes:
    return encoded(noise(), form, save_all=True, append_images=[Image.new("RGB", (64, 48), "red")], lossless=True)


def broken_profile() -> bytes:
    return encoded(noise(), icc_profile=b"\0\0\0\x80 no profile at all")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    return PNG + buffer.getvalue()


ACCEPTED = {
    "C9 one pixel": encoded(noise().crop((0, 0, 1, 1))),
    "C10 cmyk": encoded(noise("CMYK"), "JPEG"),
    "C11 grey of 16 bits": encoded(noise("I;16")),
    "C12 rgba": encoded(noise("RGBA")),
    "C13 palette": encoded(noise("P"), transparency=3),
    "C14 grey and alpha": encoded(noise("LA")),
    "C15 gif": animated("GIF"),
    "C15 webp": animated("WEBP"),
    "C15 apng": animated("PNG"),
    "C20 trailing zip": zipped(),
    "C22 profile": broken_profile(),
    "C19 tiff": encoded(noise(), "TIFF"),
    "C19 bmp": encoded(noise(), "BMP"),
}
GOLDEN = {  # of Pillow 13.0
    "C9 one pixel": "e7c06d7b2a4d",
    "C10 cmyk": "193effb245ad",
    "C11 grey of 16 bits": "5996e5ecf175",
    "C12 rgba": "679d328eac19",
    "C13 palette": "9423d93e85c0",
    "C14 grey and alpha": "74f9b3c69a86",
    "C15 gif": "c1fc6753ff16",
    "C15 webp": "679d328eac19",
    "C15 apng": "679d328eac19",
    "C20 trailing zip": "679d328eac19",
    "C22 profile": "679d328eac19",
    "C19 tiff": "679d328eac19",
    "C19 bmp": "679d328eac19",
}


def pixels(picture: Image.Image) -> str:
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()[:12]


def lying(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "taken at home"
    return encoded(noise(), "PNG", exif=exif)
