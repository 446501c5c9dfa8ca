"""The promise under abuse is whole: every case of the catalogue has its tests, and the page is what the run wrote."""

import json
from collections import Counter

import pytest

from tests.support.advisories import outcome
from tests.support.reliability import CATALOGUE, MARKED, expected, groups, page
from tests.support.running import HOME


def test_every_case_is_shown_by_a_test(request):
    asked = {item.partition("::")[0].rpartition("/")[2] for item in request.config.stash[MARKED]}
    if asked != {path.name for path in (HOME / "tests").glob("test_*.py")}:
        pytest.skip("only some of the test files were asked for")
    shown = {mark for marks in request.config.stash[MARKED].values() for mark in marks}
    assert not sorted(expected() - shown)


def test_the_catalogue_has_the_cases_it_promises():
    assert sum(len(group["cases"]) for group in CATALOGUE["malformed"].values()) == 118
    assert len(CATALOGUE["security"]["S"]["cases"]) == 40
    assert not [
        case
        for case, count in Counter(case for group in groups().values() for case in group["cases"]).items()
        if count > 1
    ]


def test_the_page_is_poured_out_of_its_record():
    record = json.loads((HOME / "docs" / "reliability.json").read_text())
    assert (HOME / "docs" / "reliability.md").read_text() == page(record)
    assert {row["case"] for row in record["cases"]} == {case for case, _ in expected()}
    assert all(f"| {case} | " in page(record) for case, _ in expected())
    assert all(row["passed"] == row["tests"] for row in record["cases"])


UNKNOWN = """No known vulnerabilities found
Name  Skip Reason
----- -----------
torch Dependency not found on PyPI and could not be audited: torch (1)
"""


@pytest.mark.parametrize(
    ("code", "said", "expected", "told"),
    [
        (0, "No known vulnerabilities found", 0, "none of the pinned versions has a known one"),
        (0, UNKNOWN, 0, "SKIPPED 1, which the service does not know: torch"),
        (1, "Found 1 known vulnerability in 1 package\nrequests 2.0 GHSA-x", 1, "requests 2.0 GHSA-x"),
        (1, "pip_audit._service.ServiceError: Connection refused", 0, "SKIPPED, the advisory service of PyPI cannot"),
        (1, "a fault of its own", 1, "pip-audit failed: a fault of its own"),
    ],
)
def test_what_was_not_looked_at_is_not_called_sound(code, said, expected, told):
    found, line = outcome(code, said)
    assert found == expected and told in line
