"""The unmodified clients create, upload, list and load here, each in a process that reads its settings at import."""

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.hub_requests import BOTH_WAYS, TOKEN, ask, run_client, titles


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        yield hub


USE_THE_HUB = """
import json, random, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download

api, noise, folder, said = HfApi(), random.Random(0), Path(sys.argv[1]), {}
(folder / "sub").mkdir(parents=True)
(folder / "model.safetensors").write_bytes(noise.randbytes(3_000_000))
(folder / "sub" / "weights.bin").write_bytes(noise.randbytes(300_000))
(folder / "README.md").write_text("---\\nlicense: mit\\npipeline_tag: image-text-to-text\\n---\\n# Hello\\n")
(folder / "empty.bin").write_bytes(b"")
url = api.create_repo("me/model")
said["same"] = url == api.create_repo("me/model", exist_ok=True) and url.repo_id == "me/model"
said["name"] = api.whoami()["name"]
first = api.upload_folder(repo_id="me/model", folder_path=folder)
said["unchanged"] = api.upload_folder(repo_id="me/model", folder_path=folder).oid == first.oid
shared = (folder / "model.safetensors").read_bytes()[:2_000_000] + b"tail" * 999
operations = [CommitOperationAdd("shared.bin", shared), CommitOperationAdd("notes/a.txt", b"text")]
second = api.create_commit("me/model", [*operations, CommitOperationDelete("empty.bin")], commit_message="Second",
                           parent_commit=first.oid)
try:
    api.create_commit("me/model", [CommitOperationAdd("b.txt", b"")], commit_message="Late", parent_commit=first.oid)
except Exception as error:
    said["stale"] = error.response.status_code
api.create_tag("me/model", tag="v1", revision=first.oid)
api.create_branch("me/model", branch="try/out", revision="v1")
api.create_branch("me/model", branch="try/out", exist_ok=True)
api.upload_file(path_or_fileobj=b"only here", path_in_repo="c.txt", repo_id="me/model", revision="try/out")
refs = api.list_repo_refs("me/model")
said["refs"] = [ref.name for ref in refs.branches + refs.tags]
said["files"] = sorted(api.list_repo_files("me/model"))
said["branch"] = Path(hf_hub_download("me/model", "c.txt", revision="try/out")).read_text()
said["titles"] = [item.title for item in api.list_repo_commits("me/model")]
tree = list(api.list_repo_tree("me/model", recursive=True, expand=True))
said["last"] = {item.path: item.last_commit.title for item in tree}
said["paths"] = [item.path for item in api.get_paths_info("me/model", ["sub", "README.md", "absent"])]
local = Path(snapshot_download("me/model"))
said["equal"] = all((local / name).read_bytes() == (folder / name).read_bytes()
                    for name in ("model.safetensors", "sub/weights.bin", "README.md"))
said["equal"] = said["equal"] and (local / "shared.bin").read_bytes() == shared
said["pinned"] = local.name == second.oid
said["mismatches"] = len(api.verify_repo_checksums("me/model").mismatches)
info = api.model_info("me/model", files_metadata=True)
said["info"] = [info.sha == second.oid, info.pipeline_tag, info.card_data.license, len(info.siblings)]
said["listed"] = [item.id for item in api.list_models(author="me")]
api.create_repo("me/gone"), api.delete_repo("me/gone")
failures = [lambda: api.model_info("me/gone"), lambda: api.model_info("gpt2"),
            lambda: hf_hub_download("me/model", "absent.txt"), lambda: api.model_info("me/model", revision="v9"),
            lambda: HfApi(token="wrong").model_info("me/model"), lambda: HfApi(token=False).create_repo("me/x")]
said["errors"] = []
for fail in failures:
    try:
        fail()
    except Exception as error:
        said["errors"].append([type(error).__name__, error.response.status_code])
print(json.dumps(said))
"""


@BOTH_WAYS
def test_huggingface_hub_creates_uploads_commits_lists_and_downloads(hub, tmp_path, xet):
    said = run_client(hub.environment(tmp_path / "home", xet=xet), USE_THE_HUB, tmp_path / "folder")
    assert said["same"] and said["unchanged"] and said["equal"] and said["pinned"]
    assert said["name"] == "local" and said["stale"] == 412 and said["mismatches"] == 0
    assert said["refs"] == ["main", "try/out", "v1"] and said["branch"] == "only here"
    large = ["model.safetensors", "shared.bin", "sub/weights.bin"]
    assert said["files"] == sorted([".gitattributes", "README.md", "notes/a.txt", *large])
    assert said["titles"] == ["Second", "Upload folder using huggingface_hub", "initial commit"]
    assert said["last"]["notes"] == said["last"]["shared.bin"] == "Second" and said["last"]["sub"] == said["titles"][1]
    assert said["paths"] == ["sub", "README.md"] and said["listed"] == ["me/model"]
    assert said["info"] == [True, "image-text-to-text", "mit", 6]
    missing = ["RepositoryNotFoundError", 404]
    found_none = [["RemoteEntryNotFoundError", 404], ["RevisionNotFoundError", 404]]
    assert said["errors"] == [missing, missing, *found_none, ["HfHubHTTPError", 401], ["HfHubHTTPError", 401]]
    routes = [record["route"] for record in hub.requests]
    assert ("put" in routes, "xet-token" in routes) == (not xet, xet) and "unknown" not in routes
    left = [path for path in (hub.store.root / "xet").rglob("*") if path.is_file()]
    assert not left, "an upload stays in the Xet folder after its commit"


UPLOAD_ONCE_COMMIT_TWICE = """
import json
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("me/model")
added = [CommitOperationAdd(f"{n}.bin", bytes([n]) * 100_000) for n in range(2)]
api.preupload_lfs_files("me/model", additions=added)
ids = [api.create_commit("me/model", [one], commit_message=one.path_in_repo).oid for one in added]
print(json.dumps({"commits": len(set(ids))}))
"""


@BOTH_WAYS
def test_one_upload_may_serve_several_commits_beside_one_that_was_broken_off(hub, tmp_path, xet):
    broken = hub.store.root / "xet/models--me--model/broken/xet/xorbs/shards"
    broken.mkdir(parents=True)
    (broken / "half.mdb").write_bytes(b"HFRepoMetaData" + bytes(90))
    said = run_client(hub.environment(tmp_path / "home", xet=xet), UPLOAD_ONCE_COMMIT_TWICE)
    assert said == {"commits": 2} and titles(hub) == ["1.bin", "0.bin", "initial commit"]
    assert ask(hub, "GET", "/me/model/resolve/main/1.bin").body == b"\1" * 100_000


USE_DATASETS = """
import json
import numpy as np
import datasets
from datasets import Dataset, Features, Image, Value, load_dataset
from PIL import Image as Picture

datasets.config.USE_PARQUET_EXPORT = False  # asks datasets-server.127.0.0.1
noise = np.random.default_rng(0)
pixels = [noise.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(12)]
columns = {"image": [Picture.fromarray(array) for array in pixels], "id": [str(number) for number in range(12)]}
rows = Dataset.from_dict(columns, features=Features({"image": Image(), "id": Value("string")}))
for config in ("principles", "random"):
    rows.push_to_hub("me/data", config_name=config, split="train", private=True)
loaded = load_dataset("me/data", "principles", split="train")
streamed = load_dataset("me/data", "random", split="train", streaming=True)
print(json.dumps({
    "loaded": all(np.array_equal(row["image"], array) for row, array in zip(loaded, pixels, strict=True)),
    "streamed": [row["id"] for row in streamed] == rows["id"][:],
}))
"""


@BOTH_WAYS
def test_datasets_pushes_configs_with_images_and_loads_and_streams_them(hub, tmp_path, xet):
    said = run_client(hub.environment(tmp_path / "home", xet=xet), USE_DATASETS)
    assert said == {"loaded": True, "streamed": True}
    assert not [record["path"] for record in hub.requests if record["route"] == "unknown"]
    assert ask(hub, "GET", "/api/datasets/me/data", token=None).status == 401


USE_TRANSFORMERS = """
import json, sys, tempfile
import torch
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, pipeline)

sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(**sizes))
words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>", eos_token="<unk>")
model.push_to_hub("me/tiny"), tokenizer.push_to_hub("me/tiny")
ModelCard("---\\npipeline_tag: text-generation\\nlibrary_name: transformers\\n---\\n").push_to_hub("me/tiny")
with tempfile.TemporaryDirectory() as cache:
    again = AutoModelForCausalLM.from_pretrained("me/tiny", cache_dir=cache)
equal = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
answer = pipeline(model="me/tiny")("one two", max_new_tokens=2)[0]["generated_text"]
print(json.dumps({"equal": equal, "answers": answer.startswith("one two")}))
"""


@BOTH_WAYS
def test_transformers_pushes_and_loads_models_and_finds_the_pipeline_task(hub, tmp_path, xet):
    said = run_client(hub.environment(tmp_path / "home", xet=xet), USE_TRANSFORMERS)
    assert said == {"equal": True, "answers": True}
    assert not [record["path"] for record in hub.requests if record["route"] == "unknown"]


LIST_BY_TAG = """
import json
from huggingface_hub import HfApi, ModelCard
api = HfApi()
for name, licence in (("one", "mit"), ("two", "apache-2.0")):
    api.create_repo(f"me/{name}")
    card = f"---\\nlicense: {licence}\\nlibrary_name: peft\\ndatasets:\\n- me/rows\\n---\\n"
    ModelCard(card).push_to_hub(f"me/{name}")
said = [[found.id for found in api.list_models(**by)] for by in (
    {"filter": ["peft", "license:mit"]}, {"trained_dataset": "me/rows"}, {"search": "tw"}, {"pipeline_tag": "x"})]
try:
    api.list_models(gated=True).__next__()
except Exception as error:
    said.append(error.response.status_code)
print(json.dumps(said))
"""


def test_repositories_are_found_by_tags_and_never_listed_by_what_was_not_asked(hub, tmp_path):
    said = run_client(hub.environment(tmp_path / "home"), LIST_BY_TAG)
    assert said == [["me/one"], ["me/one", "me/two"], ["me/two"], [], 400]


COPY = """
import json
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi
api = HfApi()
api.create_repo("me/model")
added = [CommitOperationAdd("a.bin", b"\\0" * 1000), CommitOperationAdd("a.txt", b"text")]
api.create_commit("me/model", added, commit_message="add")
copies = [CommitOperationCopy("a.bin", "b/a.bin"), CommitOperationCopy("a.txt", "b/a.txt")]
api.create_commit("me/model", copies, commit_message="copy")
api.delete_folder("b", repo_id="me/model", revision=(api.create_branch("me/model", branch="dev"), "dev")[1])
print(json.dumps([sorted(api.list_repo_files("me/model", revision=r)) for r in ("main", "dev")]))
"""


@BOTH_WAYS
def test_files_are_copied_within_a_repository_and_folders_deleted(hub, tmp_path, xet):
    main, dev = run_client(hub.environment(tmp_path / "home", xet=xet), COPY)
    assert dev == [".gitattributes", "a.bin", "a.txt"] and main == sorted([*dev, "b/a.bin", "b/a.txt"])
    assert ask(hub, "GET", "/me/model/resolve/main/b/a.bin").body == bytes(1000)
