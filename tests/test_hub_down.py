"""The Hub is down: a pinned commit comes out of the cache; what the cache does not hold whole is refused in words."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.publishing_runs import TOKEN, download, push
from tests.support.running import HOME
from tests.support.small_problems import save_problems

pytestmark = [pytest.mark.case("H10", "survived"), pytest.mark.slow]
# The clients' own tries stay; only what they wait in between, 23 s for each file, is left out.
IMPATIENT = "import runpy, sys, time; time.sleep = lambda _: None; sys.argv = sys.argv[1:]; sys.path.insert(0, '.')"
IMPATIENT += "; module = sys.argv.pop(0) == '-m' if sys.argv[0] == '-m' else False"
IMPATIENT += "; (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name='__main__')"


def start(environment: dict[str, str], *command: object) -> subprocess.CompletedProcess:
    words = [sys.executable, "-c", IMPATIENT, *map(str, command)]
    return subprocess.run(words, env=environment, cwd=HOME, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def down(stage0, tmp_path_factory):
    """(the card's snippet as a file, the commit, environments by state of the cache), of a Hub that is gone."""
    place = tmp_path_factory.mktemp("down")
    with LocalHub(place / "root", token=TOKEN) as hub:
        push(hub, place / "home", "model", stage0, "owner/name", "--no_verify", "--license", "apache-2.0")
        snapshot = download(hub, place / "reader", "owner/name")
        blocks = re.findall(r"```python\n(.*?)```", (snapshot / "README.md").read_text(), re.S)
        snippet = next(block for block in blocks if "AutoModelForImageTextToText" in block)
        commit = snapshot.name
        (place / "snippet.py").write_text(
            re.sub(r'revision="[^"]+"', f'revision="{commit}"', snippet)
            + "import hashlib\nprint(hashlib.sha256(model.lm_head.weight.detach().numpy().tobytes()).hexdigest())\n"
        )
        warm = start(hub.environment(place / "warm"), place / "snippet.py")
        assert warm.returncode == 0, warm.stderr
        states = {"warm": place / "warm", "cold": place / "cold"}
        for name in ("model.safetensors", "tokenizer.json"):
            states[name] = Path(shutil.copytree(place / "warm", place / f"without-{name}", symlinks=True))
            shutil.rmtree(states[name] / "modules")
            for file in states[name].rglob(name):
                file.unlink()
        environments = {state: hub.environment(home) for state, home in states.items()}
    return place / "snippet.py", commit, environments, warm.stdout


def ask(environment: dict[str, str], folder: Path, *more: str) -> subprocess.CompletedProcess:
    words = ["--dataset", save_problems(folder / "data"), "--split", "train", "--output", folder / "out"]
    return start(
        environment, "-m", "llava_mistral", "evaluate", "--model", "owner/name", "--max_new_tokens", "2", *words, *more
    )


def test_a_pinned_commit_in_the_cache_is_loaded(down, tmp_path):
    snippet, commit, environments, said = down
    done = start(environments["warm"], snippet)
    assert (done.returncode, done.stdout) == (0, said), done.stderr
    done = ask(environments["warm"], tmp_path, "--revision", commit)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["ALL"]["n"] == 24


@pytest.mark.parametrize("state", ["cold", "model.safetensors", "tokenizer.json"])
def test_what_the_cache_does_not_hold_whole_is_refused_in_words(down, tmp_path, state):
    """Nothing at all, or all but one file, for which the library must not put something of its own."""
    snippet, commit, environments, _ = down
    done = start(environments[state], snippet)
    assert done.returncode and not done.stdout, "the card's snippet loaded something"
    done = ask(environments[state], tmp_path, "--revision", commit)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    at = "" if state == "cold" else f" at {commit}"
    assert f"owner/name: field model: cannot be loaded{at} from the Hub or from the cache (" in last
    assert "nobody answers at http://127.0.0.1" in last
    assert not (tmp_path / "out" / "summary.json").exists()
