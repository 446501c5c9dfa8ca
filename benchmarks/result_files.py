"""Where a benchmark writes its figures: a full run where they are committed, `--quick` where git does not look."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def result_file(name: str, quick: bool) -> Path:
    """The file for `name`, such as `packing.json`; its folder exists. A rehearsal never replaces committed figures."""
    folder = RESULTS / "quick" if quick else RESULTS
    folder.mkdir(exist_ok=True)
    return folder / name
