"""On SIGTERM or SIGINT a run finishes its step, saves, and prints how to resume."""

import functools
import signal
import sys
import threading

import torch
from transformers import TrainerCallback

from llava_mistral.training.processes import is_first_process


class Interruption(TrainerCallback):
    """Turns SIGTERM and the first SIGINT into a checkpoint after the current step; a second SIGINT stops at once.

    `signal` is the number of the signal that ended training before its last step, or None.
    """

    def __init__(self):
        self.signal = self._asked = None
        self._before = {}

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        if train_dataloader is not None and train_dataloader.num_workers:
            train_dataloader.worker_init_fn = functools.partial(outlive_the_signal, train_dataloader.worker_init_fn)

    def _ask(self, number: int, frame) -> None:
        if number == signal.SIGINT and self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    def on_step_end(self, args, state, control, **kwargs):
        asked = _of_any_process(self._asked or 0, args)
        if asked and state.global_step < state.max_steps:
            self.signal = asked
            control.should_save, control.should_evaluate, control.should_training_stop = True, False, True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.signal:  # saved already, and an epoch that was left is not at its end
            control.should_save = control.should_evaluate = False

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

    def restore(self) -> None:
        """Let signals do what they did before training."""
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._before = {}

    def exit_code(self, step: int) -> int:
        """Say on standard error that the run can go on; returns the exit code of the signal."""
        if is_first_process():
            print(f"llava-mistral train: saved at step {step}; run the same command again to go on", file=sys.stderr)
        return 128 + self.signal


def _of_any_process(signal_received: int, args) -> int:
    """The signal that any process has got: all of them must stop after the same step."""
    if args.world_size == 1:
        return signal_received
    number = torch.tensor(signal_received, device=args.device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
    return int(number)


def outlive_the_signal(then, worker: int) -> None:
    """Start a dataloader's worker that goes on feeding the last step.

    A terminal or a scheduler signals the whole process group, and PyTorch fails the training process when a worker is
    gone. The first SIGTERM is therefore ignored; a second one is the parent's, for a worker that does not end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if then is not None:
        then(worker)
