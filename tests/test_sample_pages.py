"""The report reaches every sample and shows what is odd in the data, in a small page that runs and loads nothing."""

import json
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from llava_mistral.commands.prune import main
from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.measures import Selection
from llava_mistral.pruning.picture_signs import _sign
from llava_mistral.pruning.principles import Scores
from llava_mistral.pruning.sample_pages import MOST_SHOWN, sample_pages, shown_by_reason
from tests.support.report_pages import HOSTILE, PICTURE, Page
from tests.support.running import run_here
from tests.support.small_problems import save_problems


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
