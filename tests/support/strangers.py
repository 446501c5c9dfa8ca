"""Checkpoints of a stranger, with code that leaves a trace where it runs."""

import shutil
from pathlib import Path

from tests.support.hub_here import TOKEN
from tests.support.refusals import change

STRANGER = """
import os
import subprocess
from huggingface_hub import get_token
from transformers import LlavaProcessor

environment = open("/proc/self/environ").read() + str(dict(os.environ)) + str(get_token())
environment += subprocess.run(["git", "credential", "fill"], input="protocol=https\\nhost=hf.example.org\\n\\n",
                              capture_output=True, text=True).stdout
open(RAN, "a").write("ran " + ("with the token" if TOKEN in environment else "without the token") + chr(10))


class StrangerProcessor(LlavaProcessor):
    pass
"""


def stranger(folder: Path, tiny: Path, ran: Path) -> Path:
    """A checkpoint that works, with code of its own that leaves a trace."""
    shutil.copytree(tiny, folder)
    (folder / "stranger.py").write_text(STRANGER.replace("RAN", repr(str(ran))).replace("TOKEN", repr(TOKEN)))
    change(folder / "processor_config.json", auto_map={"AutoProcessor": "stranger.StrangerProcessor"})
    return folder


def upload(name: str, folder: Path, **more) -> str:
    from huggingface_hub import HfApi

    HfApi(token=TOKEN).create_repo(name, exist_ok=True)
    return HfApi(token=TOKEN).upload_folder(repo_id=name, folder_path=folder).oid


def adapter_of(base: Path, folder: Path, **named) -> Path:
    """A LoRA of `base`, saved as PEFT saves it, whose configuration names another base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(base)
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    change(folder / "adapter_config.json", **named)
    return folder
