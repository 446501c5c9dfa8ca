"""Who may import whom: verbs any noun and no verb, nouns almost nothing, and what ships to the Hub nothing of ours."""

import ast
import sys
from pathlib import Path

import pytest

from tests.running import HOME, run_apart

NOUNS = {
    "modeling_llava_mistral": set(),
    "processing": set(),
    "pruning": {"processing"},
    "training": {"processing"},
    "evaluation": {"processing"},
    "publishing": set(),
    "local_hub": set(),
}
# One error, one picture decoder and one reading of checkpoints for all; manners for verbs.
SHARED = {"bad_input", "command_line", "pictures", "checkpoint_files"}
VERBS = sorted(path for path in HOME.glob("*.py") if path.stem not in SHARED)
FILES = sorted(path for noun in NOUNS for path in (HOME / noun).rglob("*.py"))
SHIPPED = sorted(path for path in FILES if path.name.endswith("_llava_mistral.py"))
SHIPPED_MAY = {"torch", "transformers", "huggingface_hub", "PIL", "numpy"} | sys.stdlib_module_names
UPLOADS = {"push_to_hub", "upload_file", "upload_folder", "upload_large_folder", "create_commit", "create_repo"}


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


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def ours() -> set[str]:
    return set(NOUNS) | SHARED | {path.stem for path in VERBS} | {"tests", "benchmarks"}


def test_every_package_has_a_place_in_the_rule():
    packages = {path.parent.name for path in HOME.glob("*/__init__.py")}
    assert packages == set(NOUNS)
    assert len(SHIPPED) == 3


@pytest.mark.parametrize("path", VERBS, ids=name)
def test_a_verb_imports_no_verb(path):
    others = {verb.stem for verb in VERBS} | {"tests", "benchmarks"}
    assert not imported(parse(path)) & others


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_noun_imports_only_what_lies_below_it(path):
    noun = path.relative_to(HOME).parts[0]
    may = NOUNS[noun] | {noun, "bad_input", "pictures", "checkpoint_files"}
    if path in SHIPPED:
        may = set()
    tree = parse(path)
    found = imported(tree) & ours()
    if "command_line" in found and runs_as_a_module(tree):
        found.remove("command_line")
    assert found <= may, f"{name(path)} imports {', '.join(sorted(found - may))}"
    levels = {node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert levels <= {0, 1}, "no relative import leaves its folder"


def runs_as_a_module(tree: ast.Module) -> bool:
    """Whether `command_line` is imported in `main` and under `__main__` only, as `python -m` needs it."""
    allowed = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    allowed += [node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
    rest = ast.Module([node for node in tree.body if node not in allowed], type_ignores=[])
    return len(allowed) == 2 and "command_line" not in imported(rest)


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
    return [*VERBS, *FILES, *(HOME / f"{name}.py" for name in SHARED)]


def test_only_training_imports_trl_and_peft():
    """`reproduce_study.py` loads trl for the steps that it forks, and uses nothing of it.

    A published adapter is loaded as a stranger would, with peft, in the clean process that verification starts.
    """
    for path in everything():
        if imported(parse(path)) & {"trl", "peft"}:
            used = {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)} & {"trl", "peft"}
            warms_up = name(path) == "reproduce_study.py" and not used
            loads = name(path) == "publishing/verification.py" and "trl" not in imported(parse(path))
            assert warms_up or loads or name(path) == "train_sft.py" or name(path).startswith("training/"), name(path)


def test_only_publishing_uploads():
    """By the names of the Hub's writing functions, called or passed on."""
    for path in everything():
        used = {node.attr for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)} & UPLOADS
        used |= {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)} & UPLOADS
        assert not used or name(path) in ("push_to_hub.py", "publishing/upload.py"), f"{name(path)}: {used}"


def test_scoring_statistics_principles_and_cards_do_without_torch():
    """Nor does anything that they import."""
    nouns = "evaluation.scoring", "evaluation.statistics", "pruning.principles", "publishing.cards"
    code = f"import sys, {', '.join(nouns)}; print(sorted({{'torch', 'transformers', 'trl'}} & set(sys.modules)))"
    assert run_apart("-c", code).stdout == "[]\n"


def test_importing_a_verb_imports_nothing_heavy():
    """So that --help and every refusal come before the libraries."""
    verbs = ", ".join(verb.stem for verb in VERBS)
    code = f"import sys, {verbs}; print(sorted({{'torch', 'transformers', 'trl', 'datasets'}} & set(sys.modules)))"
    assert run_apart("-c", code).stdout == "[]\n"
