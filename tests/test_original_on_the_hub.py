"""An original checkpoint opens by its Hub id, and fetches the tower that it names by another."""

import json
import os

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.running import HOME, run_apart
from tests.support.tiny_components import tiny_tokenizer

TOKEN = "hf_" + "T" * 34
OPEN = """
import sys, torch
import modeling_llava_mistral
from PIL import Image
from processing import LlavaMistralProcessor
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained("owner/llava").eval()
processor = LlavaMistralProcessor.from_pretrained("owner/llava")
assert processor.image_token_id == model.config.image_token_id
asked = processor(images=Image.open(sys.argv[1]), text="<s>[INST] <image> [/INST]", return_tensors="pt")
with torch.no_grad():
    torch.save(model(**asked).logits[..., :512], sys.argv[2])
"""


@pytest.mark.parametrize("form", ["safetensors", pytest.param("bin", marks=pytest.mark.slow)])
def test_an_original_opens_by_its_hub_id_with_a_tower_of_another(shared, tmp_path, form):
    """The tower in safetensors, or, as openai/clip-vit-large-patch14-336 has it, in a pickle of weights alone."""
    import torch
    from huggingface_hub import HfApi
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    import modeling_llava_mistral  # noqa: F401 (the plugin)
    from processing import LlavaMistralProcessor

    source = shared / "original_llava" / "llava15_pad"
    folder = tmp_path / "llava"
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(512 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    config = json.loads((source / "config.json").read_text()) | {"mm_vision_tower": "owner/tower"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    tower = tmp_path / "tower"
    tower.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (tower / name).write_bytes((source / "vision_tower" / name).read_bytes())
    if form == "bin":
        torch.save(load_file(source / "vision_tower" / "model.safetensors"), tower / "pytorch_model.bin")
    else:
        (tower / "model.safetensors").write_bytes((source / "vision_tower" / "model.safetensors").read_bytes())

    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        for name, path in (("owner/llava", folder), ("owner/tower", tower)):
            api.create_repo(name)
            api.upload_folder(repo_id=name, folder_path=path)
        online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        online["HF_HOME"] = str(tmp_path / "home")
        online["PYTHONPATH"] = os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")])
        run_apart("-c", OPEN, source / "wide.png", tmp_path / "logits.pt", cwd=tmp_path, **online)

    config["mm_vision_tower"] = str(source / "vision_tower")
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = LlavaMistralProcessor.from_pretrained(folder)
    asked = processor(images=Image.open(source / "wide.png"), text="<s>[INST] <image> [/INST]", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**asked).logits[..., :512], torch.load(tmp_path / "logits.pt"))
