"""`llava-mistral train` under the name TRL users know: `accelerate launch train_sft.py …`."""

import sys

from llava_mistral.cli import run

if __name__ == "__main__":
    run("train", sys.argv[1:])
