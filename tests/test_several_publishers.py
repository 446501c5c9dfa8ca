"""Several publishers of one repository at once: all arrive, each commit is whole, and a reader sees one of them."""

import hashlib
import threading
from pathlib import Path

import pytest

from llava_mistral.publishing.connection import connect
from llava_mistral.publishing.dataset_publication import prepare_dataset
from llava_mistral.publishing.upload import publish, read_remote
from tests.support.hub_here import CARD, TOKEN, hub_here, send
from tests.support.tiny_publications import save_dataset

METHODS = ("principles", "farthest", "random", "longest", "shortest")
ROUNDS = range(5)  # each on a new repository


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


def at_once(actions) -> list[Exception]:
    """Run the actions in threads that begin together; returns what they raised."""
    failures, begin = [], threading.Barrier(len(actions))

    def run(action):
        begin.wait()
        try:
            action()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return failures


def stock(hub) -> str:
    """Five `Dataset.push_to_hub` at once, each with a config of its own; in a fork, for it changes what is global."""
    from datasets import Dataset, config
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    set_client_factory(default_client_factory)
    config.HF_ENDPOINT = hub.url  # read from the environment when `datasets` was imported
    HfApi(token=TOKEN).create_repo("owner/stock", repo_type="dataset")
    rows = Dataset.from_dict({"number": [1, 2, 3]})
    failures = at_once([lambda name=name: rows.push_to_hub("owner/stock", name, token=TOKEN) for name in METHODS])
    return f"{len(METHODS) - len(failures)} of {len(METHODS)} configs arrive"


@pytest.mark.case("P1", "survived")
def test_five_publishers_of_five_configs_all_arrive_in_data_and_card(hub, tmp_path, by_itself, record_property):
    from huggingface_hub import HfApi

    by_itself("datasets", lambda: stock(hub))
    folders = [save_dataset(tmp_path / method, method) for method in METHODS]
    api = connect()
    for number in ROUNDS:
        repo_id, made = f"owner/rows-{number}", []
        for folder in folders:
            workspace = tmp_path / f"{number}-{folder.name}"
            workspace.mkdir()
            made.append(prepare_dataset(folder, repo_id, workspace))
        assert not at_once([lambda one=one: one.publish(api, False) for one in made])
        there = HfApi(token=TOKEN).list_repo_files(repo_id, repo_type="dataset")
        card = read_remote(api, repo_id, "dataset", "README.md", "main").decode()
        for one in made:
            assert set(one.files(None)) <= set(there) and f"config_name: {one.config}" in card, repo_id
        assert len(HfApi(token=TOKEN).list_repo_commits(repo_id, repo_type="dataset")) == 1 + len(METHODS)
    record_property("tried", len(ROUNDS))


@pytest.mark.case("P2", "survived")
@pytest.mark.case("P3", "survived")
def test_five_versions_at_once_are_five_whole_commits_and_a_reader_sees_one_of_them(hub, tmp_path, record_property):
    """Each version's manifest holds the sha256 of its own weights; files of two versions never stand together."""
    from huggingface_hub import HfApi, snapshot_download

    def whole(repo_id: str, commit: str) -> bool:
        folder = Path(snapshot_download(repo_id, revision=commit, cache_dir=tmp_path / "reader"))
        weights, told = folder / "model.safetensors", folder / "MANIFEST"
        return weights.exists() is told.exists() and (
            not told.exists() or told.read_text() == hashlib.sha256(weights.read_bytes()).hexdigest()
        )

    def version(number: int) -> dict:
        weights = tmp_path / f"{number}.safetensors"
        weights.write_bytes(bytes([number]) * 50_000)
        return {"model.safetensors": weights, "MANIFEST": hashlib.sha256(weights.read_bytes()).hexdigest().encode()}

    versions = [version(number) for number in range(5)]
    for number in ROUNDS:
        repo_id = f"owner/name-{number}"
        send({"README.md": CARD}, repo_id)
        api, seen, mixed, ended = connect(), set(), [], threading.Event()

        def read(repo_id=repo_id, seen=seen, mixed=mixed, ended=ended):
            while not ended.is_set():
                commit = HfApi().model_info(repo_id).sha
                seen.add(commit)
                mixed.extend([commit] if not whole(repo_id, commit) else [])

        reader = threading.Thread(target=read)
        reader.start()
        failures = at_once(
            [
                lambda own=own, api=api, repo_id=repo_id: publish(api, repo_id, "model", lambda _: own, message="New")
                for own in versions
            ]
        )
        ended.set()
        reader.join()
        assert not failures and not mixed and seen
        history = [commit.commit_id for commit in HfApi(token=TOKEN).list_repo_commits(repo_id)]
        assert len(history) == 7 and all(whole(repo_id, commit) for commit in history)
    record_property("tried", len(ROUNDS))
