"""The projector's input for a picture: from the frozen tower or from the cache, always the same bits.

The bits of a matrix product depend on its shape, so the tower reads each picture by itself or, on a GPU, in batches of
one size (`tower_slots`): its features for one do not depend on the others in the batch, and stored features are those
the tower would have given.
"""

import hashlib
import inspect
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub.constants import HF_HOME
from torch.distributed.tensor import DTensor
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from llava_mistral.ground import pictures
from llava_mistral.training.batch_pictures import reads_twice
from llava_mistral.training.tower_slots import select_features, slots_of
from llava_mistral.training.vision_cache import VisionCache

OURS = ("pixel_values", "image_sizes", "is_stored", "stored_features", "picture_keys")
BEYOND_BITS = ("_name_or_path", "transformers_version", "dtype", "architectures")  # of a tower's configuration


class VisionFeatures:
    """Reads the pictures in the model's stead, from inside its forward, where DDP, FSDP2 and ZeRO see the projector.

    Registered on the `LlavaMistralModel` in `model` before that is wrapped; takes what `Pictures` gave out of the
    arguments and passes `mm_encoder_outputs`. For a batch without pictures these are no tokens at all, made by the
    projector: they change no bit, but it gets a gradient, of zeros, and no process waits for another's.

    Args:
        model: the model to train, its tower frozen; plain or a `PeftModel`.
        cache: where the features of new pictures are stored; None: nowhere.
        slots: tiles that the tower reads at a time; 1: each picture by itself.
    """

    def __init__(self, model: torch.nn.Module, cache: VisionCache | None = None, slots: int = 1):
        self.cache, self.slots, self._whole = cache, slots, None
        self.module, self.handle = vision_model(model), None
        self.module.picture_reader = self
        self.register()

    def register(self) -> None:
        """Run before the module's forward and after its other hooks: DeepSpeed's gather `image_newline`."""
        if self.handle is not None:
            self.handle.remove()
        self.handle = self.module.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    @torch.compiler.disable  # files, and as many steps as there are pictures
    def _before_forward(self, module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        given = {name: kwargs.pop(name) for name in OURS if kwargs.get(name) is not None}
        tower = self._tower(module, kwargs)
        if given.keys() & {"pixel_values", "stored_features"}:
            tokens = self._image_tokens(module, tower, given)
        elif kwargs.get("mm_encoder_outputs") is None and torch.is_grad_enabled():
            tokens = no_image_tokens(module)
        else:
            return args, kwargs
        return args, {**kwargs, "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=tokens)}}

    def _tower(self, module, kwargs: dict) -> torch.nn.Module:
        """The module's own tower; where its weights are spread over processes, a whole copy of it.

        Processes have different numbers of pictures to read, and reading with spread weights is the work of all. The
        copy is made in the first forward, which all ranks take part in.
        """
        if self._whole is None and is_spread(module.vision_tower):
            given = next(value for value in kwargs.values() if isinstance(value, torch.Tensor))
            self._whole = whole_copy(module.vision_tower, given.device)
        tower = module.vision_tower if self._whole is None else self._whole
        return tower.eval()  # frozen: it drops nothing, and there is nothing to recompute on the way back

    def _image_tokens(self, module, tower, given: dict) -> list[torch.Tensor]:
        features = self._features(module, tower, given)
        projected = module.multi_modal_projector(torch.cat(features))  # (tiles, patches, hidden)
        if module.image_newline is None:
            return list(projected)
        tiles = projected.split([len(one) for one in features])
        strategy = module.config.vision_feature_select_strategy
        return module.pack_image_features(tiles, given["image_sizes"], strategy, module.image_newline)[0]

    @torch.no_grad()
    def _features(self, module, tower, given: dict) -> list[torch.Tensor]:
        """One `(tiles, patches, width)` for each picture, in order."""
        pixels = given.get("pixel_values", ())
        stored = given["is_stored"].tolist() if "is_stored" in given else [False] * len(pixels)
        # Only tiles ask for a picture's size: a square's says nothing.
        sizes = [(0, 0)] * len(stored) if module.image_newline is None else given["image_sizes"].tolist()
        tiles = [1] * len(stored) if module.image_newline is None else [tile_count(module, size) for size in sizes]
        counts = [count for count, is_stored in zip(tiles, stored, strict=True) if is_stored]
        at_hand = iter(given["stored_features"].split(counts)) if counts else iter(())
        keys = iter(given["picture_keys"].tolist() if self.cache is not None and "picture_keys" in given else ())
        pictures, found, places = iter(pixels), {}, []
        for index, count in enumerate(tiles):
            place = index
            if stored[index]:
                found[place] = next(at_hand)
            else:
                picture, key = next(pictures), next(keys, None)
                if key is not None:
                    place = bytes(key)  # a picture that is there twice is read once
                if place not in found:
                    own = picture[None] if picture.dim() == 3 else picture[:count]
                    entry = self._stored(place, picture.device)
                    found[place] = _Unread(own, sizes[index]) if entry is None else entry
            places.append(place)
        self._read(module, tower, found)
        return [found[place] for place in places]

    def _stored(self, place, device: torch.device) -> torch.Tensor | None:
        """The collator looked into the store some batches ago; another row may have brought the picture since."""
        entry = self.cache.get(place) if isinstance(place, bytes) else None
        return None if entry is None else entry[0].to(device)

    def _read(self, module, tower, found: dict) -> None:
        """Put features in the place of what is unread, and into the store."""
        unread = {place: one for place, one in found.items() if isinstance(one, _Unread)}
        if not unread:
            return
        pictures = [one.tiles for one in unread.values()]
        batches = pictures if self.slots == 1 else torch.cat(pictures).split(self.slots)
        precision = precision_read(module)
        read = [select_features(tower, self._filled(part), module.config)[: len(part)] for part in batches]
        each = torch.cat(read).to(precision).split([len(picture) for picture in pictures])
        for (place, one), features in zip(unread.items(), each, strict=True):
            found[place] = features
            if isinstance(place, bytes):
                self.cache.put(place, features, one.size)

    def _filled(self, tiles: torch.Tensor) -> torch.Tensor:
        """A batch of the size that all have, with the first tile again in what is empty."""
        return tiles if self.slots == 1 else torch.cat([tiles, tiles[:1].expand(self.slots - len(tiles), -1, -1, -1)])


@dataclass(frozen=True)
class _Unread:
    """A picture that the tower has to read, and its height and width."""

    tiles: torch.Tensor
    size: tuple[int, int]


def vision_model(model: torch.nn.Module) -> torch.nn.Module:
    """The `LlavaMistralModel` in a model for generation, which may be wrapped by PEFT."""
    return (model.get_base_model() if hasattr(model, "peft_config") else model).model


def precision_read(module: torch.nn.Module) -> torch.dtype:
    """The precision in which the projector reads; under autocast to bfloat16 that halves what is stored."""
    weight = next(module.multi_modal_projector.parameters())
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def no_image_tokens(module: torch.nn.Module) -> list[torch.Tensor]:
    """A tensor of no tokens, `(0, hidden)`, connected to the projector's weights so that they get zero gradients."""
    layers = module.config.vision_feature_layer
    width = module.config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
    weight = next(module.multi_modal_projector.parameters())
    tokens = [module.multi_modal_projector(torch.zeros(1, width, dtype=weight.dtype, device=weight.device))[:0]]
    return tokens if module.image_newline is None else [*tokens, module.image_newline[None][:0]]


def tile_count(module: torch.nn.Module, size: list[int]) -> int:
    """Tiles of a picture of `size` (height, width) pixels, the whole picture in one tile among them."""
    return image_size_to_num_patches(size, module.config.image_grid_pinpoints, module.config.vision_config.image_size)


def is_spread(tower: torch.nn.Module) -> bool:
    """Whether each process holds a part of the weights only: FSDP2, ZeRO-3."""
    return any(isinstance(weight, DTensor) or hasattr(weight, "ds_id") for weight in tower.parameters())


def whole_weights(tower: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tower's weights, gathered where they are spread; the work of all processes."""
    gathered = nullcontext()
    if is_deepspeed_zero3_enabled():
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(list(tower.parameters()))
    with gathered:
        return {
            name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()
            for name, weight in tower.state_dict().items()
        }


def whole_copy(tower: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """A tower of its own class that holds all weights itself; by its constructor, which spreads nothing."""
    weights = whole_weights(tower)
    copy = transformers.MODEL_MAPPING[type(tower.config)](tower.config)
    copy.load_state_dict({name: weight.to(device) for name, weight in weights.items()}, strict=True, assign=True)
    return copy.to(device).requires_grad_(False)


def tower_key(model: torch.nn.Module, processor, arithmetic: list) -> str:
    """Hash of everything that moves a bit of the features besides the picture itself.

    Weights and configuration of the tower, which of its states are read, preprocessing, arithmetic and the versions
    and the hardware that carry it out. Of the first process, which has the weights where others do not.
    """
    module = vision_model(model)
    digest = hashlib.sha256()
    settings = {name: value for name, value in module.vision_tower.config.to_dict().items() if name not in BEYOND_BITS}
    settings = {
        "tower": settings,
        "layer": module.config.vision_feature_layer,
        "strategy": module.config.vision_feature_select_strategy,
        "attention": module.vision_tower.config._attn_implementation,
        "preprocessing": [type(processor.image_processor).__name__, processor.image_processor.to_dict()],
        "decoder": inspect.getsource(pictures),
        "arithmetic": arithmetic,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()}",
        "versions": [torch.__version__, transformers.__version__, PIL.__version__],
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weight in sorted(whole_weights(module.vision_tower).items()):
        if weight.device.type != "meta":
            digest.update(f"{name} {tuple(weight.shape)} ".encode())  # the numbers, whether in 16 bits or in 32
            digest.update(weight.cpu().float().contiguous().view(-1).view(torch.uint8).numpy())
    key = [digest.hexdigest()[:32]]
    if PartialState().num_processes > 1:
        broadcast_object_list(key)
    return key[0]


def open_cache(stage, config, rows, model: torch.nn.Module, processor) -> tuple[VisionCache | None, int]:
    """The store of a run, or None where it is off or, left to itself, no picture would be read twice; and the slots.

    Args:
        stage: a `StageArguments` with `vision_cache` and `vision_cache_gb`.
        config: the SFTConfig of the run.
        rows: the training rows.
    """
    if (stage.vision_cache or "off") == "off" or (stage.vision_cache == "auto" and not reads_twice(rows, config)):
        return None, slots_of(vision_model(model), config, cached=False)
    folder = (
        Path(HF_HOME) / "llava_mistral" / "vision"
        if stage.vision_cache == "auto"
        else Path(stage.vision_cache).expanduser()
    )
    # DeepSpeed rounds the weights themselves, all others the operands.
    arithmetic = [config.bf16, config.fp16, os.environ.get("ACCELERATE_USE_DEEPSPEED", "false")]
    if not (config.bf16 or config.fp16):  # products of float32 may be rounded on the way: TF32
        arithmetic.append(torch.get_float32_matmul_precision())
    slots = slots_of(vision_model(model), config, cached=True)
    if slots > 1:
        arithmetic.append(f"{slots} slots")
    return VisionCache(folder, tower_key(model, processor, arithmetic), stage.vision_cache_gb), slots
