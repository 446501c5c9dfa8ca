"""One pass over the pictures of a data set: thumbnails, near-duplicates, dark pictures and odd sizes."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import open_picture
from llava_mistral.pruning.words import answer_of, plain

if TYPE_CHECKING:
    from PIL.Image import Image

    from llava_mistral.pruning.samples import Samples

DARK = 24  # mean brightness, of 255, below which hardly anything is to be seen
ODD_SIDES, ODD_AREA = 4.0, 16.0  # sides in a ratio above; pixels above or below the median by that factor
# Pixels of a thumbnail by the number of pictures, so that a page of 10,000 stays below 10 MB.
THUMBNAILS = ((300, 96), (1500, 64), (4000, 40), (100_000, 28))
BITS, SHADES = 3, 4  # by which copies may differ
_BATCH = 100


@dataclass(frozen=True)
class Sign:
    """Summary of a picture: size, brightness, perceptual hash and thumbnail.

    Attributes:
        thumbnail: a small copy as WebP.
        brightness: mean, 0 to 255.
        pattern: where it gets lighter to the right, on a grid of 8 x 8: a difference hash of 64 bits.
        colour: its mean colour, 0 to 255 each.
    """

    thumbnail: bytes
    size: tuple[int, int]
    brightness: float
    pattern: int
    colour: tuple[int, int, int]


def signs_of(samples: "Samples", indices: Sequence[int]) -> dict[int, Sign | None]:
    """Return the sign of the first picture of each of the samples that has one; None where it cannot be read."""
    if not samples.pictures:
        return {}
    wanted = [i for i in indices if samples.problems[i].has_image]
    side = next(pixels for most, pixels in THUMBNAILS if len(wanted) <= most)
    signs: dict[int, Sign | None] = {}

    def look(cells: list[Any]) -> Sign | None:
        try:
            return _sign(open_picture(cells[0]), side)
        except BadInput:
            return None

    with ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter's lock
        for start in range(0, len(wanted), _BATCH):
            part = wanted[start : start + _BATCH]
            signs |= zip(part, pool.map(look, samples.cells(part)), strict=True)
    return signs


def _sign(picture: "Image", side: int) -> Sign:
    from PIL import Image, ImageStat

    small = picture.convert("L").resize((9, 8), Image.Resampling.BOX)
    light = list(small.tobytes())
    rises = (light[9 * y + x] + SHADES < light[9 * y + x + 1] for y in range(8) for x in range(8))
    pattern = sum(rise << bit for bit, rise in enumerate(rises))
    colour = tuple(picture.resize((1, 1), Image.Resampling.BOX).tobytes())
    brightness, size = ImageStat.Stat(small).mean[0], picture.size
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=45, method=4)
    return Sign(buffer.getvalue(), size, brightness, pattern, colour)


def problems_of(samples: "Samples", signs: Mapping[int, Sign | None]) -> dict[str, list[list[int]]]:
    """Return what a look at the data finds, in words, and the samples it concerns, those that belong together in one.

    Nothing is changed or left out for it: whether a dark picture is a fault, who made the data knows.
    """
    seen = {i: sign for i, sign in signs.items() if sign is not None}
    areas = [sign.size[0] * sign.size[1] for sign in seen.values()]
    middle = median(areas) if areas else 1
    look = looks_of(seen)
    alike: dict[int, list[int]] = defaultdict(list)
    same_question: dict[tuple, list[int]] = defaultdict(list)
    for i, problem in enumerate(samples.problems):
        if i in look:
            alike[look[i]].append(i)
        if i in look or not problem.has_image:
            same_question[look.get(i), plain(problem.question), plain(problem.hint or ""), problem.choices].append(i)
    problems = {
        "pictures that cannot be read": [[i] for i, sign in signs.items() if sign is None],
        "dark pictures": [[i] for i, sign in seen.items() if sign.brightness < DARK],
        "pictures of an odd size": [[i] for i, sign in seen.items() if _is_odd(sign.size, middle)],
        "pictures that look alike": [group for group in alike.values() if len(group) > 1],
        "the same question about what looks alike, with different answers": [
            group
            for group in same_question.values()
            if len({plain(answer_of(samples.problems[i])) for i in group} - {""}) > 1
        ],
    }
    return {name: groups for name, groups in problems.items() if groups}


def looks_of(signs: Mapping[int, Sign]) -> dict[int, int]:
    """Return {sample: the first sample whose picture looks like its own}: copies, resized and saved anew or not.

    Alike are pictures whose patterns differ in at most `BITS` of 64 and whose colours by at most `SHADES`.
    """
    import numpy as np

    names = np.array(list(signs), dtype=np.int64)
    patterns = np.array([sign.pattern for sign in signs.values()], dtype=np.uint64)
    colours = np.array([sign.colour for sign in signs.values()], dtype=np.int16).reshape(-1, 3)
    looks: dict[int, int] = {}
    for place, name in enumerate(names.tolist()):
        if name in looks:
            continue
        near = np.bitwise_count(patterns[place:] ^ patterns[place]) <= BITS
        near &= np.abs(colours[place:] - colours[place]).max(1) <= SHADES
        for other in names[place:][near].tolist():
            looks.setdefault(other, name)
    return looks


def _is_odd(size: tuple[int, int], middle: float) -> bool:
    area = size[0] * size[1]
    return max(size) > ODD_SIDES * min(size) or not middle / ODD_AREA <= area <= middle * ODD_AREA
