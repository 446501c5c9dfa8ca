"""Reports during training: a line for each logged step, rates, evaluation on held-out rows, a few sample answers.

Nothing here changes what is learned: rates are counted beside the step, and an evaluation gives every random generator
back as it found it. Without that an evaluation would draw from the generator of the training's dropout, and a run that
is watched would end with other weights than one that is not.
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTTrainer

from llava_mistral.ground.whole_file import saving, write_whole
from llava_mistral.training.collator import AnswerCollator
from llava_mistral.training.sample_answers import SampleAnswers
from llava_mistral.training.throughput import Meter, peak_of_this_run

LOG = "log.jsonl"  # in the output folder: every row that the Trainer logs, as its `log_history` holds it


class LastStepLogged(TrainerCallback):
    """Logs the last step, too, where `logging_steps` would pass over it: `final_loss` is the loss a run ended with."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True


class Unread(torch.Tensor):
    """A number on its device. TRL asks for its metrics after each micro-batch, and the host would wait for the device
    every time; it gets the number when it is logged."""

    def item(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def __bool__(self) -> bool:  # "more than 0 tokens were learned": no batch without an answer comes this far
        return True


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
        self.weights = None  # how many there are
        super().__init__(*args, **kwargs)
        self.add_callback(LastStepLogged())
        use_step_lines(self)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self.meter:
            self.meter.count(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def keep_metrics_there(self) -> None:
        """Leave the metrics of training on the device until `read_metrics`."""
        gather = self.accelerator.gather_for_metrics

        def gathered(found, *rest):
            found = gather(found, *rest)
            return found.as_subclass(Unread) if self.model.training else found

        self.accelerator.gather_for_metrics = gathered

    def read_metrics(self) -> None:
        """Make numbers of the metrics that are still on the device."""

        def read(value):
            return value.item() if isinstance(value, torch.Tensor) else value

        self._total_train_tokens = read(self._total_train_tokens)
        self._metrics["train"].update({name: [*map(read, values)] for name, values in self._metrics["train"].items()})

    def floating_point_ops(self, inputs) -> int:
        """As the library's, which goes through all parameters in each micro-batch to count them."""
        if self.weights is None:
            self.weights = self.model.num_parameters(exclude_embeddings=True)
        return 6 * inputs["input_ids"].numel() * self.weights

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.read_metrics()
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


class StepLines(ProgressCallback):
    """Step, loss, rates and the time left in a line; `log.jsonl` has the rest.

    A terminal has the library's progress bar below the lines, which are written through it so that neither breaks the
    other. Elsewhere (a file, a pipe) there are the lines alone, and held-out losses in the library's form.
    """

    def __init__(self):
        super().__init__()
        self.began, self.first = 0.0, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.began, self.first = time.monotonic(), state.global_step
        if not state.is_world_process_zero:
            return
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        write_whole(Path(args.output_dir) / LOG, "".join(_row(row) for row in state.log_history))
        if sys.stderr.isatty() and not args.disable_tqdm:
            super().on_train_begin(args, state, control, **kwargs)
            self.training_bar.initial = self.training_bar.n = state.global_step
            self.current_step = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        file = Path(args.output_dir) / LOG
        with saving(file), open(file, "a", encoding="utf-8") as log:
            log.write(_row(state.log_history[-1]))
        if line := self.line(state, logs):
            if self.training_bar is not None:
                self.training_bar.write(line, file=sys.stdout)
            else:
                print(line, flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def line(self, state, logs: dict[str, float]) -> str | None:
        """The line of a logged row: of training, or of an evaluation; None for the run's closing figures."""
        step = f"step {state.global_step:,}/{state.max_steps:,}"
        if "eval_loss" in logs:
            loss = f"{logs['eval_loss']:.4g}"
            if self.training_bar is not None:
                return f"{step}  held-out loss {loss}"
            return f"{step}  {{'eval_loss': '{loss}'}}"  # in a pipe, as programs that read the library's output expect
        if "loss" not in logs:
            return None
        parts = [step, f"loss {logs['loss']:.4g}"]
        parts += [f"lr {logs['learning_rate']:.3g}"] if "learning_rate" in logs else []
        parts += [f"{logs['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in logs else []
        done, left = state.global_step - self.first, state.max_steps - state.global_step
        if done and left:
            parts.append(f"{clock((time.monotonic() - self.began) / done * left)} left")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """The seconds as H:MM:SS, or M:SS below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def use_step_lines(trainer) -> None:
    """Let a trainer print `StepLines` in place of the library's dictionaries."""
    for printer in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printer)
    trainer.add_callback(StepLines())


def _row(row: dict) -> str:
    return json.dumps(row, default=float) + "\n"


def shown(stage, config, model, processor, own_template: str, held_out=None) -> dict:
    """The arguments of `ReportingTrainer` for a stage.

    Args:
        stage: a `StageArguments`.
        config: an `SFTConfig`.
        own_template: the checkpoint's own chat template, with which it will answer.
        held_out: rows to evaluate on; None for no evaluation.
    """
    lora_r = stage.lora_r if stage.use_peft else None
    found = {"meter": Meter(model.config, stage.stage, lora_r, peak_of_this_run(config.bf16, stage.peak_tflops))}
    if held_out is None:
        return found
    found |= {"eval_dataset": held_out, "eval_collator": AnswerCollator(processor)}
    if stage.sample_answers:
        template = processor.chat_template if stage.stage == "pretrain" else own_template
        title = f"{Path(config.output_dir).name}, {stage.stage}"
        found["samples"] = SampleAnswers(held_out, processor, template, stage.sample_answers, config.output_dir, title)
    return found
