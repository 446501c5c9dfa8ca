"""The wheel, installed into a bare environment and used from a folder that knows nothing of the project."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.running import HOME

TOP_LEVEL = {"llava_mistral", "modeling_llava_mistral", "processing", "train_sft.py", "push_to_hub.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from what git would ship, so that nothing of a working tree helps it along."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shipped = subprocess.check_output(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=HOME, text=True)
    for name in filter(None, shipped.split("\0")):
        if (HOME / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HOME / name, source / name)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """`bin` of an environment that holds the wheel; the libraries it needs are those of the tests' environment."""
    home = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
        (points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        module, function = re.search(r"llava-mistral = ([\w.]+):(\w+)", archive.read(points).decode()).groups()
    libraries = Path(sysconfig.get_path("purelib"))
    for entry in libraries.iterdir():  # not by a .pth: one would bring the editable installation of this checkout
        if not entry.name.startswith(("__editable__", "llava_mistral", "distutils-precedence", "_distutils_hack")):
            (packages / entry.name).exists() or (packages / entry.name).symlink_to(entry)
    command = home / "bin" / "llava-mistral"
    command.write_text(f"#!{home}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    command.chmod(0o755)
    return home / "bin"


def run(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [installed / words[0], *words[1:]]
    return subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_brings_five_names_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == TOP_LEVEL


def test_the_command_works_from_any_folder(installed, tmp_path):
    assert "\n  prune " in run(installed, tmp_path, "llava-mistral", "--help").stdout
    where = run(installed, tmp_path, "python", "-c", "import llava_mistral; print(llava_mistral.__file__)").stdout
    assert Path(where.strip()).is_relative_to(installed.parent), "what is tested is the wheel"


def test_a_recipe_is_found_by_its_name_and_a_relative_output_is_below_the_folder(
    installed, tmp_path, stage0, rows_file
):
    given = ("--model_name_or_path", stage0, "--dataset", rows_file, "--output_dir", "mine/stage1")
    run_flags = ("--max_steps", 1, "--use_cpu", "True", "--bf16", "False", "--report_to", "none")
    done = run(installed, tmp_path, "llava-mistral", "train", "--config", "miniature/pretrain", *given, *run_flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "stage1" / "model.safetensors").is_file()


def test_the_snippet_of_readme_answers_from_another_folder(installed, tmp_path, stage0):
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "picture.png")
    (snippet,) = re.findall(r"```python\n(.*?)```", (HOME / "README.md").read_text(encoding="utf-8"), re.S)
    snippet = re.sub(r'model="[^"]+"', f'model="{stage0}"', snippet)
    snippet = re.sub(r'"path": "[^"]+"', '"path": "picture.png"', snippet)
    done = run(installed, tmp_path, "python", "-c", f"{snippet}\nprint(len(answer))")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "1", done.stderr
