"""A page to talk to a published model, as a Space: the chat page as it is, pinned to one commit of the model."""

import ast
import json
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.whole_file import sha256_of
from llava_mistral.publishing import verification
from llava_mistral.publishing.cards import card_data, is_hub_id, pour, validated
from llava_mistral.publishing.connection import call
from llava_mistral.publishing.upload import Publication, content_tag, publish, tag

GRADIO = "6.31.0"  # the version llava-mistral chat is tested with, as the extra `app` in pyproject.toml names it
HOME = Path(__file__).parents[2]
OURS = ("llava_mistral", "modeling_llava_mistral", "processing")
APP = '''"""Opens the page of the model that app.json names."""

from pathlib import Path

from llava_mistral.commands.chat import main
from llava_mistral.ground.command_line import run_verb

if __name__ == "__main__":
    run_verb(lambda: main(Path(__file__).with_name("app.json")))
'''
# What the page and the model's code import. Gradio comes with the Space, and brings the Pillow that it can live with.
REQUIREMENTS = ("torch", "transformers", "safetensors", "jinja2")


def parts(*entries: str) -> list[str]:
    """Return the files of ours that run in a Space: what `entries` import, wherever the imports stand, and so on."""
    found, todo = {}, list(entries)
    while todo:
        if (file := _file_of(todo.pop())) and file not in found:
            found[file] = tree = ast.parse((HOME / file).read_text(encoding="utf-8"))
            package = file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
            todo += [".".join(package.split(".")[:depth]) for depth in range(1, package.count(".") + 1)]
            package = package if file.endswith("/__init__.py") else package.rpartition(".")[0]
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    todo += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    module = f"{package}.{node.module}" if node.level else node.module
                    todo += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return sorted(found)


def _file_of(module: str) -> str | None:
    place = module.replace(".", "/")
    names = (f"{place}.py", f"{place}/__init__.py") if module.split(".")[0] in OURS else ()
    return next((name for name in names if (HOME / name).is_file()), None)


class SpacePublication:
    """A Space that shows one commit of one model."""

    repo_type = "space"

    def __init__(self, repo_id: str, model_id: str, commit: str):
        self.repo_id, self.model_id, self.commit, self.left_out = repo_id, model_id, commit, []
        self._files = {name: HOME / name for name in parts("llava_mistral.commands.chat")}
        self._files["app.py"] = APP.encode()
        self._files["app.json"] = json.dumps({"model": model_id, "revision": commit}, indent=1).encode()
        self._files["requirements.txt"] = requirements().encode()
        self.revision = content_tag("files", {path: sha256_of(content) for path, content in self._files.items()})
        self._files["README.md"] = space_card(repo_id, model_id, commit).encode()

    def files(self, head: str | None) -> dict[str, Path | bytes]:
        """Path in the repository -> what will be there; the same whatever the head is."""
        return self._files

    def check(self) -> None:
        """Nothing further: the model was loaded and compared when it was published."""

    def publish(self, api, private: bool) -> Publication:
        """Commit it, and name the commit by its content."""
        message = f"Show {self.model_id} at {self.commit[:12]}"
        done = publish(api, self.repo_id, self.repo_type, self.files, message=message, private=private)
        tag(api, done, self.revision)
        return done

    def verify(self, published: Publication) -> str:
        """Receive it as a stranger, and start its page as far as `--help`."""
        seen = verification.verify_space(published.repo_id, published.commit, published.files)
        return f"verified: {seen['files']} files equal by sha256, app.py starts"

    def snippet(self, published: Publication) -> str:
        """Where the page is, and how to have it on one's own machine."""
        return f"llava-mistral chat {self.model_id} --revision {self.commit}"


def prepare_space(model_id: str, repo_id: str, workspace: Path, *, revision: str | None, api=None) -> SpacePublication:
    """A Space for a model on the Hub, its revision resolved to the commit that the Space will load.

    Args:
        api: the Hub's client; None contacts nothing, and then the revision must be a commit already.

    Raises:
        BadInput: the Hub shows no such model, it is no vision-language checkpoint, or the revision is no commit.
    """
    if not is_hub_id(model_id):
        raise BadInput(
            f"{model_id!r} is not a model on the Hub",
            remedy="publish the folder first and give OWNER/NAME",
            field="MODEL",
        )
    if api is None:
        if not (revision and len(revision) == 40 and set(revision) <= set("0123456789abcdef")):
            raise BadInput(
                "--dry_run contacts nothing, so the revision cannot be resolved",
                remedy="give --revision with a commit of 40 hexadecimal digits",
                field="revision",
            )
        return SpacePublication(repo_id, model_id, revision)
    seen = call(lambda: api.model_info(model_id, revision=revision), model_id)
    names = {file.rfilename for file in seen.siblings or []}
    if missing := [name for name in ("config.json", "processor_config.json") if name not in names]:
        raise BadInput(
            f"{model_id} has no {missing[0]}",
            remedy="give a vision-language checkpoint, not an adapter",
            field="MODEL",
        )
    return SpacePublication(repo_id, model_id, seen.sha)


def requirements() -> str:
    """The libraries of the page and all that they need, at the versions installed here, as a requirements.txt.

    What only a GPU's build of torch needs is not known here, and torch pins it itself.
    """
    from packaging.requirements import Requirement

    found, todo = {}, list(REQUIREMENTS)
    while todo:
        try:
            one = distribution(todo.pop())
        except PackageNotFoundError:  # for another system or Python
            continue
        name = re.sub("[-_.]+", "-", one.metadata["Name"]).lower()
        if name not in found:
            found[name] = one.version.split("+")[0]
            needed = [Requirement(text) for text in one.requires or ()]
            todo += [need.name for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return "".join(f"{name}=={number}\n" for name, number in sorted(found.items()))


def space_card(repo_id: str, model_id: str, commit: str) -> str:
    """The README.md of a Space, whose front matter is its configuration.

    https://huggingface.co/docs/hub/spaces-config-reference
    """
    name = repo_id.split("/")[-1]
    data = card_data(
        "SpaceCardData",
        title=name,
        emoji="💬",
        colorFrom="gray",
        colorTo="blue",
        sdk="gradio",
        sdk_version=GRADIO,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license="apache-2.0",
        models=[model_id],
        pinned=False,
    )
    text = pour("space_card.md", front_matter=data.to_yaml(), name=name, model_id=model_id, commit=commit)
    return validated("SpaceCard", text)
