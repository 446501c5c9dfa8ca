"""`llava-mistral train` in several processes on this machine's CPU, as `accelerate launch` would start it on GPUs.

accelerate itself starts processes without GPUs through MPI only; so its parser reads the shipped configuration, and
torch's own launcher, which it uses on GPUs, gets the environment that it makes of it.
"""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from tests.support.running import HOME, Done

CONFIGS = HOME / "llava_mistral" / "recipes" / "accelerate"


def launch_environment(config: Path, *flags: str) -> dict[str, str]:
    """What `accelerate launch --config_file config flags` adds to the environment of its processes."""
    from accelerate.commands import launch

    arguments = launch.launch_command_parser().parse_args(["--config_file", str(config), *flags, "train_sft.py"])
    with mock.patch.dict(os.environ):
        arguments, defaults, _ = launch._validate_launch_command(arguments)
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
            environment = launch.prepare_deepspeed_cmd_env(arguments)[1]
        else:
            environment = launch.prepare_multi_gpu_env(arguments)
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}


def launch(config: str, *arguments: object, processes: int = 2, seconds: int = 240) -> Done:
    """Run `train_sft.py arguments` in `processes` processes by the recipe accelerate/`config`, in full precision.

    A run that takes longer than `seconds` hangs, and fails the test.
    """
    environment = launch_environment(
        CONFIGS / f"{config}.yaml", "--num_processes", str(processes), "--mixed_precision", "no"
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "train_sft.py"]
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        cwd=HOME,
        env={**os.environ, **environment, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    return Done(done.returncode, done.stdout, done.stderr)
