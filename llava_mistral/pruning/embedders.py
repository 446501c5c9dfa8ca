"""Embedders: a CLIP-like model or a LLaVA-like checkpoint turns a sample into a vector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import check_files, context_length, opening
from llava_mistral.ground.foreign_code import loading, split_revision

REMEDY = "name a CLIP-like model or a LLaVA checkpoint"


class Embedder(Protocol):
    """Texts and their pictures (PIL in RGB, or None) in, (len(texts), width) float32 out."""

    width: int

    def __call__(self, texts: Sequence[str], pictures: Sequence[Any]) -> np.ndarray: ...


def load_embedder(name: str, device: str) -> Embedder:
    """Load a folder or Hub id with its processor.

    Raises:
        BadInput: it does not load, lacks weights, which the library would make up, or has neither two towers nor a
            language model that sees pictures.
    """
    from transformers import AutoConfig, AutoModel, AutoProcessor

    name, revision = split_revision(name)
    whose = loading(name, revision)
    try:
        if Path(name).is_dir():
            check_files(name)
        with opening(name):
            config = AutoConfig.from_pretrained(name, **whose)
            processor = AutoProcessor.from_pretrained(name, **whose)
            model, loading_info = AutoModel.from_pretrained(name, output_loading_info=True, **whose)
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise BadInput(f"does not load ({message})", remedy=REMEDY, file=name, field="embedder") from error
    if missing := loading_info["missing_keys"]:
        problem = f"lacks {len(missing)} weights, the first of them {min(missing)}"
        raise BadInput(problem, remedy="save it whole", file=name, field="embedder")
    model = model.to(device).eval()
    if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
        return TwoTowers(model, processor, device)
    if hasattr(model, "get_image_features") and getattr(processor, "chat_template", None):
        return HiddenStates(model, processor, device, config.get_text_config().hidden_size)
    problem = f"is a {type(model).__name__}, which does not see and read"
    raise BadInput(problem, remedy=REMEDY, file=name, field="embedder")


class TwoTowers:
    """A CLIP-like model: the picture's and the words' features, each of length one, side by side.

    Where there is no picture its half is zeros. So two samples are near when what they show and what they ask are.
    """

    def __init__(self, model: Any, processor: Any, device: str):
        from PIL import Image

        self.model, self.processor, self.device = model, processor, device
        # One word and a grey picture tell the width whatever the model calls it in its configuration.
        self.half = self._texts(["a"]).shape[1]
        self.width = self.half + self._pictures([Image.new("RGB", (32, 32), "grey")]).shape[1]

    def __call__(self, texts: Sequence[str], pictures: Sequence[Any]) -> np.ndarray:
        """Return (len(texts), width) float32; `pictures` holds a PIL image or None per text."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        seen = [place for place, picture in enumerate(pictures) if picture is not None]
        vectors[:, self.width - self.half :] = self._texts(texts)
        if seen:
            vectors[seen, : self.width - self.half] = self._pictures([pictures[place] for place in seen])
        return vectors

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        limit = context_length(self.model.config) if hasattr(self.model.config, "text_config") else None
        # CLIP reads 77 tokens; padding to a fixed length keeps a sample's vector independent of its batch.
        options = {"padding": "max_length", "truncation": True, "max_length": limit} if limit else {"padding": True}
        return self._features("get_text_features", self.processor.tokenizer(texts, return_tensors="pt", **options))

    def _pictures(self, pictures: Sequence[Any]) -> np.ndarray:
        inputs = self.processor.image_processor(list(pictures), return_tensors="pt")
        return self._features("get_image_features", inputs)

    def _features(self, method: str, inputs: Any) -> np.ndarray:
        import torch

        with torch.inference_mode():
            features = getattr(self.model, method)(**inputs.to(self.device))
        features = getattr(features, "pooler_output", features).float().cpu().numpy()
        return features / np.linalg.norm(features, axis=1, keepdims=True)


class HiddenStates:
    """A LLaVA-like checkpoint: the mean of its last hidden states over prompt and picture, of length one."""

    def __init__(self, model: Any, processor: Any, device: str, width: int):
        self.model, self.processor, self.device, self.width = model, processor, device, width

    def __call__(self, texts: Sequence[str], pictures: Sequence[Any]) -> np.ndarray:
        """Return (len(texts), width) float32; `pictures` holds a PIL image or None per text."""
        import torch

        prompts = [self._prompt(text, picture is not None) for text, picture in zip(texts, pictures, strict=True)]
        seen = [picture for picture in pictures if picture is not None]
        # The template writes the token that begins a text itself. Padding on the left would move every position.
        options = {"padding": True, "padding_side": "right", "add_special_tokens": False, "return_tensors": "pt"}
        inputs = self.processor(text=prompts, images=seen or None, **options).to(self.device, self.model.dtype)
        with torch.inference_mode():
            states = self.model(**inputs, use_cache=False).last_hidden_state.float()  # (batch, tokens, width)
        mask = inputs["attention_mask"][:, :, None].float()
        means = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _prompt(self, text: str, picture: bool) -> str:
        content = [{"type": "image"}] * picture + [{"type": "text", "text": text}]
        turns = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
