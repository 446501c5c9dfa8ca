"""One picture in any form becomes the pixels that training and evaluation see of it, or is refused.

The first frame, upright by its EXIF orientation, as RGB: an alpha channel is dropped, grey of more than 8 bits is
divided by the power of 4 that its brightest pixel needs to fit (10, 12, 14 or 16 bits keep their shades). The library
by itself clips 16 bits to white, puts transparent pixels on white, and scales floats twice.
"""

import base64
import binascii
import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, features

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
FORMATS += tuple(name for name, part in (("AVIF", "avif"), ("JPEG2000", "jpg_2000")) if features.check(part))
MOST_PIXELS = 64_000_000  # of a file; four bytes each when decoded
MOST_IN_MEMORY = 100_000_000  # engines size their memory by a picture of 10,000 x 10,000
MOST_SIDE = 16_384  # padded to a square that is a GB of pixels
MOST_RATIO = 200  # of the sides
MOST_BYTES = 256 << 20
PICTURE_KEYS = ("image", "url", "path", "base64", "image_url")  # of a part of a message
TAKEN = "give a PIL picture, an array, a path or base64"


def as_rgb(picture) -> Image.Image:
    """Return the picture as RGB of eight bits.

    Args:
        picture: a PIL picture; the bytes of a file; a path; base64, with or without `data:image/…`; an array or tensor
            `(height, width)`, `(height, width, channels)` or `(channels, height, width)` of 1, 3 or 4 channels: eight
            bits, sixteen bits, or floats from 0 to 1; `{"bytes", "path"}` as `datasets` has it.

    Raises:
        ValueError: it is none of these, is damaged, an address, or too large.
    """
    if isinstance(picture, dict):
        picture = picture.get("path") if picture.get("bytes") is None else picture["bytes"]
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        picture = (picture.float() if picture.is_floating_point() else picture).numpy()
    if isinstance(picture, np.ndarray):
        return _check_size(Image.fromarray(_eight_bits(picture)).convert("RGB"))
    try:
        if isinstance(picture, Image.Image):
            _check_size(picture)
            picture.load()
            return _converted(ImageOps.exif_transpose(picture))
        data = _bytes_of(picture)
        if data.startswith(b"version https://git-lfs"):
            raise ValueError("the picture is a Git LFS pointer; fetch it with `git lfs pull`")
        picture = _check_size(Image.open(io.BytesIO(data), formats=FORMATS))
        if picture.format == "PNG":  # load() overlooks a wrong checksum and a missing end; verify() does not
            Image.open(io.BytesIO(data), formats=FORMATS).verify()
        picture.load()
        return _converted(ImageOps.exif_transpose(picture))
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # Pillow has no common error
        if isinstance(picture, bytes | bytearray):
            raise ValueError(f"{type(picture).__name__} is not a picture that can be read; {TAKEN}") from error
        name = f" {str(picture)[:80]!r}" if isinstance(picture, str | Path) else ""
        why = " ".join(str(getattr(error, "strerror", None) or error).split())[:120] or type(error).__name__
        raise ValueError(f"the picture{name} cannot be read ({why}); {TAKEN}") from error


def check_form(picture) -> None:
    """Refuse what is not a picture in any form, without opening it, and URLs: a client would choose what this
    machine connects to.

    Raises:
        ValueError: naming what was given.
    """
    if isinstance(picture, list | tuple):
        for one in picture:
            if one is None:
                raise ValueError("the picture is None; give a picture, or leave it and its token out")
            check_form(one)
        return
    if isinstance(picture, dict):  # OpenAI's image_url, or a cell of `datasets`
        picture = next((picture[key] for key in ("url", "bytes", "path") if picture.get(key) is not None), picture)
    if isinstance(picture, str):
        if "://" in picture[:20]:
            raise ValueError(f"the picture {picture[:80]!r} is an address; fetch it yourself and give the picture")
    elif picture is not None and not isinstance(
        picture, Image.Image | np.ndarray | torch.Tensor | Path | bytes | bytearray
    ):
        raise ValueError(f"{type(picture).__name__} is not a picture; {TAKEN}")


def _bytes_of(picture) -> bytes:
    check_form(picture)
    if isinstance(picture, bytes | bytearray):
        return bytes(picture)
    if isinstance(picture, Path) or (isinstance(picture, str) and len(picture) < 4096 and os.path.isfile(picture)):
        if not os.path.isfile(picture):
            raise ValueError(f"there is no picture at {str(picture)[:200]!r}; {TAKEN}")
        if os.path.getsize(picture) > MOST_BYTES:
            raise ValueError(f"{str(picture)[:200]!r} has more than {MOST_BYTES:,} bytes; make it smaller")
        return Path(picture).read_bytes()
    if not isinstance(picture, str):
        raise ValueError(f"{type(picture).__name__} is not a picture; {TAKEN}")
    try:
        data = picture.split(",", 1)[1] if picture.startswith("data:") else picture
        return base64.b64decode("".join(data.split()), validate=True)
    except (IndexError, binascii.Error, ValueError) as error:
        raise ValueError(
            f"{picture[:80]!r} is neither a picture's file nor base64; check the path, or {TAKEN}"
        ) from error


def _check_size(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    most = MOST_PIXELS if getattr(picture, "fp", None) else MOST_IN_MEMORY
    long, short = max(width, height), min(width, height)
    if width * height > most or long > MOST_SIDE or long > MOST_RATIO * max(1, short):
        raise ValueError(
            f"the picture has {width} x {height} pixels; at most {most:,}, a side of {MOST_SIDE:,} and "
            f"sides of {MOST_RATIO}:1 are taken: make it smaller"
        )
    return picture


def _converted(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        picture = Image.fromarray(_scaled(np.asarray(picture)))
    picture = picture.convert("RGB")
    picture.info = {}  # by a colour that is noted there as transparent, the library would put pixels on white
    return picture


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Return numbers of more than 8 bits as uint8; floats of 0 to 1 are multiplied by 255.

    Raises:
        ValueError: one is negative or not finite.
    """
    if not np.isfinite(pixels).all() or pixels.min() < 0:
        raise ValueError("the picture has pixels below 0, or that are no number; scale it to 0 to 255")
    most = pixels.max()
    bits = max(8, int(most).bit_length() + int(most).bit_length() % 2)
    if pixels.dtype.kind != "f":
        return (pixels >> (bits - 8)).astype(np.uint8)
    scale = 255 if most <= 1 else 1 / (1 << (bits - 8))
    return (pixels * np.float32(scale) + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as uint8, `(height, width)` or `(height, width, 3)`."""
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
        if pixels.shape[2] in (1, 3, 4):
            raise ValueError(f"an array of {pixels.shape} may have its channels first or last; give a PIL picture")
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim not in (2, 3) or not pixels.size or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an array of {pixels.shape} is not a picture; give height, width and 1, 3 or 4 channels")
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    pixels = pixels[..., :3] if pixels.ndim == 3 else pixels
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"an array of {pixels.dtype} is not a picture; {TAKEN}")
    low, high = pixels.min(), pixels.max()
    if pixels.dtype == np.uint8:
        eight = pixels
    elif pixels.dtype == bool:
        eight = pixels * np.uint8(255)
    elif pixels.dtype.newbyteorder("=") == np.uint16 or (pixels.dtype.kind == "f" and low >= 0 and high <= 1):
        eight = _scaled(pixels)
    elif pixels.dtype.kind in "iuf" and low >= 0 and high <= 255 and (pixels == np.round(pixels)).all():
        eight = pixels
    else:
        raise ValueError(
            f"an array of {pixels.dtype} from {low:.4g} to {high:.4g} is not a picture; give 0 to 255 as uint8, 16 "
            "bits as uint16, or floats from 0 to 1"
        )
    return np.ascontiguousarray(eight.astype(np.uint8))


def decoded(images, keep_arrays: bool):
    """Return pictures in any nesting as RGB; with `keep_arrays`, arrays are what the caller has scaled already."""
    if isinstance(images, list | tuple):
        return [decoded(image, keep_arrays) for image in images]
    if images is None or (keep_arrays and hasattr(images, "ndim")):
        return images
    if getattr(images, "ndim", 0) == 4:
        return [as_rgb(image) for image in images]
    return as_rgb(images)


def decoded_chat(chat: list[dict]) -> list[dict]:
    """Return the messages with every picture decoded; one that cannot be is named by its message."""
    decoded = []
    for index, message in enumerate(chat):
        content = message["content"]
        if not isinstance(content, str):
            content = [_decoded_part(part, index) for part in content]
        decoded.append({**message, "content": content})
    return decoded


def _decoded_part(part: dict, index: int) -> dict:
    given = [part[key] for key in PICTURE_KEYS if key in part]
    if part["type"] not in ("image", "image_url") or len(given) != 1:
        return part
    picture = given[0]["url"] if isinstance(given[0], dict) and "url" in given[0] else given[0]
    if hasattr(picture, "ndim"):  # whether its numbers are scaled already, the arguments of the call say
        return part
    try:
        return {"type": "image", "image": as_rgb(picture)}
    except ValueError as error:
        raise ValueError(f"message {index}: field image: {error}") from error


__all__ = ["as_rgb", "check_form", "decoded", "decoded_chat"]
