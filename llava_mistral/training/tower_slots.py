"""How many tiles the tower reads at a time, with the same bits for a picture whatever lies beside it.

A matrix product's kernel, and with it the bits, depends on its shape: batches of one size, the last one filled up,
have one shape. Whether a tile's bits also depend on its slot (kernels that split a sum may do that) is tried at the
start.
"""

import torch

SLOTS = 8  # one by one CLIP-L/336 waits for the host: about 430 launches a picture


def select_features(tower: torch.nn.Module, picture: torch.Tensor, config) -> torch.Tensor:
    """The hidden states that the projector reads, of `(tiles, 3, height, width)`: `(tiles, patches, width)`."""
    states = tower(picture.to(tower.dtype), output_hidden_states=True, return_dict=True).hidden_states
    layers = config.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else layers
    first = int(config.vision_feature_select_strategy == "default")
    return torch.cat([states[layer][:, first:] for layer in layers], dim=-1)


def slots_are_alike(tower: torch.nn.Module, config, slots: int) -> bool:
    """Whether a tile has the same bits in each slot of a batch, whatever lies in the others, on the tower's device.

    Args:
        config: a `LlavaMistralConfig`.
    """
    side, device = config.vision_config.image_size, next(tower.parameters()).device
    generator = torch.Generator().manual_seed(0)
    tile, *others = torch.randn(slots, config.vision_config.num_channels, side, side, generator=generator).to(device)
    found = []
    for before in range(slots):
        batch = torch.stack([*others[slots - 1 - before :], tile, *others[: slots - 1 - before]])
        found.append(select_features(tower, batch, config)[before])
    return all(features.equal(found[0]) for features in found)


def slots_of(module: torch.nn.Module, config, cached: bool) -> int:
    """Tiles that the tower of a `LlavaMistralModel` reads at a time: `SLOTS` on a GPU, 1 on a CPU.

    Features that are stored must have the bits of those that are read again. So where they are, the slots are tried in
    the run's precision, and one tile is read at a time where they differ; elsewhere nothing was promised.

    Args:
        config: the SFTConfig of the run.
    """
    device = config.device
    if device.type == "cpu" or not cached:
        return 1 if device.type == "cpu" else SLOTS
    tower, dtype = module.vision_tower, torch.float16 if config.fp16 else torch.bfloat16
    home = next(tower.parameters()).device
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=bool(config.bf16 or config.fp16)):
        alike = slots_are_alike(tower.to(device).eval(), module.config, SLOTS)
    tower.to(home)
    return SLOTS if alike else 1
