"""An adapter on its way to the Hub: it arrives alone, and on its published base it answers as it did at home."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from llava_mistral.local_hub import LocalHub
from tests.support.publishing_runs import TOKEN, download, push, written
from tests.support.training_runs import LORA, train


@pytest.fixture(scope="module")
def trained(stage0, rows_file, tmp_path_factory):
    """The base and the adapter that was trained on it."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    train("finetune", stage0, rows_file, folder, **LORA)
    return stage0, folder


@pytest.fixture(scope="module")
def hub(trained, tmp_path_factory):
    """A Hub on which the base is published."""
    place = tmp_path_factory.mktemp("hub")
    with LocalHub(place / "root", token=TOKEN) as hub:
        push(hub, place / "home", "model", trained[0], "owner/base", "--no_verify")
        yield hub


def test_an_adapter_arrives_and_answers_on_its_published_base(hub, trained, tmp_path):
    said = push(hub, tmp_path / "home", "model", trained[1], "owner/lora", "--base_model", "owner/base")
    assert "files equal by sha256, logits on owner/base equal bit for bit (text and image prompt)" in said
    received = download(hub, tmp_path / "stranger", "owner/lora")
    names = {path.name for path in received.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json", "run.json"} < names
    assert not {"config.json", "model.safetensors"} & names
    front = yaml.safe_load((received / "README.md").read_text().split("---")[1])
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter")
    assert front["base_model"] in ("owner/base", ["owner/base"])
    assert str(trained[0]) not in "".join(path.read_text() for path in received.rglob("*.json"))


@pytest.mark.slow
def test_the_snippet_a_stranger_pastes_runs(hub, trained, tmp_path):
    said = push(
        hub, tmp_path / "home", "model", trained[1], "owner/pasted", "--base_model", "owner/base", "--no_verify"
    )
    snippet = said[said.rindex("from peft import PeftModel") :]
    code = f"{snippet}\nprint(type(model).__name__, model.active_adapter)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub.environment(tmp_path / "stranger"), capture_output=True, text=True
    )
    assert done.stdout.split() == ["PeftModelForCausalLM", "default"], done.stderr


@pytest.mark.slow
def test_an_adapter_that_names_its_base_by_its_hub_id_is_verified_on_it(hub, trained, tmp_path):
    folder = shutil.copytree(trained[1], tmp_path / "adapter")
    name_base(folder, "owner/base")
    said = push(hub, tmp_path / "home", "model", folder, "owner/named")
    assert "logits on owner/base equal bit for bit (text and image prompt)" in said


def test_an_adapter_whose_base_nobody_can_fetch_is_refused_before_anything_is_written(hub, trained, tmp_path):
    before = len(written(hub))
    assert "publish the base first" in push(hub, tmp_path / "home", "model", trained[1], "owner/bad", code=2)
    said = push(hub, tmp_path / "home", "model", trained[1], "owner/bad", "--base_model", "owner/absent", code=2)
    assert "the adapter's base owner/absent is not on the Hub; publish the base first" in said
    assert len(written(hub)) == before


def test_a_question_to_an_adapter_alone_is_refused(hub, trained, tmp_path):
    ask = "--base_model", "owner/base", "--ask", trained[1] / "run.json", "Which digit is written?"
    said = push(hub, tmp_path / "home", "model", trained[1], "owner/asked", *ask, code=2)
    assert "an adapter alone answers no question; leave --ask out or publish the merged model" in said


@pytest.mark.slow
def test_another_base_than_the_one_it_was_trained_on_is_noticed(hub, trained, tmp_path):
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(trained[0], tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["lm_head.weight"] = 2 * weights["lm_head.weight"]
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    push(hub, tmp_path / "home", "model", other, "owner/other", "--no_verify")
    said = push(hub, tmp_path / "home", "model", trained[1], "owner/lost", "--base_model", "owner/other", code=1)
    assert "owner/other with the published adapter answers differently from the folder" in said


@pytest.mark.parametrize("change", ["missing", pytest.param("unexpected", marks=pytest.mark.slow)])
def test_an_adapter_that_does_not_fit_its_base_is_refused_before_anything_is_written(hub, trained, tmp_path, change):
    """PEFT warns of a missing matrix and goes on with one that does nothing."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(trained[1], tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    first = next(name for name in weights if "lora_A" in name)
    if change == "missing":
        del weights[first]
    else:
        weights[first.replace("layers.0", "layers.99")] = weights[first].clone()
    save_file(weights, folder / "adapter_model.safetensors")
    before = len(written(hub))
    said = push(hub, tmp_path / "home", "model", folder, "owner/cut", "--base_model", "owner/base", code=2)
    assert f"the adapter does not fit its base: {change} keys base_model.model.model.language_model" in said
    assert len(written(hub)) == before


def name_base(folder, base: str) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))


def test_the_base_is_pinned_to_the_commit_it_was_at(hub, trained, tmp_path):
    from huggingface_hub import HfApi

    from llava_mistral.publishing.model_publication import prepare_model

    api = HfApi(endpoint=hub.url, token=TOKEN)
    folder = shutil.copytree(trained[1], tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "revision": "of-the-local-base"}))
    commit = api.model_info("owner/base").sha
    (tmp_path / "work").mkdir()
    made = prepare_model(folder, "owner/lora", tmp_path / "work", base_model="owner/base", api=api)
    files = made.files(None)
    assert json.loads(files["adapter_config.json"].read_text())["revision"] == commit
    card = files["README.md"].decode()
    assert f'from_pretrained("owner/base", revision="{commit}", ' in card
    assert f"for `owner/base` at commit `{commit}`" in card

    (tmp_path / "dry").mkdir()
    dry = prepare_model(folder, "owner/lora", tmp_path / "dry", base_model="owner/base").files(None)
    assert "looked up and pinned when this is published" in dry["README.md"].decode()


@pytest.mark.slow
def test_a_base_that_moves_on_does_not_move_under_the_pasted_snippet(hub, trained, tmp_path):
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.url, token=TOKEN)
    commit = api.model_info("owner/base").sha
    options = ["owner/moved", "--base_model", "owner/base"]
    said = push(hub, tmp_path / "home", "model", trained[1], *options)
    assert "unchanged at" in push(hub, tmp_path / "home", "model", trained[1], *options, "--no_verify")
    api.upload_file(repo_id="owner/base", path_in_repo="NOTICE", path_or_fileobj=b"newer")
    seen = len(hub.requests)
    snippet = said[said.rindex("from peft import PeftModel") :]
    subprocess.run([sys.executable, "-c", snippet], env=hub.environment(tmp_path / "stranger"), check=True)
    read = [r["path"] for r in hub.requests[seen:] if r["path"].startswith("/owner/base/resolve/")]
    assert read and all(f"/resolve/{commit}/" in path for path in read)
