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
        given = dict((args[0] if args else kwargs["model"]).named_parameters())
        projector = {name: weight.data for name, weight in given.items() if f".{PROJECTOR}." in name}
        super().__init__(*args, **kwargs)
        for name, weight in self.model.named_parameters():  # over 4-bit weights TRL rounds what is trained to bfloat16
            if name in projector and weight.dtype != projector[name].dtype:
                weight.data = projector[name].to(weight.device)

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
