"""NEFTune's noise in rows in which samples lie end to end.

The noise on a sample's embeddings is scaled by `alpha / sqrt(length * width)` (Jain et al., "NEFTune: Noisy Embeddings
Improve Instruction Finetuning", 2023). The library takes the length of the row, which is that of many samples here.
"""

import torch
from transformers.integrations import neftune


class PackedNoise:
    """Adds the library's noise to each sample by itself.

    Attributes:
        lengths: of the samples of the next row, in tokens.
    """

    def __init__(self, model: torch.nn.Module, alpha: float):
        self.lengths: list[int] = []
        embeddings = (model.get_base_model() if hasattr(model, "peft_config") else model).get_input_embeddings()
        embeddings.neftune_noise_alpha = alpha  # where the library's hook reads it
        embeddings.register_forward_hook(self._after_forward)

    def _after_forward(self, module, inputs, output: torch.Tensor) -> torch.Tensor:
        if not module.training or sum(self.lengths) != output.shape[1]:
            return output
        samples = output.split(self.lengths, dim=1)
        return torch.cat([neftune.neftune_post_forward_hook(module, inputs, sample) for sample in samples], dim=1)
