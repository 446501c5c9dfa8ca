"""The verb: any source in, one whole folder out, the same bytes every time; bad input leaves nothing behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_mistral.commands.prune import main
from llava_mistral.ground.output_folders import MARKER
from llava_mistral.pruning.farthest_first import farthest_first
from llava_mistral.pruning.rows import Rows
from llava_mistral.pruning.samples import read_samples
from tests.support.running import HOME, Done, run_apart, run_here, run_light
from tests.support.small_problems import save_problems

REAL = HOME.parent / "shared" / "scienceqa"
FORMS = {"shown": "Which colour is shown?", "fact": "What is the capital of place {}?", "text": "What is {} + 1?"}


def prune(*arguments, check: int = 0) -> Done:
    """Run the verb in this process."""
    return run_here(main, *arguments, code=check)


def prune_apart(*arguments, **environment: str) -> Done:
    """Run the verb in a process of its own."""
    return run_apart("-m", "llava_mistral", "prune", *arguments, **environment)


@pytest.fixture(scope="module")
def scienceqa(tmp_path_factory) -> Path:
    """24 training problems: 8 that need their picture, 8 that only have one, 8 without."""

    def reword(problems: dict[str, dict]) -> None:
        for i, problem in enumerate(problems.values()):
            kind = list(FORMS)[i % 3]
            problem |= {"question": FORMS[kind].format(i), "answer": i // 3 % 2, "skill": f"{kind}{i % 4}"}
            problem["image"] = None if kind == "text" else "image.png"

    folder = save_problems(tmp_path_factory.mktemp("set"), change=reword)
    (folder / "pid_splits.json").write_text(json.dumps({"train": list(map(str, range(24))), "val": [], "test": []}))
    return folder


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MARKER]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def test_principles_keep_the_needed_images_and_load_with_datasets(scienceqa, tmp_path):
    from datasets import load_dataset

    out = tmp_path / "out"
    given = ("--dataset", scienceqa, "--method", "principles", "--size", 8, "--coverage", "fitting")
    assert "kept 8 of 24" in prune(*given, "--output", out).stdout and "&" not in (out / "README.md").read_text()
    told = manifest(out)
    assert sorted(map(int, told["kept"])) == [*range(0, 24, 3)]
    assert told["counts"] == {"kept": 8, "has no image": 8, "the image is not needed: the text decides": 8}
    rows = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"] == told["kept"] and "messages" not in rows.column_names  # TRL refuses rows that have both
    spoken = load_dataset(str(out), "messages", split="train", cache_dir=str(tmp_path / "cache"))
    assert spoken["messages"] == [row["prompt"] + row["completion"] for row in rows.remove_columns("images")]
    assert rows[0]["images"][0].getpixel((0, 0)) == (10 * int(told["kept"][0]), 0, 99)
    assert rows[0]["prompt"][0]["content"].startswith("Which colour is shown?\nA. red\nB. blue")
    assert rows[0]["completion"] == [{"role": "assistant", "content": "AB"[int(told["kept"][0]) // 3 % 2]}]
    assert rows[0]["skill"].startswith("shown")
    page = (out / "report.html").read_text().replace("http-equiv", "")
    assert "data:image/png;base64" in page and "http" not in page
    assert Image.open(out / "report.png").width > 500


@pytest.mark.parametrize("method", ["principles", "farthest", "random", "full"])
def test_the_same_input_gives_the_same_bytes_and_reasons_that_sum(scienceqa, tmp_path, method):
    sized = [] if method == "full" else ["--size", 10]
    vectors = ["--embeddings", scienceqa / "vectors.npy"] if method == "farthest" else []
    for name in ("a", "b"):
        given = ("--dataset", scienceqa, "--method", method, *sized, *vectors, "--output", tmp_path / name)
        # In another process the sets and hashes of Python come in another order.
        prune(*given) if name == "a" or method in ("random", "full") else prune_apart(*given, PYTHONHASHSEED="7")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    told = manifest(tmp_path / "a")
    assert sum(told["counts"].values()) == 24
    assert told["counts"]["kept"] == len(told["kept"]) == (24 if method == "full" else 10)
    assert set(told["kept"]) | told["dropped"].keys() == {str(i) for i in range(24)}
    assert told["files"].keys() == contents(tmp_path / "a").keys() - {"manifest.json"}


def test_farthest_picks_are_those_of_the_library_and_shares_cover(scienceqa, tmp_path):
    vectors = np.load(scienceqa / "vectors.npy")
    given = ("--dataset", scienceqa, "--method", "farthest", "--embeddings", scienceqa / "vectors.npy", "--size", 12)
    prune(*given, "--output", tmp_path / "far")
    found = farthest_first(Rows(vectors), 12, start=int(manifest(tmp_path / "far")["selection"]["start"]))
    assert manifest(tmp_path / "far")["kept"] == [str(i) for i in found.picks]
    assert manifest(tmp_path / "far")["selection"]["radius"] == found.radius
    assert "Map of the embedding" in (tmp_path / "far/report.html").read_text()
    prune(*given, "--output", tmp_path / "even", "--within", "skill", "--max_memory", "1GB", "--threads", 1)
    assert manifest(tmp_path / "even")["coverage"]["skill"][0] == 12
    prune(*given[:-1], 4, "--output", tmp_path / "seen", "--pool", "images")
    assert all(int(name) % 3 < 2 for name in manifest(tmp_path / "seen")["kept"])


def test_choices_are_compared_two_by_two(scienceqa, tmp_path):
    for name in ("first", "second"):
        given = ("--dataset", scienceqa, "--method", "random", "--size", 12, "--seed", len(name))
        prune(*given, "--output", tmp_path / name)
    said = prune("--compare", tmp_path / "first", tmp_path / "second").stdout
    both = len(set(manifest(tmp_path / "first")["kept"]) & set(manifest(tmp_path / "second")["kept"]))
    assert f"{both} in both" in said and f"{100 * both / (24 - both):.1f} % of their union" in said
    assert "name two pruned sets or more" in prune("--compare", tmp_path / "first", check=2).stderr


def test_a_model_is_asked_once_with_and_without_the_picture(scienceqa, tmp_path):
    from tests.support.tiny_llava import save_tiny_llava

    checkpoint = save_tiny_llava(tmp_path / "model")
    given = ("--dataset", scienceqa, "--method", "principles", "--size", 6, "--scorer", checkpoint)
    prune(*given, "--output", tmp_path / "out")
    kept = [tmp_path / "out.scores" / name for name in ("predictions.jsonl", "blank/predictions.jsonl")]
    asked = [path.read_text() for path in kept]
    assert [len(text.splitlines()) for text in asked] == [17, 17]  # what was asked, and 16 pictured problems
    assert asked[0].splitlines()[1] != asked[1].splitlines()[1]
    before = contents(tmp_path / "out")
    prune(*given, "--output", tmp_path / "out")
    assert contents(tmp_path / "out") == before and [path.read_text() for path in kept] == asked
    assert manifest(tmp_path / "out")["recipe"]["scorer"] == str(checkpoint)


def test_rows_are_asked_about_when_they_have_choices_and_refused_when_not(scienceqa, tmp_path):
    from tests.support.tiny_llava import save_tiny_llava

    prune("--dataset", scienceqa, "--method", "full", "--output", tmp_path / "rows", "--llava_json")
    given = ("--method", "principles", "--size", 6, "--scorer", save_tiny_llava(tmp_path / "model"))
    prune("--dataset", scienceqa, *given, "--output", tmp_path / "problems")
    prune("--dataset", tmp_path / "rows", *given, "--output", tmp_path / "again")
    assert manifest(tmp_path / "again")["kept"] == manifest(tmp_path / "problems")["kept"]
    free = ("--dataset", tmp_path / "rows/llava.json", *given, "--output", tmp_path / "out")
    assert "field answer: has no right choice to ask a model for" in prune(*free, check=2).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "launch",
    [
        ["torch.distributed.run", "--nproc_per_node", "2"],
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"],
    ],
    ids=["torchrun", "accelerate"],
)
def test_two_processes_write_the_bytes_of_one(scienceqa, tmp_path, launch):
    given = ["--dataset", scienceqa, "--method", "farthest", "--embeddings", scienceqa / "vectors.npy", "--size", 9]
    prune(*given, "--output", tmp_path / "one")
    command = [sys.executable, "-m", *launch, "-m", "llava_mistral", "prune", *map(str, given)]
    done = subprocess.run([*command, "--output", str(tmp_path / "two")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kept 9 of 24") == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_verify_makes_it_again_and_finds_a_change(scienceqa, tmp_path):
    out = tmp_path / "out"
    prune("--dataset", scienceqa, "--method", "random", "--size", 5, "--seed", 3, "--output", out)
    assert "the same, byte for byte" in prune("--verify", out).stdout
    told = manifest(out)
    told["kept"][0], told["kept"][1] = told["kept"][1], told["kept"][0]
    (out / "manifest.json").write_text(json.dumps(told))
    assert "kept differs" in prune("--verify", out, check=1).stdout


def test_llava_json_goes_in_and_comes_out(scienceqa, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    prune("--dataset", scienceqa, "--method", "full", "--output", first, "--llava_json", "--answer_style", "explained")
    records = json.loads((first / "llava.json").read_text())
    assert records[0]["conversations"][0]["value"].startswith("<image>\nWhich colour")
    assert records[0]["conversations"][1]["value"].endswith("The answer is A.")
    said = prune("--dataset", first / "llava.json", "--method", "principles", "--size", 6, "--output", second)
    assert "kept 6 of 24" in said.stdout
    told = manifest(second)
    assert all(int(name) % 3 == 0 for name in set(told["kept"]) - set(told["kept_for_coverage"]))
    assert "not judged by coverage (no subject, topic, category or skill)" in told["notes"]
    assert all(note in said.stdout for note in told["notes"])


def test_a_pruned_set_can_be_pruned_again(scienceqa, tmp_path):
    licensed = ("--license", "cc-by-4.0", "--source", "Colours")
    prune("--dataset", scienceqa, "--method", "full", "--output", tmp_path / "all", *licensed)
    random = ("--method", "random", "--size", 6, "--stratified")
    prune("--dataset", tmp_path / "all", *random, "--output", tmp_path / "six")
    told = manifest(tmp_path / "six")
    assert (told["source"], told["license"], told["size"]) == ("Colours", "cc-by-4.0", 6)
    problems, again = read_samples(scienceqa).problems, read_samples(tmp_path / "all").problems
    for name in ("question", "choices", "answer", "hint", "has_image", "skill", "grade"):
        assert [getattr(p, name) for p in again] == [getattr(p, name) for p in problems]
    assert told["coverage"]["topic"] == [2, 2, 2]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real ScienceQA text is not at hand")
def test_the_real_problems_are_pruned_to_119_without_their_pictures(tmp_path):
    given = ("--dataset", REAL / "problems_head.json", "--pid_splits", REAL / "pid_splits.json")
    said = prune(*given, "--method", "principles", "--size", 119, "--output", tmp_path / "out").stdout
    assert "the pictures are not at hand" in said
    assert "kept 119 of 1,041; covers subject 3/3, topic 12/12, category 45/45, skill 80/80" in said
    told = manifest(tmp_path / "out")
    assert told["counts"]["has no image"] == 520 and sum(told["counts"].values()) == 1041
    assert told["license"] == "cc-by-nc-sa-4.0"
    assert contents(tmp_path / "out").keys() == {"manifest.json", "report.html"}


FARTHEST = ("--method", "farthest", "--embeddings")
BAD = {
    "the set is missing": (["--dataset", "nowhere"], "nowhere"),
    "too many": (["--size", 25], "25 of 24 samples cannot be picked"),
    "below one": (["--size", 0], "--size 0 is below 1"),
    "no split": (["--split", "exam"], "has no split 'exam'"),
    "unknown method": (["--method", "magic"], "invalid choice: 'magic'"),
    "no vectors": (["--method", "farthest"], "needs --embeddings or --embedder"),
    "vectors of another set": ([*FARTHEST, "short.npy"], "has 3 rows for 24 samples"),
    "vectors with NaN": ([*FARTHEST, "nan.npy"], "record 2: is not finite"),
    "vectors of zeros": ([*FARTHEST, "zero.npy"], "record 2: is all zeros"),
    "vectors of one dimension": ([*FARTHEST, "flat.npy"], "float32 of shape (24,)"),
    "no such vectors": ([*FARTHEST, "absent.npy"], "absent.npy: field embeddings: no such"),
    "no such model": ([*FARTHEST[:2], "--embedder", "/nowhere"], "/nowhere: field embedder: does not load"),
    "no such scorer": (["--method", "principles", "--scorer", "/nowhere"], "no such checkpoint folder"),
    "too many to keep all": (["--method", "full", "--size", 25], "the full pool has 24 samples, not 25"),
    "too many that need it": (["--method", "principles", "--size", 20], "20 samples cannot be picked"),
    "too many far apart": ([*FARTHEST, "whole.npy", "--size", 25], "25 of 24 samples"),
    "an option of another method": (["--within", "skill"], "--within has no effect with --method random"),
    "no thread": ([*FARTHEST, "whole.npy", "--threads", 0], "--threads 0 is below 1"),
    "no such device": ([*FARTHEST, "whole.npy", "--device", "abacus"], "'abacus' cannot be used here"),
    "a size of nonsense": ([*FARTHEST, "nan.npy", "--max_memory", "much"], "write it like 1GB"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(scienceqa, tmp_path, name):
    rows = np.ones((24, 4), np.float32)
    np.save(tmp_path / "whole.npy", rows)
    np.save(tmp_path / "short.npy", rows[:3])
    np.save(tmp_path / "flat.npy", rows[:, 0])
    for kind, value in (("nan", np.nan), ("zero", 0)):
        rows[2] = value
        np.save(tmp_path / f"{kind}.npy", rows)
    changes, says = BAD[name]
    changes = [str(tmp_path / word) if str(word).endswith(".npy") else word for word in changes]
    given = ["--dataset", scienceqa, "--method", "random", "--size", 5, "--output", tmp_path / "out", *changes]
    done = prune(*given, check=2)
    assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_another_folder_is_never_replaced(scienceqa, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    given = ("--dataset", scienceqa, "--method", "random", "--size", 5, "--output")
    assert "holds something else" in prune(*given, tmp_path, check=2).stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_broken_picture_stops_the_run_and_leaves_the_old_output(scienceqa, tmp_path):
    broken = tmp_path / "set"
    shutil.copytree(scienceqa, broken)
    given = ("--dataset", broken, "--method", "full", "--output", tmp_path / "out")
    prune(*given)
    before = contents(tmp_path / "out")
    (broken / "images/train/4/image.png").write_bytes(b"<html>")
    done = prune(*given, check=2)
    assert "record 4: field image: " in done.stderr and "4/image.png is not a JPEG, PNG" in done.stderr
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda problems: problems["4"].update(answer=7), "record 4: field answer: answer 7 is out of range"),
        (lambda problems: problems["4"].update(image="other.png"), "other.png"),
        (lambda problems: problems["4"].pop("choices"), "record 4: field choices: is not a list of texts"),
    ],
    ids=["answer out of range", "missing picture", "no choices"],
)
def test_a_faulty_problem_is_one_line_and_leaves_nothing(scienceqa, tmp_path, spoil, says):
    shutil.copytree(scienceqa, tmp_path / "set")
    problems = json.loads((scienceqa / "problems.json").read_text())
    spoil(problems)
    (tmp_path / "set/problems.json").write_text(json.dumps(problems))
    done = prune("--dataset", tmp_path / "set", "--method", "full", "--output", tmp_path / "out", check=2)
    assert says in done.error
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_bad_input_is_told_at_once(tmp_path):
    given = ("--dataset", tmp_path / "nowhere", "--method", "full", "--output", tmp_path / "out")
    assert "no such file, folder or Hub id" in run_light("llava_mistral", "prune", *given, code=2).error
