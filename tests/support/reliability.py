"""Counting the promise under abuse: which case a test shows, what became of it, and docs/reliability.md.

A test carries `@pytest.mark.case("A1", "refused")`, once for every case and outcome it shows. Where one test tries a
case many times, it says so with pytest's own `record_property("tried", 50)`. `pytest --reliability=docs` writes
`reliability.json` and, poured out of it, `reliability.md`.
"""

import json
import os
import platform
import resource
import select
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

CATALOGUE = yaml.safe_load((Path(__file__).parents[1] / "reliability_cases.yaml").read_text())
OUTCOMES = ("refused", "accepted", "survived")
LIBRARIES = (
    *("transformers", "torch", "trl", "peft", "accelerate"),
    *("datasets", "huggingface_hub", "safetensors", "pillow"),
)
MARKED = pytest.StashKey[dict]()
TALLY, RAN = "tally", "ran"
_COUNTED: dict = {}  # what this process has counted: hooks of reports are given no configuration


def groups() -> dict[str, dict]:
    """Letter -> the group's title, cases and the outcomes that each has to show."""
    return {
        letter: {"expect": ["refused", "accepted"], "accepted": [], **group}
        for chapter in CATALOGUE.values()
        for letter, group in chapter.items()
    }


def expected() -> set[tuple[str, str]]:
    """Every case with each outcome that some test has to show."""
    return {
        (case, outcome)
        for group in groups().values()
        for case in group["cases"]
        for outcome in (["accepted"] if case in group["accepted"] else group["expect"])
    }


def marks(item: pytest.Item) -> list[tuple[str, str]]:
    """The cases a test shows, each with its outcome."""
    shown = []
    for mark in item.iter_markers("case"):
        case, outcome = mark.args
        if outcome not in OUTCOMES or not any(case in group["cases"] for group in groups().values()):
            raise pytest.UsageError(f"{item.nodeid}: no such case: {case} {outcome}; see tests/reliability_cases.yaml")
        shown.append((case, outcome))
    return shown


def pytest_addoption(parser):
    parser.addoption("--reliability", metavar="FOLDER", type=Path, help="count the cases; write reliability.{json,md}")


def pytest_configure(config):
    config.addinivalue_line("markers", "case(id, outcome): a case of tests/reliability_cases.yaml, and what it shows")
    _COUNTED[TALLY] = defaultdict(lambda: {"tests": 0, "passed": 0, "tried": 0, "seconds": 0.0, "libraries": {}})
    _COUNTED[TALLY]["started"] = time.monotonic()
    _COUNTED[RAN] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    config.stash[MARKED] = {item.nodeid: marks(item) for item in items}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """The report carries its cases to the process that counts, which under pytest-xdist is another one."""
    report = (yield).get_result()
    report.cases = marks(item) if report.when == "call" or not report.passed else []
    report.seconds = call.duration


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    given = dict(report.user_properties)
    for case, outcome in () if report.skipped else getattr(report, "cases", ()):
        _COUNTED[RAN].add(report.nodeid)
        row = _COUNTED[TALLY][case, outcome]
        row["tests"] += 1
        row["passed"] += report.passed
        row["tried"] += given.get("tried", 1) if report.passed else 0
        row["seconds"] += report.seconds
        row["libraries"] |= {
            name.removeprefix("library: "): said for name, said in given.items() if "library: " in name
        }


def pytest_terminal_summary(terminalreporter, config):
    folder = config.getoption("--reliability")
    if folder is None:
        return
    tally = _COUNTED[TALLY]
    seconds = time.monotonic() - tally.pop("started")
    missing = sorted(f"{case} {outcome}" for case, outcome in expected() - tally.keys())
    if missing:
        terminalreporter.write_line(f"no page is written: {len(missing)} cases did not run: {', '.join(missing)}")
        return
    record = {
        "seconds": round(seconds),
        "tests": len(_COUNTED[RAN]),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "cases": [
            {"case": case, "outcome": outcome, **row, "seconds": round(row["seconds"], 2)}
            for (case, outcome), row in sorted(
                tally.items(), key=lambda one: (one[0][0][0], int(one[0][0][1:]), one[0][1])
            )
        ],
    }
    (folder / "reliability.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "reliability.md").write_text(page(record))
    terminalreporter.write_line(f"{folder / 'reliability.md'}: {summary(record)}")


def summary(record: dict) -> str:
    rows = record["cases"]
    shown, passed, tried = (sum(row[name] for row in rows) for name in ("tests", "passed", "tried"))
    cases = len({row["case"] for row in rows})
    return (
        f"{cases} cases, {shown:,} outcomes looked at by {record['tests']:,} tests and {passed:,} of them as they "
        f"should be, {tried:,} tries, {record['seconds'] / 60:.1f} minutes on {record['cores']} cores"
    )


def page(record: dict) -> str:
    """docs/reliability.md, poured out of docs/reliability.json."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines = [
        "# Reliability",
        "",
        f"What `make abuse` ran, and what became of it: {summary(record)}. Python {record['python']}, {versions}.",
        "Generated from `reliability.json`; `tests/reliability_cases.yaml` words the cases, and the tests name them.",
        "*Refused*: one line that names the place, exit 2, nothing written. *Accepted*: the legal neighbour, or what",
        "is odd but legal. The last column is what a library does by itself with the same input today, measured in",
        "the same run; where it is empty, nothing was measured.",
        "",
    ]
    for letter, group in groups().items():
        rows = {(row["case"], row["outcome"]): row for row in record["cases"] if row["case"][0] == letter}
        if not rows:
            continue  # newer than the record
        tests, passed, seconds = (sum(row[name] for row in rows.values()) for name in ("tests", "passed", "seconds"))
        lines += [f"## {letter}. {group['title']}", ""]
        count = len({case for case, _ in rows})
        cases = "1 case" if count == 1 else f"{count} cases"
        lines += [f"{cases}, {tests} outcomes, {passed} as they should be, {seconds:.0f} s.", ""]
        lines += ["| | tried | shown | the libraries by themselves |", "|---|---|---|---|"]
        for case, name in group["cases"].items():
            if not (shown := [row for (one, _), row in rows.items() if one == case]):
                continue
            theirs = {library: outcome for row in shown for library, outcome in row["libraries"].items()}
            outcome = "; ".join(f"{library}: {what}" for library, what in theirs.items()).replace("|", "\\|")
            lines += [f"| {case} | {name} | {'; '.join(map(counted, shown))} | {outcome} |"]
        lines += [""]
    names = {case: name for group in groups().values() for case, name in group["cases"].items()}
    if newer := [f"| {case} | {names[case]} |" for case in not_counted(record)]:
        lines += ["## Not counted yet", "", "Newer than this page. Their tests run with all others.", ""]
        lines += ["| | tried |", "|---|---|", *newer, ""]
    return "\n".join(lines)


def not_counted(record: dict) -> list[str]:
    """Cases of the catalogue that the record was made without."""
    known = {row["case"] for row in record["cases"]}
    return [case for group in groups().values() for case in group["cases"] if case not in known]


def counted(row: dict) -> str:
    tries = f", {row['tried']:,} tries" if row["tried"] > row["tests"] else ""
    return f"{row['outcome']} {row['passed']} of {row['tests']}{tries}"


@pytest.fixture
def by_itself(request, record_property):
    """Record what a library does with a case when nobody guards it: `by_itself("Pillow", lambda: Image.open(path))`.

    The call runs in a fork that may take 20 s and 8 GB, and only where the page is written: it asserts nothing, so
    that a mended library changes the page and breaks no test. What it returns is the outcome; None reads "accepts".
    """

    def measure(library: str, call: Callable[[], str | None]) -> None:
        if request.config.getoption("--reliability") is not None:
            record_property(f"library: {library}", _outcome(call))

    return measure


def _outcome(call: Callable[[], str | None]) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        try:
            outcome = call() or "accepts"
        except BaseException as error:
            outcome = f"raises {type(error).__name__}"
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answered = select.select([pipe], [], [], 20)[0]
        outcome = pipe.read().decode() if answered else ""
    if not answered:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return outcome or ("is killed" if answered else "takes longer than 20 s")
