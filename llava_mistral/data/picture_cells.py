"""Pictures as records hold them: paths, bytes, cells of `datasets`, one or a list; found below the folders allowed."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder

_PICTURE_NAME = re.compile(r"[^\n]{1,400}\.(jpe?g|png|webp|gif|bmp|tiff?|avif|jp2)", re.IGNORECASE)


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
    """Whether a field seems to hold pictures: bytes or a cell of one, or the name of one; or a list of these."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(holds_picture, value))
    if isinstance(value, Mapping):
        return {"bytes", "path"} == set(value) and any(part is not None for part in value.values())
    if isinstance(value, bytes):
        return value.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF"))
    return isinstance(value, str) and bool(_PICTURE_NAME.fullmatch(value.strip()))


def listed(value: Any) -> list[Any]:
    return [one for one in value if one is not None] if isinstance(value, list | tuple) else [value]


def cell_of(value: Any, folders: Sequence[PictureFolder], **place: Any) -> dict[str, Any]:
    """Return a picture as a cell {"bytes", "path"} of `datasets`, of whatever a record holds.

    Raises:
        AbsentPicture: a path leads to nothing below the folders.
        BadInput: it is not a picture.
    """
    if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
        value = value.get("path") if value.get("bytes") is None else bytes(value["bytes"])
    if isinstance(value, bytes) and value:
        return {"bytes": value, "path": None}
    if not isinstance(value, str) or not value:
        raise BadInput("is not a path", remedy="give a path below the image folder", **place, field="image")
    return {"bytes": None, "path": str(find_picture(folders, value, **place))}
