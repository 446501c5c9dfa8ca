"""The prose that can rot: every command of README and docs names a verb that exists and flags that it has."""

import re
import shlex
from functools import cache

import pytest

from llava_mistral.ground.recipe_files import recipe_file
from tests.support.running import HOME, run_apart

README = (HOME / "README.md").read_text(encoding="utf-8")
PROSE = README + "".join(page.read_text(encoding="utf-8") for page in sorted((HOME / "docs").rglob("*.md")))
COMMANDS = sorted({command.strip() for command in re.findall(r"llava-mistral ([a-z]+ [^`\n|#]+)", PROSE)})
TESTS = sorted(set(re.findall(r"`(tests/\w+\.py)`", PROSE)))


def test_readme_shows_the_two_commands_and_a_picture_first():
    screen = "\n".join(README.splitlines()[:30])
    assert "make demo" in screen and "make test" in screen and "pipeline(" in screen
    picture = re.search(r"!\[[^]]+\]\(([^)]+)\)", screen).group(1)
    assert (HOME / picture).is_file()


@cache
def usage(*verb: str) -> str:
    return run_apart("-m", "llava_mistral", *verb, "--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_prose_has_flags_that_exist(command):
    verb, *words = shlex.split(command)
    kind = [word for word in words[:1] if not word.startswith("-") and verb == "publish"]
    for flag in (word for word in words if word.startswith("--")):
        assert flag in usage(verb, *kind), f"{verb} has no {flag}"


def test_make_has_the_targets_of_readme():
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo:", makefile, re.M) and re.search(r"^test:", makefile, re.M)
    for recipe in re.findall(r"--config (\S+)", makefile):
        assert recipe_file(recipe).is_file()
    assert "make test" in (HOME / ".ci" / "run").read_text(encoding="utf-8")


def test_nobody_is_told_to_fetch_this_project_from_an_index():
    """The name is not ours there: whoever registers it would be installed."""
    sources = [path.read_text(encoding="utf-8") for path in sorted((HOME / "llava_mistral").rglob("*.py"))]
    told = re.findall(r"pip install [^`\n]*", PROSE + "".join(sources))
    assert told and not [words for words in told if re.search(r"(?<![/.\w])llava[-_]mistral", words)]


def test_every_test_that_prose_names_is_there():
    assert TESTS and all((HOME / test).is_file() for test in TESTS)
