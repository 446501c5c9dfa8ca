"""TRL's SFTTrainer with what the stages of LLaVA-Mistral add to it, through the methods it offers for that."""

import torch
from trl import SFTTrainer

from training.lora import PROJECTOR


class StageTrainer(SFTTrainer):
    """Trains one stage.

    Args:
        mm_projector_lr: a learning rate of the projector's own, which follows the schedule of the other one, in
            proportion; None for the common one.
    """

    def __init__(self, *args, mm_projector_lr: float | None = None, **kwargs):
        self.mm_projector_lr = mm_projector_lr
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = spread_classes(self.model)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if self.mm_projector_lr is None or not new:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        projector = {id(weight) for name, weight in named if f".{PROJECTOR}." in name}
        for group in list(optimizer.param_groups):
            own = [weight for weight in group["params"] if id(weight) in projector]
            group["params"] = [weight for weight in group["params"] if id(weight) not in projector]
            if own:
                optimizer.add_param_group({**group, "params": own, "lr": self.mm_projector_lr})
        return optimizer


def spread_classes(model: torch.nn.Module) -> list[str]:
    """Names of the classes whose modules FSDP spreads one by one: the layers of text model and tower.

    The library's own list also names parts that CLIP has and this model has not, which accelerate refuses.
    """
    return sorted({type(module).__name__ for module in model.modules()} & set(model._no_split_modules))
