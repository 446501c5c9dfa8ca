"""One picture in any form becomes the pixels that training and evaluation see of it, or is refused.

The first frame, upright by its EXIF orientation, as RGB: an alpha channel is dropped, grey of 16 bits is scaled to 8
by its high byte. The library by itself clips 16 bits to white, puts transparent pixels on white, and scales floats
twice.
"""

import base64
import binascii
import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MOST_PIXELS = 64_000_000  # of a file; four bytes each when decoded
MOST_IN_MEMORY = 100_000_000  # engines size their memory by a picture of 10,000 x 10,000
MOST_SIDE = 16_384  # padded to a square that is a GB of pixels
MOST_RATIO = 200  # of the sides
MOST_BYTES = 256 << 20
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
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        pixels = np.asarray(picture)
        if not ((pixels >= 0) & (pixels <= 255) & (pixels == np.round(pixels))).all():
            raise ValueError(f"a picture of mode {picture.mode} holds other numbers than 0 to 255; save it as 8 bits")
        return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


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
    low, high = pixels.min(), pixels.max()
    if pixels.dtype == np.uint8:
        eight = pixels
    elif pixels.dtype == bool or (pixels.dtype.kind == "f" and low >= 0 and high <= 1):
        eight = np.round(pixels.astype(np.float64) * 255)
    elif pixels.dtype == np.uint16:
        eight = pixels >> 8
    elif pixels.dtype.kind in "iuf" and low >= 0 and high <= 255 and (pixels == np.round(pixels)).all():
        eight = pixels
    else:
        raise ValueError(
            f"an array of {pixels.dtype} from {low:.4g} to {high:.4g} is not a picture; give 0 to 255 as uint8, 16 "
            "bits as uint16, or floats from 0 to 1"
        )
    return np.ascontiguousarray(eight.astype(np.uint8))


__all__ = ["as_rgb", "check_form"]
