"""`llava-mistral publish` under the name Hub users know: `python push_to_hub.py model FOLDER OWNER/NAME`."""

import sys

from llava_mistral.cli import run

if __name__ == "__main__":
    run("publish", sys.argv[1:])
