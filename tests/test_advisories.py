"""What pip-audit says of the pinned versions, told as it is: nothing that was not looked at counts as sound."""

import pytest

from tests.support.advisories import outcome

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
