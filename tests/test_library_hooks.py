"""Each private or internal part of a library in use is there as it was, and is listed with what replaces it."""

import ast
import importlib
import inspect
import sys
import tomllib
from importlib.metadata import packages_distributions, version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.running import HOME

HOOKS = yaml.safe_load((HOME / "tests" / "library_hooks.yaml").read_text(encoding="utf-8"))
LISTED = {hook["name"].rpartition(".")[2] for hook in HOOKS}
LIBRARIES = ("accelerate", "datasets", "huggingface_hub", "numpy", "peft", "torch", "transformers", "trl")
# Modules below a library's top level that its documentation names.
DOCUMENTED = {
    *("transformers.utils", "transformers.modeling_outputs", "huggingface_hub.constants", "huggingface_hub.errors"),
    *("huggingface_hub.utils", "huggingface_hub.hf_api", "accelerate.utils", "peft.utils", "torch.nn.functional"),
    *(
        "torch.utils.data",
        "torch.utils.flop_counter",
        "transformers.generation.utils",
        "transformers.utils.logging",
        "transformers.integrations",
    ),
}
FILES = [
    path
    for folder in ("llava_mistral", "modeling_llava_mistral", "processing")
    for path in sorted((HOME / folder).rglob("*.py"))
]


def find(name: str) -> tuple[object, object]:
    """The object that holds what `name` names, and the thing itself; None where only an instance has it."""
    *place, last = name.split(".")
    for count in range(len(place), 0, -1):
        try:
            owner = importlib.import_module(".".join(place[:count]))
        except ModuleNotFoundError:
            continue
        for part in place[count:]:
            owner = getattr(owner, part)
        if inspect.ismodule(owner) and not hasattr(owner, last):
            return owner, importlib.import_module(name)
        return owner, getattr(owner, last, None)
    raise AssertionError(f"{name}: no such module")


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["name"])
def test_a_hook_is_there_and_takes_what_it_took(hook):
    owner, thing = find(hook["name"])
    last = hook["name"].rpartition(".")[2]
    if "takes" in hook:
        assert ", ".join(inspect.signature(thing).parameters) == hook["takes"], hook
    elif thing is None and owner.__name__ == "memmap":
        assert hasattr(owner(inspect.getfile(owner), mode="r"), last), hook
    elif thing is None:
        sources = [inspect.getsource(inspect.getmodule(base)) for base in owner.__mro__ if base is not object]
        assert any(last in source for source in sources), hook


def test_every_hook_says_why_and_what_else_and_is_used():
    code = "".join(path.read_text(encoding="utf-8") for path in FILES)
    for hook in HOOKS:
        assert hook["why"] and hook["instead"] and hook["name"].rpartition(".")[2] in code, hook


def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(HOME)): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_every_private_name_of_a_library_is_listed():
    """A private name that none of our own classes and modules defines."""
    parsed, ours = trees(), set()
    for tree in parsed.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    found = [
        f"{file}:{node.lineno}: {node.attr}"
        for file, tree in parsed.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        and node.attr not in ours | LISTED | {"_exit"}  # of os: documented
    ]  # fmt: skip
    assert not found


def test_every_import_from_within_a_library_is_listed():
    found = [
        f"{file}:{node.lineno}: {node.module}.{alias.name}"
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level and "." in node.module
        and node.module.split(".")[0] in LIBRARIES and node.module not in DOCUMENTED
        for alias in node.names
        if alias.name not in LISTED
        and not any(hook["name"].startswith(f"{node.module}.{alias.name}.") for hook in HOOKS)
    ]  # fmt: skip
    assert not found


def test_every_private_method_that_is_overridden_is_listed():
    from llava_mistral.training.trainer import StageTrainer
    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration, LlavaMistralModel
    from processing import LlavaMistralProcessor

    models = (LlavaMistralForConditionalGeneration, LlavaMistralModel)
    missing = set()
    for line in (cls.__mro__ for cls in (StageTrainer, LlavaMistralConfig, LlavaMistralProcessor, *models)):
        for place, cls in enumerate(line):
            if cls.__module__.split(".")[0] in LIBRARIES:
                continue
            theirs = {
                name for base in line[place + 1 :] for name in vars(base) if base.__module__.startswith(LIBRARIES)
            }
            missing |= {
                name
                for name in vars(cls).keys() & theirs
                if name.startswith("_") and not name.startswith("__") and not name.endswith("_cached_value")
            }
    assert missing <= LISTED


def imported() -> set[str]:
    """Top-level names of what the code imports, of neither Python nor us."""
    found = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    ours = {"llava_mistral", "modeling_llava_mistral", "processing", "push_to_hub", "train_sft"}
    return found - sys.stdlib_module_names - ours


def test_what_is_imported_is_declared_with_a_range_that_holds_what_is_tested():
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [Requirement(line) for line in project["dependencies"]]
    ranges = {canonicalize_name(one.name): one.specifier for one in declared}
    extras = {
        canonicalize_name(Requirement(line).name)
        for name, lines in project["optional-dependencies"].items()
        for line in lines
    }
    packages = packages_distributions()
    for module in imported() - {
        "gradio",
        "deepspeed",
        "bitsandbytes",
        "starlette",
    }:  # of extras, perhaps not installed
        names = {canonicalize_name(name) for name in packages[module]}
        assert names & (ranges.keys() | extras), f"{module} is imported and not declared"
    for name in LIBRARIES:
        specifier = ranges[canonicalize_name(name)]
        assert {"<"} & {one.operator for one in specifier}, f"{name} has no ceiling"
        assert specifier.contains(version(name), prereleases=True)
