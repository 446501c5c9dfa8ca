"""Files and functions stay of a size that one reads at once."""

import ast

from tests.support.running import HOME

FOLDERS = ("llava_mistral", "modeling_llava_mistral", "processing", "benchmarks", "tests")
FILES = [path for folder in FOLDERS for path in sorted((HOME / folder).rglob("*.py"))]
FILES = [path for path in FILES if "published_0_1_0" not in path.parts]  # as it was published
LINES, LINES_OF_A_FUNCTION = 300, 60
LONG = {"main", "forward"}  # read from top to bottom


def test_no_file_is_longer_than_300_lines():
    long = {str(path.relative_to(HOME)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in long.items() if count > LINES}


def test_no_function_is_longer_than_60_lines():
    long = [
        f"{path.relative_to(HOME)}: {node.name}: {node.end_lineno - node.lineno + 1}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name not in LONG and node.end_lineno - node.lineno >= LINES_OF_A_FUNCTION
    ]
    assert not long


def test_no_test_borrows_from_another_test():
    borrowed = [
        f"{path.name}:{node.lineno}: {node.module}"
        for path in sorted((HOME / "tests").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests.test_")
    ]
    assert not borrowed, "what tests share lies in tests/support"
