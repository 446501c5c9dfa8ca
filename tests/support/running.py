"""A verb, run as a user runs it: in this process, where the libraries are loaded already, or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

HOME = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "trl", "datasets", "gradio", "pyarrow", "matplotlib"}
WATCHED = f"""if True:
    import runpy, sys
    sys.path[0] = {str(HOME)!r}
    module, sys.argv = sys.argv[1], sys.argv[1:]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        print("imported:", *sorted({HEAVY} & sys.modules.keys()))
    """


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line on standard error; fails when there are more."""
        lines = self.stderr.strip().splitlines()
        assert len(lines) == 1, self.stderr
        return lines[0]


def run_here(main: Callable[[], int | None], *arguments: object, code: int = 0) -> Done:
    """Run a verb's `main` through `run_verb` in this process."""
    from llava_mistral.ground.command_line import run_verb

    out, err = io.StringIO(), io.StringIO()
    argv = [f"llava-mistral {main.__module__.rpartition('.')[2]}", *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "argv", argv):
        try:
            run_verb(main)
        except SystemExit as left:
            done = Done(left.code, out.getvalue(), err.getvalue())
    assert done.code == code, done
    return done


def run_apart(*command: object, code: int = 0, cwd: Path = HOME, timeout: float = 300, **environment: str) -> Done:
    """Run `python command…` in a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == code, done
    return Done(done.returncode, done.stdout, done.stderr)


def run_light(*command: object, code: int = 0, cwd: Path = HOME) -> Done:
    """Run `python -m command…` in a process of its own, which must import none of the `HEAVY` libraries.

    They alone take the seconds after which an answer is no longer one at once; a clock would measure other processes.
    """
    done = run_apart("-c", WATCHED, *command, code=code, cwd=cwd)
    output, _, imported = done.stdout.rpartition("imported:")
    assert not imported.split(), f"imported {imported}"
    return Done(done.code, output, done.stderr)


def recipe_of(**values: object):
    """The `Recipe` of these values on a CPU; what a run needs beside them is named and does not exist."""
    from llava_mistral.training.recipe import parse_recipe

    given = {"model_name_or_path": "base", "dataset": "o/n", "output_dir": "out", "use_cpu": True, **values}
    return parse_recipe([f"--{key}={value}" for key, value in given.items()])


def parsed(recipe: Path, *flags: str):
    """What the verb makes of a recipe's file: (stage, config)."""
    from llava_mistral.ground.recipe_files import read_yaml
    from llava_mistral.training.recipe import parse_recipe

    wanting = {"model_name_or_path": "checkpoints/stage0", "dataset": "data", "output_dir": "outputs/stage"}
    given = read_yaml(recipe)
    named = [f"--{key}={value}" for key, value in wanting.items() if key not in given]
    read = parse_recipe(["--config", str(recipe), *named, *flags])
    return read.stage, read.config
