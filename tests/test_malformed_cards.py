"""A card on the Hub whose YAML somebody broke: the verb says so, and writes nothing over it."""

from unittest import mock

import pytest

from llava_mistral.commands.publish import main
from tests.support.hub_here import hub_here
from tests.support.running import run_here
from tests.support.tiny_publications import save_dataset

WRITES = {"create", "put", "commit", "xet-token", "tag"}
BROKEN = {
    "cut": "---\nlicense: [cc-by-4.0\n---\n# Rows\n",
    "a list": "---\n- license\n- cc-by-4.0\n---\n# Rows\n",
    "configs of text": "---\nlicense: cc-by-4.0\nconfigs: random\n---\n# Rows\n",
    "infos of numbers": "---\nlicense: cc-by-4.0\ndataset_info: [1, 2]\n---\n# Rows\n",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


def publish(folder, code: int = 0):
    return run_here(main, "dataset", folder, "owner/name", "--no_verify", code=code)


def put_card(card: str) -> None:
    """As it lies there since before the Hub looked at cards."""
    from huggingface_hub import HfApi

    with mock.patch.object(HfApi, "_validate_yaml"), mock.patch("llava_mistral.local_hub.writing._check_card"):
        HfApi().create_repo("owner/name", repo_type="dataset", exist_ok=True)
        HfApi().upload_file(
            path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="owner/name", repo_type="dataset"
        )


@pytest.mark.case("E14", "refused")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_card_is_refused_by_name_and_nothing_is_written(hub, tmp_path, kind):
    put_card(BROKEN[kind])
    before = len(hub.requests)
    said = publish(save_dataset(tmp_path / "made"), code=2).error
    assert "owner/name/README.md: the card there does not validate" in said
    assert not [one for one in hub.requests[before:] if one["route"] in WRITES - {"create"}]


@pytest.mark.case("E14", "accepted")
@pytest.mark.parametrize("card", ["---\nlicense: cc-by-4.0\n---\n# Rows\n", "# Rows without front matter\n"])
def test_a_card_that_is_whole_or_has_no_yaml_is_replaced(hub, tmp_path, card):
    put_card(card)
    assert "published as" in publish(save_dataset(tmp_path / "made")).stdout
    from huggingface_hub import DatasetCard

    assert DatasetCard.load("owner/name", repo_type="dataset").data.license == "cc-by-4.0"
