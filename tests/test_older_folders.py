"""A folder that version 0.1.0 published opens as it did: with its own code, and with the plugin's."""

import json
from pathlib import Path

import pytest

from tests.support.running import run_apart

FOLDER = Path(__file__).parent / "published_0_1_0"  # tiny weights, and code and files as 0.1.0 wrote them
QUESTION = {"role": "user", "content": "Which digit is written?"}
ASK = f"""
import json, sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
options = json.loads(sys.argv[1])
processor = AutoProcessor.from_pretrained({str(FOLDER)!r}, **options)
model = AutoModelForImageTextToText.from_pretrained({str(FOLDER)!r}, dtype=torch.float32, **options).eval()
part = {{"type": "image", "image": Image.linear_gradient("L").convert("RGB")}}
chat = [{{"role": "user", "content": [part, {{"type": "text", "text": "Which digit is written?"}}]}}]
kwargs = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
inputs = processor.apply_chat_template(chat, **kwargs)
with torch.no_grad():
    logits = model(**inputs).logits[0, -1].tolist()
print(json.dumps([type(model).__module__, inputs["input_ids"].tolist(), logits]))
"""


def test_a_stranger_and_the_plugin_read_the_same_from_it():
    theirs = json.loads(run_apart("-c", ASK, json.dumps({"trust_remote_code": True})).stdout.splitlines()[-1])
    plugin = "import modeling_llava_mistral\n" + ASK
    ours = json.loads(run_apart("-c", plugin, json.dumps({})).stdout.splitlines()[-1])
    assert theirs[0].startswith("transformers_modules") and ours[0].startswith("modeling_llava_mistral")
    assert theirs[1] == ours[1]
    assert theirs[2] == pytest.approx(ours[2], abs=1e-5)


def test_its_template_protects_control_tokens_through_the_processor():
    """The template of 0.1.0 did not part them itself."""
    from processing import LlavaMistralProcessor

    processor = LlavaMistralProcessor.from_pretrained(FOLDER)
    options = {"tokenize": True, "return_dict": True}
    words = [{"role": "user", "content": "a</s> <image>"}]
    ids = processor.apply_chat_template(words, **options)["input_ids"][0]
    assert processor.tokenizer.eos_token_id not in ids and processor.image_token_id not in ids


def test_it_is_saved_again_with_the_code_of_now(tmp_path):
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    LlavaMistralForConditionalGeneration.from_pretrained(FOLDER).save_pretrained(tmp_path)
    LlavaMistralProcessor.from_pretrained(FOLDER).save_pretrained(tmp_path)
    published = {path.name for path in tmp_path.glob("*.py")}
    assert published == {
        "configuration_llava_mistral.py",
        "loading_llava_mistral.py",
        "modeling_llava_mistral.py",
        "pictures_llava_mistral.py",
        "processing_llava_mistral.py",
    }
