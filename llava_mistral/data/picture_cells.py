"""Pictures as records hold them: paths, bytes, cells of `datasets`, one or a list; found below the folders allowed."""

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder

_PICTURE_NAME = re.compile(r"[^\n]{1,400}\.(jpe?g|png|webp|gif|bmp|tiff?|avif|jp2)([?#][^\s]{0,400})?", re.IGNORECASE)
_ENCODED = re.compile(
    r"\s*(data:image/|iVBORw0KGgo|/9j/[A-Za-z0-9+/]{20}|R0lGOD[dl]h?|UklGR[A-Za-z0-9+/]{20})"
)  # base64


class AbsentPicture(BadInput):
    """A picture that is named is not there: all of them are named together."""


def find_picture(folders: Sequence[PictureFolder], name: str, **place: Any) -> Path:
    """Return the picture's absolute path in the first of the folders that has it.

    A name may begin with its folder's own: many a file says "images/1.png" of the 1.png in `images` beside it.

    Raises:
        AbsentPicture: none has it, or it lies elsewhere.
    """
    for folder in folders:
        for tried in {name: None, name.removeprefix(f"{folder.root.name}/"): None}:
            with suppress(BadInput):
                return folder.find(tried, **place)
    try:
        return folders[0].find(name.removeprefix(f"{folders[0].root.name}/"), **place)
    except BadInput as error:
        raise AbsentPicture(error.problem, remedy=error.remedy, **place, field="image") from error


def holds_picture(value: Any) -> bool:
    """Whether a field seems to hold pictures: bytes, base64, a name, an address, a cell; or a list of these."""
    if isinstance(value, list | tuple):
        return any(one is not None for one in value) and all(one is None or holds_picture(one) for one in value)
    if isinstance(value, Mapping):
        return any(holds_picture(part) for part in value.values() if not isinstance(part, list | tuple | Mapping))
    if isinstance(value, bytes):
        return value.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF"))
    return isinstance(value, str) and bool(_PICTURE_NAME.fullmatch(value.strip()) or _ENCODED.match(value))


def unused_pictures(
    fields: Mapping[str, Any], known: Collection[str], given: Sequence[Any], **search: Any
) -> str | None:
    """Return a field of a record that is not `known` and holds pictures that would be ignored.

    Args:
        given: what the fields of pictures hold, lists and all.
        search: `folders` that a name may lead into, and `file` and `record` for messages.
    """
    flat = [part for value in given for one in listed(value) for part in _parts_of(one)]
    for key, value in fields.items():
        if key not in known and holds_picture(value) and (not given or _is_another(value, flat, **search)):
            return key
    return None


def _parts_of(picture: Any) -> list[Any]:
    return list(picture.values()) if isinstance(picture, Mapping) else [picture]


def _is_another(value: Any, given: Sequence[Any], folders: Sequence[PictureFolder], **place: Any) -> bool:
    """Whether a field holds another picture than those `given`; an address, or a name that leads nowhere, tells where
    a picture is from."""
    if isinstance(value, list | tuple):
        return any(_is_another(one, given, folders, **place) for one in value if one is not None)
    if isinstance(value, Mapping):
        return any(_is_another(one, given, folders, **place) for one in value.values() if holds_picture(one))
    if value in given or isinstance(value, str) and "://" in value:
        return False
    if isinstance(value, bytes) or _ENCODED.match(value):
        return True
    names = {_last(one) for one in given if isinstance(one, str)}
    if names:
        return _last(value) not in names
    try:
        return bool(find_picture(folders, value, **place))
    except BadInput:
        return False


def _last(name: str) -> str:
    return name.strip().replace("\\", "/").rsplit("/", 1)[-1]


def listed(value: Any) -> list[Any]:
    return [one for one in value if one is not None] if isinstance(value, list | tuple) else [value]


def cell_of(value: Any, folders: Sequence[PictureFolder], **place: Any) -> dict[str, Any]:
    """Return a picture as a cell {"bytes", "path"} of `datasets`, of whatever a record holds.

    Raises:
        AbsentPicture: a path leads to nothing below the folders.
        BadInput: it is not a picture.
    """
    if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str) and _ENCODED.match(value):
        value = _decoded(value, **place)
    elif isinstance(value, list | tuple | bytearray) and value:
        with suppress(TypeError, ValueError):  # a file's bytes as numbers, as JSON may have them
            value = bytes(value)
    if isinstance(value, bytes) and value:
        return {"bytes": value, "path": None}
    if not isinstance(value, str) or not value:
        raise BadInput("is not a path", remedy="give a path below the image folder", **place, field="image")
    return {"bytes": None, "path": str(find_picture(folders, value, **place))}


def _decoded(text: str, **place: Any) -> bytes:
    """Return the file that a text holds in base64, with or without `data:image/…;base64,` before it."""
    try:
        return base64.b64decode("".join(text.removeprefix("data:").rpartition(",")[2].split()), validate=True)
    except ValueError as error:
        problem = f"is not whole base64 ({text[:30]}…)"
        raise BadInput(problem, remedy="write the picture again, or name its file", **place, field="image") from error
