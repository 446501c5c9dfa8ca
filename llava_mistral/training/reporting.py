"""Reports during training: rates in the logs, evaluation on held-out rows, a few sample answers.

Nothing here changes what is learned: rates are counted beside the step, and an evaluation gives every random generator
back as it found it. Without that an evaluation would draw from the generator of the training's dropout, and a run that
is watched would end with other weights than one that is not.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from llava_mistral.training.sample_answers import SampleAnswers
from llava_mistral.training.step_lines import use_step_lines
from llava_mistral.training.throughput import Meter


class LastStepLogged(TrainerCallback):
    """Logs the last step, too, where `logging_steps` would pass over it: `final_loss` is the loss a run ended with."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True


class ReportingTrainer(SFTTrainer):
    """TRL's trainer with rates in its logs and sample answers at its evaluations.

    Args:
        meter: counts and times the training steps; None for none.
        samples: asked after every evaluation; None for none.
        eval_collator: makes the batches of an evaluation, None for the training's own. A collator of its own keeps
            the record of trained tokens free of evaluated ones.
    """

    def __init__(
        self,
        *args,
        meter: Meter | None = None,
        samples: SampleAnswers | None = None,
        eval_collator=None,
        **kwargs,
    ):
        self.meter, self.samples, self.eval_collator = meter, samples, eval_collator
        self.evaluated: list[torch.Tensor] = []  # (samples, 2): loss and answer tokens, while it evaluates
        super().__init__(*args, **kwargs)
        self.add_callback(LastStepLogged())
        use_step_lines(self)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self.meter:
            self.meter.count(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.meter and "loss" in logs:  # a row of training; every process logs it
            logs |= self.meter.read(lambda sums: self.accelerator.reduce(sums, "sum"), self.accelerator.num_processes)
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset=None):
        trains = self.data_collator
        self.data_collator = self.eval_collator or trains
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = trains

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As the library's, which leaves a mean over the batch; the loss is kept with the answer tokens it is of."""
        found = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        answers = (inputs["labels"][:, 1:] != -100).sum(1).to(self.args.device)
        pairs = torch.stack([found[0].detach() * answers, answers], 1)
        self.evaluated.append(self.accelerator.gather_for_metrics(pairs).cpu())
        return found

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """Whose loss is the mean over answer tokens, as in training, whatever the batch size is."""
        self.evaluated = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.evaluated:
            loss, answers = torch.cat(self.evaluated).double().sum(0).tolist()
            output.metrics[f"{metric_key_prefix}_loss"] = loss / answers
        return output

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self._apart(), random_state_kept():
            metrics = super().evaluate(*args, **kwargs)
            if self.samples and self.is_world_process_zero():
                with self.compute_loss_context_manager():
                    self.samples.ask(self.model, self.state.global_step, metrics, self._tensorboard())
        return metrics

    def _save_checkpoint(self, model, trial) -> None:
        with self._apart():
            super()._save_checkpoint(model, trial)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        if self.meter is None:
            yield
            return
        with self.meter.paused():
            yield

    def _tensorboard(self):
        writers = (getattr(callback, "tb_writer", None) for callback in self.callback_handler.callbacks)
        return next((writer for writer in writers if writer is not None), None)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give Python's, NumPy's and torch's generators (CPU and the current GPU) back as they were."""
    python, arrays = random.getstate(), numpy.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)
