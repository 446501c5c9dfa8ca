"""A model as an inference engine makes it, and pictures to ask it about."""

from PIL import Image

SIZES = [(60, 20), (20, 60), (33, 33)]  # width, height


def pictures(sizes=SIZES) -> list[Image.Image]:
    return [Image.new("RGB", size, (40 * index, 200, 90)) for index, size in enumerate(sizes)]
