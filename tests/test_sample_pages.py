"""The report reaches every sample and shows what is odd in the data, in a small page that runs and loads nothing.

Several pruned sets stand in one report, whose numbers are those of the sets.
"""

import html.parser
import json
import random
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from llava_mistral.commands.prune import main
from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.measures import Selection
from llava_mistral.pruning.picture_signs import _sign
from llava_mistral.pruning.principles import Scores
from llava_mistral.pruning.sample_pages import MOST_SHOWN, sample_pages, shown_by_reason
from tests.support.running import run_here
from tests.support.small_problems import save_problems

PICTURE = re.compile(r"data:image/(png|webp);base64,[A-Za-z0-9+/=]*\Z")
HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)> \"'& $x^2$ \u202eright to left " + "w" * 200


class Page(html.parser.HTMLParser):
    """Which tags a page has, what they load, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def test_every_sample_is_in_the_report_with_its_answer_and_reason(tmp_path):
    data = save_problems(tmp_path / "data", count=300)
    run_here(main, "--dataset", data, "--method", "principles", "--size", 40, "--output", tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text())
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    listed = page.text.split("Every sample")[1]
    for i in range(300):
        assert f"Which colour is shown in picture {i}?{('red', 'blue')[i % 2]}{i} ·" in listed
    for reason, count in manifest["counts"].items():
        assert reason == "kept" or f"{reason} ({count:,})" in listed
    assert "script" not in page.tags and ("name", "viewport") in page.attributes


def test_a_page_of_ten_thousand_samples_with_pictures_is_below_ten_megabytes():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(50)]
    signs = [_sign(picture, 28) for picture in noise]
    words = ["What is shown at the left of the picture, and what is it for? " * 3] * 10_000
    problems = [Problem(str(i), ask, (), solution="A thing. " * 20, has_image=True) for i, ask in enumerate(words)]
    chosen = Selection("random", range(1000), dict.fromkeys(range(1000, 10_000), "not drawn"))
    shown = shown_by_reason(chosen, problems)
    assert sum(map(len, shown.values())) == 10_000
    scores = [Scores(0.5, 0.5, "")] * 10_000
    page = sample_pages(problems, scores, shown, {}, {i: signs[i % 50] for i in range(10_000)})
    assert page.count("<li>") == 10_000 and page.count("<img") > 5_000
    assert len(page.encode()) < 10_000_000


def test_of_more_samples_than_a_page_holds_some_of_every_reason_are_shown_and_it_says_so():
    problems = [Problem(str(i), "?", ()) for i in range(3 * MOST_SHOWN)]
    dropped = {i: "not drawn" if i % 1000 else "an outlier" for i in range(10, len(problems))}
    shown = shown_by_reason(Selection("random", range(10), dropped), problems)
    assert {reason: len(own) for reason, own in shown.items()} == {"kept": 3, "not drawn": 9987, "an outlier": 9}
    counts = {"kept": 10, "not drawn": len(dropped) - 29, "an outlier": 29}
    page = sample_pages(problems, [Scores(0, 0, "")] * len(problems), shown, counts, {})
    assert "29 samples, 9 of them here, evenly chosen; manifest.json has all" in page


def draw(seed: int) -> Image.Image:
    picture, rng = Image.new("RGB", (64, 48), "white"), random.Random(seed)
    for _ in range(12):
        x, y = rng.randrange(50), rng.randrange(36)
        ImageDraw.Draw(picture).rectangle((x, y, x + 14, y + 12), fill=(rng.randrange(256), rng.randrange(256), 90))
    return picture


def test_copies_conflicts_and_dark_or_odd_pictures_are_named(tmp_path):
    def same_question(problems):
        for pid in ("1", "2"):
            problems[pid]["question"] = "Which colour is shown here?"

    data = save_problems(tmp_path / "data", change=same_question)
    for number, picture in enumerate(sorted((data / "images/train").iterdir(), key=lambda path: int(path.name))):
        draw(number).save(picture / "image.png")
    put = {"4": Image.new("RGB", (64, 48), (5, 5, 5)), "5": draw(70).resize((640, 48)), "7": draw(30).resize((4, 3))}
    put |= {"1": draw(99), "2": draw(99).resize((128, 96))}
    for pid, picture in put.items():
        picture.save(data / "images/train" / pid / "image.png")
    run_here(main, "--dataset", data, "--method", "random", "--size", 5, "--output", tmp_path / "out")
    said = Page((tmp_path / "out/report.html").read_text()).text.split("What to look at in the data")[1]
    said = "".join(said.split("Every sample")[0].splitlines())
    assert "dark pictures: 1 samples4red" in said
    assert "pictures of an odd size: 2 samples5blue7blue" in said
    assert "pictures that look alike: 2 samples in 1 groups1, 2blue; red" in said
    assert "with different answers: 2 samples in 1 groups1, 2blue; red" in said


def test_a_picture_that_cannot_be_read_is_named_and_no_fault_of_the_report(tmp_path):
    data = save_problems(tmp_path / "data")
    (data / "images/train/1/image.png").write_bytes(b"no picture")
    vectors = np.ones((24, 2), np.float32) + np.arange(24, dtype=np.float32)[:, None] * [[0, 1]]
    np.save(data / "v.npy", vectors.astype(np.float32))
    kept = ("--method", "farthest", "--embeddings", data / "v.npy", "--size", 2, "--check_pictures", "none")
    done = run_here(main, "--dataset", data, *kept, "--output", tmp_path / "out", "--pool", "all", code=0)
    assert "kept 2 of 24" in done.stdout
    assert "pictures that cannot be read: 1 samples\n1" in Page((tmp_path / "out/report.html").read_text()).text


@pytest.mark.parametrize("field", ["question", "id"])
def test_whatever_a_row_says_is_text(tmp_path, field):
    said = [{"from": "human", "value": HOSTILE}, {"from": "gpt", "value": HOSTILE}]
    records = [{"id": HOSTILE if field == "id" else "a", "conversations": said}, {"id": "b", "conversations": said}]
    (tmp_path / "rows.json").write_text(json.dumps(records))
    given = ("--dataset", tmp_path / "rows.json", "--method", "random", "--size", 1, "--output", tmp_path / "out")
    run_here(main, *given)
    page = Page((tmp_path / "out/report.html").read_text())
    assert "<script>alert(1)</script>" in page.text and "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert all(PICTURE.match(value) for name, value in page.attributes if name == "src")


METHODS = ("principles", "farthest", "random", "full")


def save_sets(folder, data):
    for method in METHODS:
        given = ["--dataset", data, "--method", method, "--output", folder / method]
        given += [] if method == "full" else ["--size", 9]
        given += ["--embeddings", data / "vectors.npy"] if method == "farthest" else []
        run_here(main, *given)
    return [folder / method for method in METHODS]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of the four methods on the same data, and what was printed."""
    folder = tmp_path_factory.mktemp("compared")
    sets = save_sets(folder, save_problems(folder / "data"))
    return folder, run_here(main, "--compare", *sets, "--output", folder / "report").stdout


def test_the_measures_are_those_of_the_sets(compared):
    folder, printed = compared
    result = json.loads((folder / "report/comparison.json").read_text())
    told = {name: json.loads((folder / name / "manifest.json").read_text()) for name in METHODS}
    vectors = np.load(folder / "data/vectors.npy")
    for name, measures in result["sets"].items():
        assert measures["samples"] == len(told[name]["kept"])
        assert measures["skill labels"] == told[name]["coverage"]["skill"][0]
        kept = vectors[[int(pid) for pid in told[name]["kept"]]]
        nearest = np.linalg.norm(vectors[:, None] - kept, axis=2).min(1)
        assert measures["covering radius"] == pytest.approx(nearest.max(), abs=1e-3)
        assert measures["mean distance to the nearest kept"] == pytest.approx(nearest.mean(), abs=1e-3)
    assert result["sets"]["farthest"]["covering radius"] == pytest.approx(
        told["farthest"]["selection"]["radius"], 1e-4
    )
    assert result["sets"]["full"] == result["all"] | {"covering radius": 0, "mean distance to the nearest kept": 0}
    assert result["sets"]["principles"]["mean necessity of the image (0-1)"] > 0.5
    assert len(result["overlaps"]) == 6
    for of in result["overlaps"]:
        a, b = (set(told[name]["kept"]) for name in of["sets"])
        assert (of["both"], of["jaccard"], of["by_chance"]) == (
            len(a & b),
            len(a & b) / len(a | b),
            len(a) * len(b) / 24,
        )
        assert f"{of['sets'][0]} and {of['sets'][1]}: {of['both']} in both" in printed


def test_the_report_shows_every_set_and_loads_nothing(compared):
    folder, _ = compared
    page = Page((folder / "report/report.html").read_text())
    for part in (
        "What each is worth",
        "Overlap",
        "Shares by skill",
        "Map of the embedding",
        "Distance of each sample",
    ):
        assert part in page.text
    assert all(f"{name}: kept and pruned, side by side" in page.text for name in METHODS)
    assert page.tags & {"svg", "img"} and not page.tags & {"script", "link", "iframe"}
    assert all(PICTURE.match(value) for name, value in page.attributes if name in ("src", "href"))


def test_the_same_sets_give_the_same_report(compared):
    folder, _ = compared
    run_here(main, "--compare", *(folder / name for name in METHODS), "--output", folder / "again")
    for name in ("comparison.json", "report.html"):
        assert (folder / "report" / name).read_bytes() == (folder / "again" / name).read_bytes()


def test_text_of_the_data_is_only_ever_text(tmp_path):
    def spoil(problems):
        for problem in problems.values():
            problem |= {
                "question": HOSTILE + problem["question"],
                "skill": HOSTILE + problem["skill"],
                "topic": HOSTILE,
            }

    data = save_problems(tmp_path / "data", change=spoil)
    sets = save_sets(tmp_path, data)
    run_here(main, "--compare", *sets, "--output", tmp_path / "report", "--dataset", data)
    for path in (tmp_path / "principles/report.html", tmp_path / "report/report.html"):
        page = Page(path.read_text())
        assert "<script>alert(1)</script>" in page.text
        assert "script" not in page.tags and not any(name == "onerror" for name, _ in page.attributes)
        assert all(PICTURE.match(value) for name, value in page.attributes if name == "src")


def test_many_labels_are_folded_away(tmp_path):
    def label(problems):
        for pid, problem in problems.items():
            problem["skill"] = f"skill {pid}"

    data = save_problems(tmp_path / "data", count=40, change=label)
    run_here(main, "--dataset", data, "--method", "random", "--size", 9, "--output", tmp_path / "few")
    page = Page((tmp_path / "few/report.html").read_text())
    assert "40 skill labels before, 9 after." in page.text and "show all 40" in page.text


def test_sets_of_other_data_are_not_compared(tmp_path):
    first, second = save_problems(tmp_path / "a"), save_problems(tmp_path / "b", count=12)
    for name, data in (("one", first), ("two", second)):
        run_here(main, "--dataset", data, "--method", "random", "--size", 4, "--output", tmp_path / name)
    done = run_here(main, "--compare", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "x", code=2)
    assert "was chosen from other data" in done.error and not (tmp_path / "x").exists()
    assert "named twice" in run_here(main, "--compare", tmp_path / "one", tmp_path / "one", code=2).error
    run_here(main, "--dataset", first, "--method", "random", "--size", 5, "--output", tmp_path / "two")
    given = ("--compare", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "x", "--dataset", second)
    assert "is not the data that the sets were chosen from" in run_here(main, *given, code=2).error
    assert not (tmp_path / "x").exists()
