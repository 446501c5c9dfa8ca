"""What a run prints while it trains: a short line for each logged step; everything that is logged goes to a file."""

import json
import sys
import time
from pathlib import Path

from transformers import PrinterCallback, ProgressCallback

from llava_mistral.ground.whole_file import saving, write_whole

LOG = "log.jsonl"  # in the output folder: every row that the Trainer logs, as its `log_history` holds it


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
