"""Every page that we write, in Chromium: no sideways scrolling on a phone, and nothing that axe-core objects to.

axe-core (https://github.com/dequelabs/axe-core) is taken from `AXE_CORE`, the path of its axe.min.js, or
fetched by npm into the user's cache.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from llava_mistral.commands import compare, evaluate, prune
from llava_mistral.publishing.cards import card_html
from llava_mistral.training.sample_answers import SampleAnswers
from tests.support.running import run_here
from tests.support.small_problems import save_problems

pytestmark = pytest.mark.slow
VERSION = "4.14.1"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LONG = "w" * 200
CARD = f"""---
license: apache-2.0
tags: {LONG}
---
# A model

| | {" | ".join(f"column {number}" for number in range(12))} |
|{"---|" * 13}
|{" value 0.123 |" * 13}

```python
{"line = 'of code' ; " * 20}
```

`{LONG}` {LONG}
"""


@pytest.fixture(scope="module")
def axe() -> str:
    if given := os.environ.get("AXE_CORE"):
        return Path(given).read_text()
    folder = Path.home() / ".cache" / "llava_mistral_tests" / f"axe-core-{VERSION}"
    file = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not file.is_file():
        if not shutil.which("npm"):
            pytest.skip("neither AXE_CORE nor npm is there")
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--prefix", str(folder), f"axe-core@{VERSION}"]
        if subprocess.run(command, capture_output=True, timeout=120).returncode:
            pytest.skip("npm cannot fetch axe-core")
    return file.read_text()


@pytest.fixture(scope="module")
def tab(browser):
    tab = browser.new_page(viewport={"width": 375, "height": 800})
    tab.set_default_timeout(150_000)
    return tab


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """One of each kind, by name, from 24 problems and 24 long ones."""
    place = tmp_path_factory.mktemp("pages")
    data = save_problems(place / "data")
    for name, seed in (("first", 1), ("second", 2)):
        words = ["--dataset", data, "--method", "random", "--size", 9, "--seed", seed, "--output", place / name]
        run_here(prune.main, *words)
        (place / f"{name}.json").write_text(json.dumps({"results": {str(pid): seed - 1 for pid in range(24)}}))
        told = ["--problems", data / "problems.json", "--predictions", place / f"{name}.json"]
        run_here(evaluate.main, *told, "--output", place / f"{name}-judged")
    run_here(prune.main, "--compare", place / "first", place / "second", "--output", place / "sets")
    judged = [f"{LONG[:90]}{name}={place / f'{name}-judged'}" for name in ("first", "second")]
    run_here(compare.main, *judged, "--output", place / "comparison")
    (place / "card.html").write_text(card_html(CARD, "me/model"))
    asked = object.__new__(SampleAnswers)  # what it writes needs no model
    asked.title, asked.rows = f"stage2 {LONG}", [{"id": "1", "images": [Image.new("RGB", (336, 200), "teal")] * 2}]
    sample = {"id": "1", "question": f"Which {LONG}", "gold": "one", "answer": "two", "pictures": 2}
    (place / "samples.html").write_text(asked.page({"step": 4, "eval_loss": 1.2, "samples": [sample]}))
    return {
        "pruning report": place / "first" / "report.html",
        "pruned sets compared": place / "sets" / "report.html",
        "answers": place / "first-judged" / "answers.html",
        "comparison": place / "comparison" / "report.html",
        "card": place / "card.html",
        "sample answers": place / "samples.html",
    }


NAMES = ("pruning report", "pruned sets compared", "answers", "comparison", "card", "sample answers")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_a_phone_and_axe_objects_to_nothing(pages, tab, axe, name, scheme):
    tab.emulate_media(color_scheme=scheme)
    tab.goto(pages[name].as_uri(), wait_until="load")
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 376)"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375, tab.evaluate(
        f"{wide}.map(one => one.outerHTML.slice(0, 120)).slice(0, 5)"
    )
    tab.evaluate(axe)  # by the debugger: the pages' own policy lets no script in
    found = tab.evaluate(f"async () => (await axe.run({{runOnly: {json.dumps(RULES)}}})).violations")
    assert not [(one["id"], [node["html"][:160] for node in one["nodes"]][:3]) for one in found]


def test_the_check_would_notice(tab, axe, tmp_path):
    bad = '<!doctype html><html><title>t</title><img src="x.png"><p style="width:900px;color:#ccc">pale and wide</p>'
    (tmp_path / "bad.html").write_text(bad)
    tab.emulate_media(color_scheme="light")
    tab.goto((tmp_path / "bad.html").as_uri())
    tab.evaluate(axe)
    found = tab.evaluate(f"async () => (await axe.run({{runOnly: {json.dumps(RULES)}}})).violations.map(v => v.id)")
    assert {"html-has-lang", "image-alt", "color-contrast"} <= set(found)
    assert tab.evaluate("document.documentElement.scrollWidth") > 375
