"""What a refused verb leaves, and bait that shows whether it was taken."""

import warnings
from pathlib import Path

from tests.support.running import run_here


def refused(main, *arguments, output: Path) -> str:
    """The one line of a verb that wrote nothing."""
    with warnings.catch_warnings():  # a library's word on its next version is no line of ours
        warnings.simplefilter("ignore")
        error = run_here(main, *arguments, code=2).stderr
    # Bars of progress end in a carriage return and are no lines.
    lines = [line for line in error.splitlines() if line.strip() and "/s]" not in line]
    assert len(lines) == 1 and "Traceback" not in error, error
    assert not output.exists() or not any(output.iterdir())
    return lines[0]


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def training(model, rows, output, **flags) -> list:
    given = {"stage": "pretrain", "model_name_or_path": model, "dataset": rows, "output_dir": output}
    given |= {"bf16": "False", "use_cpu": "True", "report_to": "none"} | flags
    return [word for name, value in given.items() for word in (f"--{name}", value)]
