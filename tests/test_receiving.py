"""What comes back from a Hub that misbehaves is what was sent, or it is refused: the clean process's download."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest

from llava_mistral.publishing import receiving, verification
from tests.support.hub_here import CARD, TOKEN, WEIGHTS, hub_here, patch_clock, save_files, send, stalled_statuses

STATUSES = [429, 500, 502, 503, 504]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


@pytest.fixture
def published(hub, tmp_path):
    return send(save_files(tmp_path))


def receive(published) -> None:
    folder = receiving._download(published.repo_id, published.commit, published.files, "model")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).digest() == hashlib.sha256(WEIGHTS).digest()
    assert (folder / "README.md").read_bytes() == CARD


def stock_download(published) -> str:
    """What the client's own download makes of a fault, into an empty cache."""
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory() as cache:
        path = hf_hub_download(published.repo_id, "model.safetensors", revision=published.commit, cache_dir=cache)
        return "gives the bytes that were sent" if Path(path).read_bytes() == WEIGHTS else "gives other bytes"


@pytest.mark.case("H1", "survived")
@pytest.mark.parametrize(("method", "status"), [(m, s) for m in ("HEAD", "GET") for s in STATUSES])
def test_a_passing_status_on_the_way_back_is_survived(hub, published, method, status, by_itself):
    fault = {"route": "resolve", "method": method, "path": "*.safetensors", "status": status}
    fault |= {"retry_after": 1} if status == 429 else {}
    hub.add_fault(**fault)
    receive(published)
    assert any(request["fault"] for request in hub.requests)
    if status in (429, 503):
        hub.add_fault(**fault)
        by_itself(f"huggingface_hub, {status} on {method}", lambda: stock_download(published))


@pytest.mark.case("H1", "survived")
@pytest.mark.parametrize("rule", [{"status": 503}, {"status": 429, "headers": {"ratelimit": '"api";r=0;t=1'}}])
@pytest.mark.parametrize("route", ["tree", "resolve"])
def test_a_passing_status_on_a_listing_is_survived(hub, published, route, rule):
    hub.add_fault(route=route, **rule)
    receive(published)
    assert any(request["fault"] for request in hub.requests)


@pytest.mark.case("H6", "survived")
@pytest.mark.parametrize("place", [0, 0.01, 0.5, 0.99, -1])
def test_a_download_that_is_cut_is_completed(hub, published, place):
    hub.add_fault(route="resolve", path="*.safetensors", method="GET", cut=len(WEIGHTS) - 1 if place == -1 else place)
    receive(published)
    assert any(request["fault"] for request in hub.requests)


@pytest.mark.case("H6", "survived")
@pytest.mark.parametrize("place", [0, 0.5, len(WEIGHTS) - 1])
def test_a_flipped_bit_anywhere_is_refused(hub, published, place, by_itself):
    hub.add_fault(route="resolve", path="*.safetensors", method="GET", flip=place, times=0)
    with pytest.raises(SystemExit, match=r"model.safetensors came back .* with other bytes than were sent"):
        receive(published)
    by_itself("huggingface_hub, a flipped bit", lambda: stock_download(published))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [503, 429])
def test_for_ever_ends_within_a_minute_at_the_real_patience(hub, published, monkeypatch, method, status):
    clock = patch_clock(monkeypatch)
    hub.add_fault(route="resolve", method=method, status=status, times=0)
    with pytest.raises(SystemExit, match="was published but cannot be received now"):
        receive(published)
    assert receiving.PATIENCE < clock.now < 60, "seconds of waiting, none of which is waited here"


@pytest.mark.case("H5", "survived")
@pytest.mark.parametrize("route", ["tree", pytest.param("resolve", marks=pytest.mark.slow)])
def test_a_stall_on_the_way_back_is_given_up_and_asked_again(hub, published, monkeypatch, route):
    monkeypatch.setattr(receiving, "TIMEOUT", 0.5)
    hub.add_fault(route=route, delay=600)
    receive(published)
    assert stalled_statuses(hub) == [None], "the stall was waited out"


def test_logits_are_compared_by_every_bit(tmp_path):
    """Not by shape alone: one value of the folder's that is another's last bit away ends the verification."""
    logits = np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 4, 6)
    np.savez(tmp_path / "logits.npz", text=logits)
    other = logits.copy()
    other[0, 3, 5] = np.nextafter(other[0, 3, 5], np.float32(2))
    for sent in ({"text": logits}, str(tmp_path / "logits.npz")):
        receiving._compare(sent, {"text": logits.copy()}, "differ")
        with pytest.raises(SystemExit, match="differ on the text prompt"):
            receiving._compare(sent, {"text": other}, "differ")
        with pytest.raises(SystemExit, match="differ on the text prompt"):
            receiving._compare(sent, {"text": logits[:, :3]}, "differ")


def test_a_file_that_is_gone_is_named(published):
    published.files["absent.json"] = "0" * 64
    with pytest.raises(SystemExit, match=r"absent.json is not in owner/name"):
        receive(published)


def test_no_error_holds_the_token(hub, published, monkeypatch):
    monkeypatch.setattr(receiving, "PATIENCE", 0)
    hub.add_fault(route="resolve", status=403, message=f"no right for Bearer {TOKEN}", times=0)
    with pytest.raises(SystemExit) as left:
        receive(published)
    assert "cannot be received" in str(left.value) and TOKEN not in verification._without_token(str(left.value))
