"""Whatever transformers' common suites prove of its own Llava, they prove of ours.

The suites come from the source distribution of the installed version, which pip brings into the user's cache. It holds
the model and processor suites, and not the generation and export suites they import; `TRANSFORMERS_SOURCE`, a source
tree of the library, supplies those. Without it they are empty, and the printed counts are of the others alone.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest
import transformers
from PIL import Image

from tests.support.offline import UNGUARDED
from tests.support.running import HOME

SUITE = HOME / "tests" / "transformers_suites" / "llava_mistral_suite.py"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava-mistral" / "suites"
SIDES = ("stock", "ours")
# Modules that the suites import and the source distribution leaves out, with what stands in for them.
LEFT_OUT = {
    "tests/generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "tests/exporters/test_export.py": "class ExportTesterMixin: pass\n",
}
# Brings the suites' pictures from the Hub; here one of our own takes their place, on both sides.
FETCH = """from pathlib import Path
def url_to_local_path(url, *_, **__): return str(Path(__file__).with_name("picture.png"))
"""
# Skips itself where no weight is renamed: stock Llava maps an older layout of its own, which ours never had.
NOTHING_TO_RENAME = "test_reverse_loading_mapping"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]  # both sides, on two cores: 20 minutes and more


def _pip(*arguments: object) -> None:
    command = [UNGUARDED, "-m", "pip", *map(str, arguments), "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"pip cannot bring the library's suites here: {done.stderr.strip().splitlines()[-1:]}")


@pytest.fixture(scope="module")
def library_tests(tmp_path_factory) -> Path:
    """A tree with the library's `tests/` and `utils/`, our suite among them, and what they need to be imported."""
    version = transformers.__version__
    archives = CACHE / version
    if not list(archives.glob("transformers-*.tar.gz")):
        # Nothing of it is built: preparing its metadata would want its build system.
        _pip("download", "--no-deps", "--no-binary=:all:", "--no-build-isolation", "-d", archives,
             f"transformers=={version}")  # fmt: skip
    if not (CACHE / "needs" / "parameterized").is_dir():
        _pip("install", "--no-deps", "--target", CACHE / "needs", "parameterized")
    tree = tmp_path_factory.mktemp("library")
    with tarfile.open(next(archives.glob("transformers-*.tar.gz"))) as archive:
        members = [member for member in archive.getmembers() if "/tests/" in f"{member.name}/"]
        archive.extractall(tree, members, filter="data")
    tree = tree / f"transformers-{version}"
    source = os.environ.get("TRANSFORMERS_SOURCE")
    for name, stand_in in LEFT_OUT.items():
        path = tree / name
        if path.exists():
            continue
        if source:
            shutil.copytree((Path(source) / name).parent, path.parent, dirs_exist_ok=True)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(stand_in)
    (tree / "utils").mkdir(exist_ok=True)
    (tree / "utils" / "fetch_hub_objects_for_ci.py").write_text(FETCH)
    Image.new("RGB", (40, 24), (200, 30, 90)).save(tree / "utils" / "picture.png")
    for package in (tree / "tests", tree / "tests" / "generation", tree / "tests" / "exporters"):
        (package / "__init__.py").touch()
    shutil.copy(SUITE, tree / "tests" / "test_modeling_llava_mistral.py")
    return tree


def _outcomes(tree: Path, side: str, tokenizer: Path) -> dict[str, str]:
    """Run the suites on one side; test name to `passed`, `skipped` or `failed: its message`."""
    report = tree / f"{side}.xml"
    environment = {**os.environ, "SUITE_SIDE": side, "SUITE_TOKENIZER": str(tokenizer), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (tree, HOME, CACHE / "needs")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tree}"]
    command += [f"--junitxml={report}", "tests/test_modeling_llava_mistral.py"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = [child.get("message", "") for child in case if child.tag in ("failure", "error")]
        if bad:
            outcomes[name] = f"failed: {bad[0][:300]}"
        else:
            outcomes[name] = "skipped" if case.find("skipped") is not None else "passed"
    return outcomes


@pytest.fixture(scope="module")
def outcomes(library_tests, mistral_folder) -> dict[str, dict[str, str]]:
    with ThreadPoolExecutor(len(SIDES)) as both:
        runs = {side: both.submit(_outcomes, library_tests, side, mistral_folder) for side in SIDES}
    found = {side: run.result() for side, run in runs.items()}
    for side, of in found.items():
        counts = {kind: sum(o.startswith(kind) for o in of.values()) for kind in ("passed", "skipped", "failed")}
        print(f"{side}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return found


def test_the_suites_were_not_empty(outcomes):
    passed = [name for name, outcome in outcomes["stock"].items() if outcome == "passed"]
    for suite in ("TestModel", "TestModelWithShortWindow", "TestProcessor"):
        assert sum(name.startswith(f"{suite}::") for name in passed) > 20, suite


def test_what_passes_for_the_stock_llava_passes_for_ours(outcomes):
    stock, ours = outcomes["stock"], outcomes["ours"]
    worse = {name: ours.get(name, "absent") for name, o in stock.items() if o == "passed" != ours.get(name)}
    worse = {
        name: outcome
        for name, outcome in worse.items()
        if (name.split("::")[1], outcome) != (NOTHING_TO_RENAME, "skipped")
    }
    assert not worse, "\n".join(f"{name}: {outcome}" for name, outcome in worse.items())
