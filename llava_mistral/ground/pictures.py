"""The one picture decoder: every picture that is trained on, embedded, scored or published is opened here.

What comes out is what `transformers.image_utils.load_image` gives a user at inference: the first frame, upright by its
EXIF orientation, and RGB without its alpha channel. Grey of more than 8 bits alone is scaled (`_grey`), where Pillow's
`convert` clips it to white or black. `processing/pictures_llava_mistral.py`, which is published, has the same rules.
"""

import errno
import io
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError, features

from llava_mistral.ground.bad_input import BadInput

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
FORMATS += tuple(name for name, part in (("AVIF", "avif"), ("JPEG2000", "jpg_2000")) if features.check(part))
MOST_PIXELS = 64_000_000  # 256 MB decoded: Pillow takes four bytes a pixel
MOST_BYTES = 256 << 20
MOST_SIDE = 16_384  # padded to a square that is a GB of pixels
MOST_RATIO = 200  # of the sides; a tower's `shortest_edge` makes 100,000 x 1 pixels 33 million wide

Source = str | Path | bytes | Mapping[str, Any] | Image.Image


def open_picture(
    source: Source,
    *,
    rgb: bool = True,
    file: str | Path | None = None,
    record: str | int | None = None,
    field: str = "image",
) -> Image.Image:
    """Return the decoded, upright picture, without EXIF, profile or comments.

    Args:
        source: a path, the bytes of a file, a cell {"bytes", "path"} of `datasets`, anything with `read_bytes()`, or
            a PIL picture.
        rgb: False keeps the mode (grey, palette, alpha) of the source.
        file, record, field: where the picture is named, for the error.

    Raises:
        BadInput: it is not a regular file or not of a format of `FORMATS`, is damaged or truncated, has more than
            64 million pixels, a side of more than 16,384, or sides of more than 200:1; grey that is negative, not
            finite, or beyond 32 bits.
    """
    place = {"file": file, "record": record, "field": field}
    try:
        picture = _upright(source) if isinstance(source, Image.Image) else _decoded(bytes_of(source))
        deep = picture.mode in ("I", "F")  # no format that is published holds them
        picture = _as_rgb(picture) if rgb else _grey(picture) if deep else picture.copy()
    except BadInput as error:
        raise BadInput(error.problem, remedy=error.remedy, **place) from error
    except Exception as error:  # Pillow has no common error; a fuzzed file raises ten kinds, struct.error among them
        if _is_of_the_machine(error):
            raise
        raise BadInput(f"{_named(source)} {_reason(error)}", remedy="replace or drop it", **place) from error
    kept = () if rgb else ("transparency",)
    picture.info = {key: picture.info[key] for key in kept if key in picture.info}
    return picture


def check_header(source: Source, **place: Any) -> None:
    """Refuse, as `open_picture` does, what its first bytes show: no picture, or too large a one. Nothing is decoded.

    Raises:
        BadInput: see `open_picture`; damage further in the file goes unseen.
    """
    try:
        with _opened(bytes_of(source)):
            pass
    except BadInput as error:
        raise BadInput(error.problem, remedy=error.remedy, **{"field": "image", **place}) from error
    except Exception as error:  # as above
        if _is_of_the_machine(error):
            raise
        place = {"field": "image", **place}
        raise BadInput(f"{_named(source)} {_reason(error)}", remedy="replace or drop it", **place) from error


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture of `open_picture` as PNG: the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _named(source: Source) -> str:
    if isinstance(source, Mapping):
        source = source.get("path") if source.get("bytes") is None else b""
    return str(source)[:200] if isinstance(source, str | Path) else "the picture"


def _is_of_the_machine(error: Exception) -> bool:
    """Too many open files, or too little memory: the picture may be a good one, and must not be skipped for it."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is not a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or JPEG 2000"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"is not a picture that can be read ({' '.join(str(error).split())[:120] or type(error).__name__})"


def bytes_of(source: Source) -> bytes:
    """Return the bytes of a picture's file, whatever they are.

    Raises:
        BadInput: the path is not a regular file, or the file has more than 256 MiB.
        OSError: it cannot be read.
    """
    if isinstance(source, Mapping):
        source = source["path"] if source["bytes"] is None else source["bytes"]
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    return _read(source) if isinstance(source, str | Path) else source.read_bytes()


def _read(path: str | Path) -> bytes:
    # Without O_NONBLOCK, opening a FIFO waits for its writer for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise BadInput(f"{str(path)[:200]} is not a regular file", remedy="name a picture")
        if state.st_size > MOST_BYTES:
            problem = f"{str(path)[:200]} has {state.st_size:,} bytes, more than {MOST_BYTES:,}"
            raise BadInput(problem, remedy="make it smaller or drop it")
        return file.read(MOST_BYTES)


def _opened(data: bytes) -> Image.Image:
    if data.startswith(b"version https://git-lfs"):
        raise BadInput("the picture is a Git LFS pointer, not the file", remedy="fetch it with `git lfs pull`")
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(picture)
    return picture


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    long, short = max(width, height), min(width, height)
    if width * height > MOST_PIXELS or long > MOST_SIDE or long > MOST_RATIO * max(1, short):
        problem = f"the picture has {width} x {height} pixels; at most {MOST_PIXELS:,}, a side of {MOST_SIDE:,}"
        problem += f" and sides of {MOST_RATIO}:1 are taken"
        raise BadInput(problem, remedy="make it smaller or drop it")


def _decoded(data: bytes) -> Image.Image:
    picture = _opened(data)
    if picture.format == "PNG":  # load() overlooks a wrong checksum and a missing end; verify() does not
        _opened(data).verify()
    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    _check_size(picture)
    picture.load()
    return ImageOps.exif_transpose(picture)


def _as_rgb(picture: Image.Image) -> Image.Image:
    return _grey(picture).convert("RGB")


def _grey(picture: Image.Image) -> Image.Image:
    """Return grey of more than 8 bits as 8: divided by the power of 4 that the brightest pixel needs to fit.

    So a picture of 10, 12, 14, 16 … bits keeps its shades whatever its file holds them in. Floats of 0 to 1 are
    multiplied by 255.

    Raises:
        BadInput: a pixel is negative or not finite.
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    import numpy as np

    pixels = np.asarray(picture)
    if not np.isfinite(pixels).all() or pixels.min() < 0:
        problem = "the picture has grey values below 0 or NaN"
        raise BadInput(problem, remedy="scale it to 0 to 255 and save it again")
    most = pixels.max()
    bits = max(8, int(most).bit_length() + int(most).bit_length() % 2)
    if picture.mode != "F":
        return Image.fromarray((pixels >> (bits - 8)).astype(np.uint8))
    scale = 255 if most <= 1 else 1 / (1 << (bits - 8))
    return Image.fromarray((pixels * np.float32(scale) + np.float32(0.5)).clip(0, 255).astype(np.uint8))


class PictureFolder:
    """The folder that the pictures of a data set must lie in, links followed.

    Args:
        root: the folder.
        also: further folders that links in it may lead to.

    Folders below it are resolved once each: of 558,000 pictures in 660 folders, only the last part is looked at.
    """

    def __init__(self, root: str | Path, also: Iterable[str | Path] = ()):
        self.root = Path(root)
        real = [os.path.realpath(folder) for folder in (root, *also)]
        self._inside = tuple(folder.rstrip(os.sep) + os.sep for folder in real)
        self._parents: dict[str, str] = {}

    def find(self, name: str | Path, *, file: str | Path, record: str | int) -> Path:
        """Return `root / name` if it is a regular file inside; "absent" and "outside" are distinguished.

        Raises:
            BadInput: it is absent, no regular file, or outside of the folder.
        """
        image, place = self.root / name, {"file": file, "record": record, "field": "image"}
        if "://" in str(name):
            remedy = "fetch the picture and name it below the image folder"
            raise BadInput(f"{str(name)[:200]!r} is an address, not a path", remedy=remedy, **place)
        try:
            real = None if "\0" in str(name) else self._resolved(str(image))
            inside = real is not None and (real + os.sep).startswith(self._inside)
            mode = os.stat(real).st_mode if inside else 0
        except FileNotFoundError as error:
            remedy = "fetch the picture or drop the record"
            raise BadInput(f"{image} does not exist", remedy=remedy, **place) from error
        except OSError as error:  # a name too long, a file taken for a folder, or a loop of links
            wrong = f"{str(image)[:200]!r} is not a path ({error.strerror})"
            raise BadInput(wrong, remedy="name a picture below the image folder", **place) from error
        if not inside:
            wrong = f"{str(image)[:200]!r} is outside of {self.root}"
            raise BadInput(wrong, remedy="keep pictures below the image folder", **place)
        if not stat.S_ISREG(mode):
            raise BadInput(f"{image} is not a regular file", remedy="name a picture", **place)
        return image

    def _resolved(self, image: str) -> str:
        parent, last = os.path.split(image)
        if last in ("", ".", ".."):
            return os.path.realpath(image)
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        path = os.path.join(self._parents[parent], last)
        return os.path.realpath(path) if os.path.islink(path) else path
