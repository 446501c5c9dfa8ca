"""A folder saved today, opened with `trust_remote_code` by transformers as old as a user may have: `make compat`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine_environments import CACHE, run_or_skip
from tests.support.offline import UNGUARDED

# One release from each few months of major version 5.
VERSIONS = ("5.0.0", "5.6.0", "5.12.0", "5.18.0", "5.23.0")
REFUSED = ("5.0.0",)

pytestmark = pytest.mark.slow

# What a stranger does, knowing nothing but the folder; our package cannot be imported there.
STRANGER = """
import json, sys
import torch, transformers
from safetensors.torch import load_file, save_file

folder, inputs, answer = sys.argv[1:]
assert transformers.__version__ == json.loads(open(answer + ".version").read())
try:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
except Exception as refusal:
    print(f"{type(refusal).__name__}: {refusal}")
    sys.exit(3)
with torch.no_grad():
    logits = model(**load_file(inputs)).logits
save_file({"logits": logits.contiguous()}, answer)
"""


@pytest.fixture(scope="module")
def saved(stage0, tmp_path_factory) -> tuple[Path, Path, object]:
    """A tiny checkpoint, the inputs of a prompt with a picture, and the logits of the version that saved it."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing.processing_llava_mistral import LlavaMistralProcessor

    processor = LlavaMistralProcessor.from_pretrained(stage0)
    picture = Image.new("RGB", (40, 24), (200, 30, 90))
    inputs = dict(processor(text="USER: <image>\nWhich digit?", images=picture, return_tensors="pt"))
    model = LlavaMistralForConditionalGeneration.from_pretrained(stage0, dtype="float32").eval()
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder / "model")
    save_file(inputs, folder / "inputs.safetensors")
    with torch.no_grad():
        return folder / "model", folder / "inputs.safetensors", model(**inputs).logits


def _library(version: str) -> Path:
    """The folder with that version of transformers and what it requires; torch is this environment's."""
    folder = CACHE / "compat" / version
    if not (folder / "transformers").is_dir():
        wanted = f"transformers=={version}"
        pip = (UNGUARDED, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade")
        run_or_skip(wanted, *pip, "--target", folder, wanted)
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_a_saved_folder_gives_the_same_logits_or_is_refused_by_version(version, saved, tmp_path, capfd):
    import torch
    from safetensors.torch import load_file

    folder, inputs, expected = saved
    answer = tmp_path / "answer.safetensors"
    Path(f"{answer}.version").write_text(json.dumps(version))
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)
    environment = {"PYTHONPATH": str(_library(version)), "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, *map(str, (script, folder, inputs, answer))]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == (3 if version in REFUSED else 0), done.stdout + done.stderr
    with capfd.disabled():
        print(f"\ntransformers {version}: {'the same logits' if not done.returncode else done.stdout.strip()}")
    if done.returncode:
        assert f"this is transformers {version}" in done.stdout, (
            f"the refusal does not name the running version: {done.stdout}"
        )
    else:
        torch.testing.assert_close(load_file(answer)["logits"], expected, atol=1e-5, rtol=1e-5)
