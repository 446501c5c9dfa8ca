"""Ask the advisory service of PyPI for known holes in the pinned versions: `python -m tests.support.advisories`.

It ends with 1 where there are some, names them, and says so by name where the service cannot be reached.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
UNREACHABLE = (
    "ConnectionError",
    "ServiceError",
    "Max retries exceeded",
    "Connection refused",
    "timed out",
    "403",
    "404",
)


def outcome(code: int, said: str) -> tuple[int, str]:
    """Return (exit code, a line) of what pip-audit said: known holes fail, an absent service does not."""
    if code == 0:
        # pip-audit calls it a success, too, when the service knows none of the versions.
        if unknown := [line.split()[0] for line in said.splitlines() if "could not be audited" in line]:
            return 0, f"advisories: SKIPPED {len(unknown)}, which the service does not know: {', '.join(unknown)}"
        return 0, "advisories: none of the pinned versions has a known one"
    if "Found " in said and "known vulnerabilit" in said:
        return 1, said
    reason = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "no message")
    if any(sign in said for sign in UNREACHABLE):
        return 0, f"advisories: SKIPPED, the advisory service of PyPI cannot be reached ({reason[:200]})"
    return 1, f"advisories: pip-audit failed: {reason[:200]}"


def main() -> int:
    if find_spec("pip_audit") is None:
        print("advisories: SKIPPED, pip-audit is not installed; run `pip install '.[audit]'`")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    done = subprocess.run([*command, "--timeout", "15", "-r", CONSTRAINTS], capture_output=True, text=True)
    code, line = outcome(done.returncode, done.stdout + done.stderr)
    print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
