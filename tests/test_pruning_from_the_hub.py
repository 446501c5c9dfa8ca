"""Data, embedder and scorer named by Hub ids, as the examples of docs/pruning.md name them."""

import json

import numpy as np
import pytest
from PIL import Image

from llava_mistral.local_hub import LocalHub
from tests.support.running import run_apart
from tests.support.tiny_components import save_clip
from tests.support.tiny_publications import save_checkpoint

TOKEN = "hf_" + "T" * 34
COLUMNS = {"hint": "", "task": "closed choice", "lecture": "", "solution": "", "subject": "natural science"}


def problems() -> list[dict]:
    """Eighteen rows with the columns of derek-thomas/ScienceQA, two thirds of them with a picture."""
    rows = []
    for i in range(18):
        row = {"question": "Which colour is shown?" if i % 2 else f"What is {i} + 1?", "choices": ["red", "blue"]}
        row |= {"image": Image.new("RGB", (24, 16), (10 * i, 0, 99)) if i % 3 else None, "answer": i % 2}
        row |= {"grade": f"grade{1 + i % 12}", "topic": f"t{i % 2}", "category": f"c{i % 3}", "skill": f"s{i % 6}"}
        rows.append(COLUMNS | row)
    return rows


@pytest.mark.slow
@pytest.mark.case("S12", "accepted")
@pytest.mark.case("S24", "accepted")
def test_everything_may_be_a_hub_id(tmp_path):
    """At no commit, for none of them brings code; `offline.py` would tell if anybody but the Hub were asked."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    text = {name: Value("string") for name in (*COLUMNS, "question", "grade", "topic", "category", "skill")}
    features = Features({"image": ImageFeature(), "choices": List(Value("string")), "answer": Value("int8"), **text})
    Dataset.from_list(problems(), features=features).save_to_disk(tmp_path / "rows")
    save_clip(tmp_path / "clip")
    save_checkpoint(tmp_path / "model")
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        push = """if True:
            import sys
            from datasets import load_from_disk
            from huggingface_hub import HfApi
            load_from_disk(sys.argv[1] + "/rows").push_to_hub("derek-thomas/ScienceQA", split="train")
            for name in ("clip", "model"):
                HfApi().create_repo("owner/" + name)
                HfApi().upload_folder(repo_id="owner/" + name, folder_path=sys.argv[1] + "/" + name)
            """
        run_apart("-c", push, tmp_path, **hub.environment(tmp_path / "publisher"))

        def prune(*given):
            there = hub.environment(tmp_path / "user") | {"HF_HUB_OFFLINE": "0"}
            return run_apart("-m", "llava_mistral", "prune", *given, **there)

        data = ("--dataset", "derek-thomas/ScienceQA", "--pool", "images", "--size", 6)
        far = ("--method", "farthest", "--embedder", "owner/clip", "--embeddings", tmp_path / "clip.npy")
        prune(*data, *far, "--output", tmp_path / "far")
        asked = ("--method", "principles", "--scorer", "owner/model", "--necessity", 0)  # its weights are random
        prune(*data, *asked, "--output", tmp_path / "principled")
        assert "byte for byte" in prune("--verify", tmp_path / "far").stdout
        compared = ("--compare", tmp_path / "far", tmp_path / "principled", "--output", tmp_path / "compared")
        prune(*compared)
    assert np.load(tmp_path / "clip.npy").shape == (18, 16)
    for name in ("far", "principled"):
        told = json.loads((tmp_path / name / "manifest.json").read_text())
        assert (told["size"], told["license"]) == (6, "cc-by-nc-sa-4.0"), name
    assert (tmp_path / "compared" / "report.html").is_file()
