"""The trainer's checkpoints: atomic, with all state that a bit-identical resume needs."""

import json
from pathlib import Path

from llava_mistral.ground.strict_json import write_json
from llava_mistral.training.reporting import ReportingTrainer
from llava_mistral.training.saving.resuming import RunIdentity
from llava_mistral.training.saving.whole_checkpoints import (
    partial_folder,
    publish_checkpoint,
    sync_folder,
)


class SavingTrainer(ReportingTrainer):
    """TRL's trainer with whole checkpoints, from which a run goes on to the very bits it would have had.

    Args:
        identity: written into the manifest of each checkpoint; None for a run that will not be resumed.
    """

    def __init__(self, *args, identity: RunIdentity | None = None, **kwargs):
        self.identity = identity or RunIdentity({}, "", {})
        self.saving_into = None  # a folder, while a checkpoint is written
        super().__init__(*args, **kwargs)

    def _get_output_dir(self, trial) -> str:
        return self.saving_into or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        """As the library does, but into a folder that gets its name when it is whole."""
        output = Path(self.args.output_dir)
        with partial_folder(output) as partial:
            self.saving_into = str(partial)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.saving_into = None
            staging = partial / f"checkpoint-{self.state.global_step}"
            self._name_best(staging, output)
            sync_folder(staging)  # by every process: each has written files, perhaps on a machine of its own
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                about = self.identity.about(self.state.global_step)
                best = self.state.best_model_checkpoint
                publish_checkpoint(staging, output, about, self.args.save_total_limit, best)
            self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save and hasattr(self.model, "peft_config"):
            from llava_mistral.training.lora import add_newline

            add_newline(self.model, Path(output_dir or self.args.output_dir), state_dict)

    def _name_best(self, staging: Path, output: Path) -> None:
        """The best checkpoint is the one being written: its name is the one that it will have."""
        if self.state.best_model_checkpoint == str(staging):
            self.state.best_model_checkpoint = str(output / staging.name)
            if self.args.should_save:
                self.state.save_to_json(str(staging / "trainer_state.json"))

    def _save_rng_state(self, output_dir: str) -> None:
        """And what was measured since the last log line, without which the next one would be another."""
        super()._save_rng_state(output_dir)
        self.read_metrics()
        measured = {
            "loss": self._tr_loss.item(),
            "since": self._globalstep_last_logged,
            "tokens": self._total_train_tokens,
            "metrics": self._metrics["train"],
        }
        write_json(Path(output_dir) / f"unlogged_{self.args.process_index}.json", measured)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        file = Path(checkpoint or "") / f"unlogged_{self.args.process_index}.json"
        if not checkpoint or not file.is_file():
            return
        measured = json.loads(file.read_text(encoding="utf-8"))
        self._tr_loss.fill_(measured["loss"])
        self._globalstep_last_logged, self._total_train_tokens = measured["since"], measured["tokens"]
        self._metrics["train"].update(measured["metrics"])

    def _run_epoch(self, *args, **kwargs) -> None:
        # From a checkpoint of the last step within an epoch the library would take one step too many.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
