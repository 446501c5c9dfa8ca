"""Who may import whom: verbs any room, rooms what lies below them, and what is published nothing of ours.

Files and functions stay of a size that one reads at once.
"""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.running import HOME, run_apart

PACKAGE = HOME / "llava_mistral"
PUBLISHED = {"modeling_llava_mistral", "processing"}
ROOMS = {
    "ground": PUBLISHED,
    "data": {"ground"},
    "pruning": {"ground", "data"},
    "training": {"ground", "data"} | PUBLISHED,
    "evaluation": {"ground", "data"} | PUBLISHED,
    "checkpoints": {"ground", "data"} | PUBLISHED,
    "publishing": {"ground", "data"},
    "chatting": {"ground"},
    "studio": {"ground"},
    "miniature": {"ground", "data"},
    "local_hub": {"ground"},
}
VERBS = sorted(path for path in (PACKAGE / "commands").glob("*.py") if path.stem != "__init__")
FILES = sorted(path for room in ROOMS for path in (PACKAGE / room).rglob("*.py"))
SHIPPED = sorted(path for package in PUBLISHED for path in (HOME / package).glob("*_llava_mistral.py"))
SHIPPED_MAY = {"torch", "transformers", "huggingface_hub", "PIL", "numpy", "jinja2"} | sys.stdlib_module_names
UPLOADS = {"push_to_hub", "upload_file", "upload_folder", "upload_large_folder", "create_commit", "create_repo"}

FOLDERS = ("llava_mistral", "modeling_llava_mistral", "processing", "benchmarks", "tests")
SOURCES = [path for folder in FOLDERS for path in sorted((HOME / folder).rglob("*.py"))]
SOURCES = [path for path in SOURCES if "published_0_1_0" not in path.parts]  # as it was published
LINES, LINES_OF_A_FUNCTION = 300, 60
LONG = {"main", "forward"}  # read from top to bottom


def name(path: Path) -> str:
    return str(path.relative_to(HOME))


def imported(tree: ast.AST) -> set[str]:
    """Roots of the absolute imports below `tree`, wherever they stand."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def rooms_imported(tree: ast.AST) -> set[str]:
    """Our rooms and published packages that are imported below `tree`, wherever they stand."""
    found = set()
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for words in (name.split(".") for name in names):
            if words[0] in PUBLISHED | {"tests", "benchmarks", "train_sft", "push_to_hub"}:
                found.add(words[0])
            elif words[0] == "llava_mistral":
                found.add(words[1])
    return found


def test_every_room_has_a_place_in_the_rule():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == {*ROOMS, "commands"}
    assert {path.parent.name for path in HOME.glob("*/__init__.py")} == PUBLISHED | {"llava_mistral"}
    assert {path.stem for path in HOME.glob("*.py")} == {"train_sft", "push_to_hub"}
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "cli"}
    assert len(SHIPPED) == 5


@pytest.mark.parametrize("path", VERBS, ids=name)
def test_a_verb_imports_no_verb(path):
    assert rooms_imported(parse(path)) <= {*ROOMS, *PUBLISHED, "cli"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_room_imports_only_what_lies_below_it(path):
    room = path.relative_to(PACKAGE).parts[0]
    found = rooms_imported(parse(path)) - {room}
    assert found <= ROOMS[room], f"{name(path)} imports {', '.join(sorted(found - ROOMS[room]))}"
    assert not relative_imports(path), "absolute imports alone: a file that moves keeps its meaning"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_room_leaves_the_manners_of_verbs_to_verbs(path):
    """`command_line` is for what runs as a command: verbs, and modules that `python -m` starts."""
    tree = parse(path)
    assert not takes_manners(tree) or path.parent.name == "ground" or runs_as_a_module(tree), name(path)


def relative_imports(path: Path) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(parse(path)) if isinstance(node, ast.ImportFrom) and node.level]


def takes_manners(tree: ast.AST) -> bool:
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(node.module == "llava_mistral.ground.command_line" for node in froms)


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_a_published_file_imports_published_siblings_and_nothing_of_ours(path):
    assert not rooms_imported(parse(path))
    assert all(node.level == 1 for node in relative_imports(path))


def runs_as_a_module(tree: ast.Module) -> bool:
    """Whether `command_line` is imported in `main` and under `__main__` only, as `python -m` needs it."""
    allowed = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    allowed += [node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
    rest = ast.Module([node for node in tree.body if node not in allowed], type_ignores=[])
    return len(allowed) == 2 and not takes_manners(rest)


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_a_shipped_file_needs_only_what_a_stranger_has(path):
    """By `ast`, and by the regular expressions with which transformers looks for what it must copy or demand."""
    from transformers.dynamic_module_utils import get_imports, get_relative_imports

    assert imported(parse(path)) <= SHIPPED_MAY
    assert set(get_imports(path)) <= SHIPPED_MAY
    siblings = {sibling.stem for sibling in SHIPPED if sibling.parent == path.parent}
    assert set(get_relative_imports(path)) <= siblings - {path.stem}
    relative = {node.module for node in ast.walk(parse(path)) if isinstance(node, ast.ImportFrom) and node.level}
    assert relative == set(get_relative_imports(path)), "what is imported is what is copied"


def everything() -> list[Path]:
    return [*VERBS, *FILES, *SHIPPED, PACKAGE / "cli.py"]


def test_only_training_imports_trl_and_peft():
    """`llava-mistral study` loads trl for the steps that it forks, and uses nothing of it.

    A published adapter is loaded as a stranger would, with peft, in the clean process that verification starts.
    """
    for path in everything():
        if imported(parse(path)) & {"trl", "peft"}:
            used = {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)} & {"trl", "peft"}
            warms_up = path == PACKAGE / "commands" / "study.py" and not used
            loads = path == PACKAGE / "publishing" / "receiving.py" and "trl" not in imported(parse(path))
            trains = path == PACKAGE / "commands" / "train.py" or path.is_relative_to(PACKAGE / "training")
            assert warms_up or loads or trains, name(path)


def test_only_publishing_uploads():
    """By the names of the Hub's writing functions, called or passed on."""
    for path in everything():
        used = {node.attr for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)} & UPLOADS
        used |= {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)} & UPLOADS
        assert not used or name(path) in ("llava_mistral/publishing/upload.py",), f"{name(path)}: {used}"


def test_scoring_statistics_principles_and_cards_do_without_torch():
    """Nor does anything that they import."""
    modules = (
        "llava_mistral.evaluation.scoring",
        "llava_mistral.evaluation.statistics",
        "llava_mistral.pruning.principles",
        "llava_mistral.publishing.cards",
    )
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'transformers', 'trl'}} & set(sys.modules)))"
    assert run_apart("-c", code).stdout == "[]\n"


def test_importing_a_verb_imports_nothing_heavy():
    """So that --help and every refusal come before the libraries."""
    verbs = ", ".join(f"llava_mistral.commands.{verb.stem}" for verb in VERBS)
    code = f"import sys, {verbs}; print(sorted({{'torch', 'transformers', 'trl', 'datasets'}} & set(sys.modules)))"
    assert run_apart("-c", code).stdout == "[]\n"


def test_no_file_is_longer_than_300_lines():
    long = {str(path.relative_to(HOME)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {name: count for name, count in long.items() if count > LINES}


def test_no_function_is_longer_than_60_lines():
    long = [
        f"{path.relative_to(HOME)}: {node.name}: {node.end_lineno - node.lineno + 1}"
        for path in SOURCES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name not in LONG and node.end_lineno - node.lineno >= LINES_OF_A_FUNCTION
    ]
    assert not long


def test_no_test_borrows_from_another_test():
    borrowed = [
        f"{path.name}:{node.lineno}: {node.module}"
        for path in sorted((HOME / "tests").glob("*.py"))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests.test_")
    ]
    assert not borrowed, "what tests share lies in tests/support"
