"""List all faults of a data set by kind, for `--dry_run`."""

import re
from collections import defaultdict
from typing import Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.pruning.recipe import PruneRecipe
from llava_mistral.pruning.run import check_size, read
from llava_mistral.pruning.samples import Samples, check_ids

NAMED = 5  # records of each kind
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\\\]\S*|\S+\.\w+(?=\s)|\d[\d,.]*")


class AllFaults(BadSamples):
    """Collects all bad samples; none of them stops the reading."""

    def __init__(self):
        super().__init__("skip", 1.0)

    def close(self, samples: int) -> None:
        """Go on, however many there were."""


def faults_of(recipe: PruneRecipe) -> tuple[list[str], int]:
    """Return what a data set holds and which faults it has, in lines, and the number of faults. Nothing is written.

    What cannot be read past (no such file, another form) is the last fault; what lies behind it is not known.
    """
    bad, samples = AllFaults(), None
    try:
        samples = read(recipe, bad)
        for problem in samples.problems:
            if problem.choices and problem.answer is None:
                place = {"file": samples.source, "record": problem.pid, "field": "answer"}
                bad.gather(BadInput("has no answer", remedy="use a split with answers", **place))
        samples = samples.checked(recipe.check_pictures, bad)
    except BadInput as error:
        _stop(bad, error)
    for check in (check_ids, lambda samples: recipe.size is None or check_size(recipe, samples)):
        try:
            if samples is not None:
                check(samples)
        except BadInput as error:
            bad.gather(error)
    lines = [] if samples is None else [_held(recipe, samples)]
    return [*lines, *_by_kind(recipe, bad.listed)], len(bad.listed)


def _stop(bad: AllFaults, error: BadInput) -> None:
    bad.gather(error)
    bad.listed[-1] |= {"problem": f"{error.problem}; what lies behind it was not looked at"}


def _held(recipe: PruneRecipe, samples: Samples) -> str:
    """What can be used."""
    counted = samples.counted(range(len(samples.problems)))
    pictured = sum(problem.has_image for problem in samples.problems)
    what = f"{counted['conversations']:,} conversations with {counted['answers']:,} answers"
    what = what if counted["answers"] > counted["conversations"] else f"{len(samples.problems):,} samples"
    return f"{recipe.dataset}: {what} can be used, {pictured:,} with a picture"


def _by_kind(recipe: PruneRecipe, listed: list[dict[str, Any]]) -> list[str]:
    """Lines for faults that differ in names and numbers alone, most frequent first."""
    if not listed:
        return [f"{recipe.dataset}: no faults"]
    kinds: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for fault in listed:
        kinds[fault["field"], _PARTICULAR.sub("…", fault["problem"])].append(fault)
    faults = f"{len(listed):,} fault{'s' * (len(listed) > 1)} of {len(kinds)} kind{'s' * (len(kinds) > 1)}"
    lines = [f"{recipe.dataset}: {faults}"]
    for (field, _), faults in sorted(kinds.items(), key=lambda item: -len(item[1])):
        records = [str(fault["record"])[:60] for fault in faults[:NAMED] if fault["record"] is not None]
        more = ", …" if len(faults) > len(records) else ""
        where = f" (records {', '.join(records)}{more})" if records else ""
        lines.append(f"  {len(faults):>8,}  {f'field {field}: ' if field else ''}{faults[0]['problem']}{where}")
    return lines
