"""An adapter names its base and the commit of it: that is loaded, and runs no code by it."""

from pathlib import Path

import pytest

from llava_mistral.commands import chat
from llava_mistral.ground import foreign_code
from tests.support.hub_here import hub_here
from tests.support.refusals import loads, refused
from tests.support.running import run_here
from tests.support.small_problems import save_problems
from tests.support.strangers import adapter_of, stranger, upload
from tests.support.tiny_llava import save_tiny_llava

shows = pytest.mark.case


@pytest.fixture
def problems(tmp_path) -> Path:
    return save_problems(tmp_path / "problems", 6)


@pytest.fixture
def ran(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the Hub of the test before
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


@pytest.mark.parametrize(
    ("verb", "on_the_hub"),
    [*((verb, False) for verb in ("evaluate", "scorer", "push", "app")), ("evaluate", True), ("app", True)],
)
@shows("S27", "refused")
def test_an_adapter_cannot_vouch_for_the_code_of_its_base(tiny, problems, hub, tmp_path, ran, verb, on_the_hub):
    commit = upload("evil/base", stranger(tmp_path / "folder", tiny, ran))
    name = adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path="evil/base", revision=commit)
    if on_the_hub:
        upload("me/adapter", name)
        name = "me/adapter"
    main, *arguments = loads(verb, name, problems, None, tmp_path / "out")
    line = refused(main, *arguments, output=tmp_path / "out")
    assert "evil/base" in line and "which is not run" in line and not ran.exists()


@pytest.mark.parametrize("on_the_hub", [False, True])
@shows("S27", "accepted")
def test_an_adapter_is_loaded_on_the_commit_of_its_base_that_it_notes(tiny, hub, tmp_path, on_the_hub):
    import torch

    commit = upload("good/model", tiny)
    moved = save_tiny_llava(tmp_path / "moved", seed=7)
    newer = upload("good/model", moved)
    folder = adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path="good/model", revision=commit)
    name = str(folder)
    if on_the_hub:
        name, at = "me/adapter", upload("me/adapter", folder)
    seen = len(hub.requests)
    here = chat.open_chat(chat.find(name, at) if on_the_hub else chat.find(name, None)).model
    there = foreign_code.load_model(
        type(here), foreign_code.Origin(str(tiny), adapter=foreign_code.Origin(str(folder)))
    )
    assert not [r["path"] for r in hub.requests[seen:] if newer in r["path"]]
    ids = {"input_ids": torch.tensor([[1, 5, 6, 7]])}
    assert torch.equal(here(**ids).logits, there.eval()(**ids).logits)


@pytest.mark.parametrize("on_the_hub", [False, True])
@shows("S27", "accepted")
def test_an_adapter_is_evaluated_on_its_commit_though_main_has_got_code_since(
    tiny, problems, hub, tmp_path, ran, on_the_hub
):
    commit = upload("good/model", tiny)
    upload("good/model", stranger(tmp_path / "newer", tiny, ran))
    name = adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path="good/model", revision=commit)
    if on_the_hub:
        upload("me/adapter", name)
        name = "me/adapter"
    seen = len(hub.requests)
    main, *arguments = loads("evaluate", name, problems, None, tmp_path / "out")
    assert "pictures" in run_here(main, *arguments).stdout
    read = [one["path"] for one in hub.requests[seen:] if one["path"].startswith("/good/model/resolve/")]
    assert read and all(f"/resolve/{commit}/" in path for path in read) and not ran.exists()


@shows("S27", "refused")
def test_an_adapter_hidden_in_a_base_is_not_followed(tiny, problems, rows_file, hub, tmp_path):
    """The library would load the base of the base, of which nobody has looked at a file."""
    upload("evil/other", tiny)
    commit = upload("evil/base", adapter_of(tiny, tmp_path / "base", base_model_name_or_path="evil/other"))
    upload("evil/base", tiny)
    named = {"base_model_name_or_path": "evil/base"}
    upload("me/adapter", adapter_of(tiny, tmp_path / "adapter", **named))
    seen = len(hub.requests)
    main, *arguments = loads("evaluate", "me/adapter", problems, None, tmp_path / "out")
    assert "names the base evil/base, which is an adapter" in refused(main, *arguments, output=tmp_path / "out")
    main, *arguments = loads("train", "evil/base", None, rows_file, tmp_path / "out", "--model_revision", commit)
    assert "is an adapter, not a checkpoint; merge it" in refused(main, *arguments, output=tmp_path / "out")
    assert not [one["path"] for one in hub.requests[seen:] if one["path"].endswith("safetensors")]


@pytest.mark.parametrize("sizes", [{"r": 10**9}, {"rank_pattern": {"q_proj": 10**9}}])
@shows("S39", "refused")
def test_an_adapter_of_terabytes_is_refused(tiny, problems, tmp_path, sizes):
    folder = adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path=str(tiny), **sizes)
    main, *arguments = loads("evaluate", folder, problems, None, tmp_path / "out")
    assert "field r: is 1,000,000,000, more than any model has" in refused(main, *arguments, output=tmp_path / "out")


def test_an_adapter_on_the_hub_cannot_name_a_folder_of_this_machine(tiny, problems, hub, tmp_path):
    upload("me/adapter", adapter_of(tiny, tmp_path / "adapter", base_model_name_or_path=str(tiny)))
    main, *arguments = loads("evaluate", "me/adapter", problems, None, tmp_path / "out")
    assert "not a Hub repository" in refused(main, *arguments, output=tmp_path / "out")


@shows("S27", "refused")
def test_a_module_that_an_adapter_names_is_not_imported(tiny, problems, tmp_path, ran, monkeypatch):
    """PEFT imports `megatron_core` by the name that the configuration gives."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trap.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    named = {"base_model_name_or_path": str(tiny), "megatron_core": "trap", "megatron_config": {"a": 1}}
    folder = adapter_of(tiny, tmp_path / "adapter", **named)
    main, *arguments = loads("evaluate", folder, problems, None, tmp_path / "out")
    refused(main, *arguments, output=tmp_path / "out")
    assert not ran.exists()
