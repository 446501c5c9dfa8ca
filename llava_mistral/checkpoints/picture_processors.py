"""How a picture becomes what the tower sees: `square`, `pad` or `anyres`, from the tower's own settings."""

from transformers import LlavaImageProcessorPil, LlavaNextImageProcessorPil


def picture_processor(base, image_aspect_ratio: str, image_grid_pinpoints: list[list[int]] | None, tile: int):
    """Return the image processor that treats pictures as `image_aspect_ratio` says.

    Args:
        base: the tower's own, CLIP's or SigLIP's; its mean, deviation and resampling are kept.
        image_aspect_ratio: `"square"` (as the tower has it: CLIP crops, SigLIP squeezes), `"pad"` (LLaVA-1.5: square
            by mean colour) or `"anyres"` (LLaVA-1.6: the whole and its tiles).
        image_grid_pinpoints: with anyres, `[height, width]` in pixels that tiles may cover; LLaVA-1.6's when None.
        tile: side of what the tower sees, in pixels.
    """
    if image_aspect_ratio == "square":
        return base
    settings = {key: getattr(base, key, None) for key in ("size", "crop_size", "image_mean", "image_std", "resample")}
    if not settings["crop_size"]:  # SigLIP's size is that of the square it squeezes a picture into
        settings |= {"size": {"shortest_edge": tile}, "crop_size": {"height": tile, "width": tile}}
    if image_aspect_ratio == "pad":
        return LlavaImageProcessorPil(do_pad=True, **settings)
    points = image_grid_pinpoints or [[tile * i, tile * j] for i, j in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    return LlavaNextImageProcessorPil(image_grid_pinpoints=points, **settings)
