"""A Hugging Face Hub on your own machine, for rehearsals and tests: set `HF_ENDPOINT` to its address.

    llava-mistral hub --root DIR --port 0

    with LocalHub(folder, token="secret") as hub:
        subprocess.run([...], env=hub.environment(home))

The unmodified clients create, upload (through LFS and through Xet), commit, list and load here. Not spoken: pull
requests and discussions, multipart LFS, git itself, the dataset viewer, moving and squashing, and copying large files
from one repository to another (which the clients do by their Xet hashes).
"""

from llava_mistral.local_hub.faults import Fault
from llava_mistral.local_hub.server import LocalHub

__all__ = ["Fault", "LocalHub"]
