"""Unusable samples: each stops the run, or is left out, listed and counted up to a limit."""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput

NAME = "skipped.json"
MODES = ("error", "skip")
MOST = 0.01  # share of all samples


class WrongForm(BadInput):
    """The data is in another form than its reader's: leaving samples out would not mend it."""


@dataclass
class BadSamples:
    """Collects the bad samples of one data set, from its reader and from the check of its pictures.

    Args:
        on_bad_sample: "error" refuses the data set, "skip" leaves the sample out.
        most: "skip": the share of bad samples from which on the data set is refused all the same.
        listed: {"file", "record", "field", "problem"} of each.
        notices: what the reader did that the data does not say, such as ids that it made.
        counted: how many records their own `loss` or `weight` of 0 left out, and which fields nothing was made of.

    Raises:
        BadInput: the mode is unknown, or `most` is not a share.
    """

    on_bad_sample: str = "error"
    most: float = MOST
    listed: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    counted: dict[str, Any] = field(default_factory=lambda: {"not_learned": 0, "unused_columns": []})
    _first: BadInput | None = None

    def __post_init__(self):
        if self.on_bad_sample not in MODES:
            problem = f"{self.on_bad_sample!r} is unknown"
            raise BadInput(problem, remedy="use error or skip", field="on_bad_sample")
        if not 0 <= self.most <= 1:
            raise BadInput(f"{self.most} is not a share", remedy="give 0 to 1", field="max_bad_samples")

    @property
    def skips(self) -> bool:
        return self.on_bad_sample == "skip"

    def meet(self, error: BadInput) -> None:
        """Raise `error`, or record it so that the caller leaves the sample out."""
        if not self.skips:
            raise error
        self.gather(error)

    def gather(self, error: BadInput) -> None:
        """List `error`; `close` raises it together with the others of its kind (absent pictures, say)."""
        self._first = self._first or error
        place = {"file": str(error.file), "record": error.record, "field": error.field}
        self.listed.append(place | {"problem": error.problem})

    def notice(self, line: str, source: str | Path) -> None:
        """Print a reader's notice on standard error, and keep it."""
        self.notices.append(line)
        print(f"{source}: {line}", file=sys.stderr)

    def notice_unused(self, fields: Iterable[str], source: str | Path) -> None:
        """Report the fields of the records that were not used, if there are any."""
        names = self.counted["unused_columns"] = list(fields)
        others = f" and {len(names) - 20} others" if len(names) > 20 else ""
        if names:
            self.notice(f"columns that are not used: {', '.join(names[:20])}{others}", source)

    def close(self, samples: int) -> None:
        """Say that all `samples` of a pass were met.

        Raises:
            BadInput: "error" mode and there was any, named with the first five and their number; or "skip" mode and
                there were too many.
        """
        if not self.listed:
            return
        first = self._first or BadInput(remedy="correct or drop it", **self.listed[0])
        place = {"file": first.file, "record": first.record, "field": first.field}
        if not self.skips:
            raise BadInput(first.problem + self._others(), remedy=first.remedy, **place)
        if len(self.listed) > self.most * samples:
            share = f"{len(self.listed):,} of {samples:,} samples are bad ({100 * len(self.listed) / samples:.3g} %)"
            problem = f"{share}, the first: {first.problem}{self._others()}"
            raise BadInput(problem, remedy="correct the data or raise --max_bad_samples", **place)

    def _others(self) -> str:
        others = [str(one["record"]) for one in self.listed[1:]]
        if not others:
            return ""
        return f" ({len(self.listed):,} such samples; the next: {', '.join(others[:4])})"

    def write(self, folder: str | Path) -> None:
        """Write what was left out as `skipped.json`; nothing when nothing was."""
        if self.listed:
            Path(folder).mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.listed, indent=1, ensure_ascii=False)
            (Path(folder) / NAME).write_text(text + "\n", encoding="utf-8")


def usable(bad: BadSamples, make: Callable[[], Any]) -> Any | None:
    """Return what `make` makes, or None when it raises `BadInput` and the sample is left out.

    Raises:
        WrongForm: as `make` does, whatever the mode.
    """
    try:
        return make()
    except WrongForm:
        raise
    except BadInput as error:
        bad.meet(error)
        return None
