"""TRL's SFTTrainer, extended for the stages of LLaVA-Mistral through its overridable methods."""

from copy import copy

import torch
from transformers import TrainerCallback
from transformers.integrations import neftune

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.attention import use_per_sample_attention
from llava_mistral.training.packing import (
    StepSampler,
    estimated_lengths,
    most_image_tokens,
    order_seed,
    rows_of_a_step,
)
from llava_mistral.training.saving.saving_trainer import SavingTrainer
from llava_mistral.training.stages import is_projection
from llava_mistral.training.trained_tokens import TrainedTokens, pad_alone
from llava_mistral.training.vision_features import vision_model


class StageTrainer(SavingTrainer):
    """Trains one stage.

    Args:
        mm_projector_lr: a learning rate of the projector's own, which follows the schedule of the other one, in
            proportion; None for the common one.
        row_tokens: the collator is a `PackedCollator`: attention runs per sample, a step's samples are dealt to its
            micro-batches by length, and micro-batches that would be longer are split; None for padded batches.

    Attributes:
        tokens: `TrainedTokens` of the batches that were trained on since the process started.
    """

    def __init__(self, *, mm_projector_lr: float | None = None, row_tokens: int | None = None, **kwargs):
        self.mm_projector_lr, self.lengths = mm_projector_lr, None
        rows, args = kwargs["train_dataset"], copy(kwargs["args"])
        if row_tokens is not None and hasattr(rows, "__len__"):  # a stream is taken as it comes
            self.lengths = estimated_lengths(rows, most_image_tokens(kwargs["model"].config))
            samples, count = rows_of_a_step(self.lengths, args, row_tokens)
            args.per_device_train_batch_size, args.gradient_accumulation_steps = samples, count
        # Layers are compiled one by one, below: pictures break the graph of the whole, which accelerate would compile.
        compiled = args.torch_compile and (args.torch_compile_backend, args.torch_compile_mode)
        args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None
        given = dict(kwargs["model"].named_parameters())
        projector = {name: weight.data for name, weight in given.items() if is_projection(name)}
        super().__init__(**kwargs | {"args": args})
        for name, weight in self.model.named_parameters():  # over 4-bit weights TRL rounds what is trained to bfloat16
            if name in projector and weight.dtype != projector[name].dtype:
                weight.data = projector[name].to(weight.device)
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = spread_classes(self.model)
        if compiled:
            compile_layers(self.model, *compiled)
        self.keep_metrics_there()
        self.data_collator = Refusals(self.data_collator)
        self.add_callback(PicturesLast())
        self.tokens = TrainedTokens(self.model.config.image_token_id, pad_alone(self.processing_class.tokenizer))
        self.noise = None
        if row_tokens is not None:
            use_per_sample_attention(self.model)
            if args.neftune_noise_alpha is not None:
                self.noise, self.neftune_noise_alpha = PackedNoise(self.model, args.neftune_noise_alpha), None

    def _get_train_sampler(self, train_dataset=None):
        if self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        sampler = StepSampler(
            self.lengths,
            batch_size=self.args.train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            processes=self.args.world_size,
            seed=order_seed(self.args),
            drop_last=self.args.dataloader_drop_last,
        )
        self.add_callback(EpochOf(sampler))
        return sampler

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(map(accepted, epoch_iterator), num_batches, device)
        for batch in batches:
            self.tokens.count(batch)
        return batches, items

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self.noise is not None:
            self.noise.lengths = inputs["cu_seq_lens_q"].diff().tolist()
        return super().training_step(model, inputs, num_items_in_batch)

    def _prepare_inputs(self, inputs):
        return super()._prepare_inputs(accepted(inputs))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if self.mm_projector_lr is None or not new:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        projector = {id(weight) for name, weight in named if is_projection(name)}
        for group in list(optimizer.param_groups):
            own = [weight for weight in group["params"] if id(weight) in projector]
            group["params"] = [weight for weight in group["params"] if id(weight) not in projector]
            if own:
                optimizer.add_param_group({**group, "params": own, "lr": self.mm_projector_lr})
        return optimizer


class PicturesLast(TrainerCallback):
    """Puts the reader of pictures behind the hooks that the wrapping of the model has registered by now."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if reader := getattr(vision_model(model), "picture_reader", None):
            reader.register()


class EpochOf(TrainerCallback):
    """Tells a sampler its epoch. In a resumed run of several processes nothing else does: accelerate's wrapper around
    the batches that are passed over hides the sampler."""

    def __init__(self, sampler: StepSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))


class Refusals:
    """A collator whose `BadInput` comes back as a batch. What a worker of the data loader raises reaches the trainer
    as a RuntimeError with a traceback; `accepted` raises the one line."""

    def __init__(self, collator):
        self.collator = collator

    def __call__(self, rows: list[dict]) -> dict:
        try:
            return self.collator(rows)
        except BadInput as error:
            names = ("problem", "remedy", "file", "record", "field")
            return {"refused": {name: getattr(error, name) for name in names}}


def accepted(batch: dict) -> dict:
    """The batch, unless it is a refusal; raises that one's `BadInput`."""
    if "refused" in batch:
        raise BadInput(**batch["refused"])
    return batch


def compile_layers(model: torch.nn.Module, backend: str | None = None, mode: str | None = None) -> None:
    """Compile each layer of the text model by itself, for rows of any length: one graph serves them all."""
    for layer in vision_model(model).language_model.layers:
        layer.compile(backend=backend or "inductor", mode=mode, dynamic=True, fullgraph=False)


def spread_classes(model: torch.nn.Module) -> list[str]:
    """Names of the classes whose modules FSDP spreads one by one: the layers of text model and tower.

    The library's own list also names parts that CLIP has and this model has not, which accelerate refuses.
    """
    return sorted({type(module).__name__ for module in model.modules()} & set(model._no_split_modules))


class PackedNoise:
    """Adds NEFTune's noise to each of the samples that lie end to end in a row.

    It is scaled by `alpha / sqrt(length * width)` (Jain et al., "NEFTune: Noisy Embeddings Improve Instruction
    Finetuning", 2023). The library takes the length of the row, which is that of many samples here.

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
