"""Which code a checkpoint may run: only this project's, unless the user trusts a commit by name.

Classes of ours are loaded from here, never from the copy in a folder, so that nothing of a folder runs. Other code
runs only at the commit that the user typed (`--trust_code_of OWNER/NAME@COMMIT`); what a file says about itself is no
reason to trust it. `custom_generate` and attention kernels of the Hub never run.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.bounded import read_bounded
from llava_mistral.ground.checkpoint_headers import check_files
from llava_mistral.ground.config_checks import AGAIN, check_config, check_sides, check_texts, check_tokenizer
from llava_mistral.ground.hub_access import reach_hub

FLAG = "--trust_code_of"
COMMIT = re.compile(r"[0-9a-f]{40}")
# The modules that travel with a checkpoint of ours; whatever the folder's copies hold, they are not run.
OURS = {"configuration_llava_mistral", "modeling_llava_mistral", "processing_llava_mistral"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CONFIGS = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)
_TRUSTED: dict[str, str] = {}  # Hub id -> the commit whose code this process may run


@dataclass(frozen=True)
class Origin:
    """Where every file of a checkpoint is loaded from, and whether its own code is run.

    Attributes:
        name: a folder or a Hub id; of an adapter, those of its base.
        revision: of a Hub id.
        runs_code: whether the user has named this commit as one whose code may run.
        adapter: what is put onto it.
    """

    name: str
    revision: str | None = None
    runs_code: bool = False
    adapter: "Origin | None" = None

    def options(self) -> dict[str, Any]:
        """Return the keywords of `from_pretrained`, the Auto classes knowing ours from now on."""
        register_ours()
        return {"revision": self.revision, "trust_remote_code": self.runs_code}


class _Trust(argparse.Action):
    def __call__(self, parser, namespace, value, option_string=None):
        trust(value)


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Let a verb take `--trust_code_of`."""
    parser.add_argument(
        FLAG,
        action=_Trust,
        dest=argparse.SUPPRESS,
        metavar="OWNER/NAME@COMMIT",
        help="run the code that this commit of a Hub repository brings; without it nobody's but this project's",
    )


def take_flag(arguments: Sequence[str]) -> list[str]:
    """Obey `--trust_code_of` among arguments that another parser reads; returns the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flag(parser)
    return parser.parse_known_args(list(arguments))[1] if any(FLAG in one for one in arguments) else list(arguments)


def trust(named: str) -> None:
    """Let this process run the code of one commit.

    Raises:
        BadInput: it is not OWNER/NAME@COMMIT with all 40 digits.
    """
    name, _, commit = named.rpartition("@")
    if not (_HUB_ID.fullmatch(name) and COMMIT.fullmatch(commit)):
        problem = f"{named!r} does not name a commit of a Hub repository"
        raise BadInput(problem, remedy="give OWNER/NAME@COMMIT, with all 40 hexadecimal digits", field=FLAG[2:])
    _TRUSTED[name] = commit


def split_revision(name: str) -> tuple[str, str | None]:
    """Return the Hub id and the revision of "owner/name@revision"; a folder's name is left as it is."""
    if Path(name).exists() or name.count("@") != 1:
        return name, None
    name, _, revision = name.partition("@")
    return name, revision


def loading(name: str, revision: str | None = None) -> dict[str, Any]:
    """Return the keywords with which `from_pretrained` may load the checkpoint `name`, as `origin` finds them.

    Raises:
        BadInput: as `origin`, and for an adapter: the library would load its base by itself, unseen.
    """
    found = origin(name, revision)
    if found.adapter is not None:
        raise _is_adapter(name)
    return found.options()


def check_part(name: str, revision: str | None = None) -> None:
    """Refuse a tower or a decoder as `origin` does a checkpoint; the library's own classes open it, whatever code it
    brings.

    Raises:
        BadInput: it names kernels or weights that lie elsewhere, or is an adapter.
    """
    runs_code(name, revision, never=True)
    adapter = _read(name, "adapter_config.json", revision)
    if _is_text(adapter.get("base_model_name_or_path")) and not (Path(name) / "config.json").is_file():
        raise _is_adapter(name)


def _is_adapter(name: str) -> BadInput:
    remedy = "merge it into its base (peft's merge_and_unload), or name the base"
    return BadInput("is an adapter, not a checkpoint", remedy=remedy, file=name)


def origin(name: str, revision: str | None = None) -> Origin:
    """Find where a checkpoint, or an adapter and its base, is loaded from, after a look at what that would run.

    Args:
        name: a folder or a Hub id. Of an adapter, the base is taken at the `revision` its configuration notes.

    Raises:
        BadInput: it brings code that the user has not named, names code, kernels or weights that lie elsewhere, or is
            an adapter whose base is another adapter or, on the Hub, a folder.
    """
    adapter = _read(name, "adapter_config.json", revision)
    base = adapter.get("base_model_name_or_path")
    if not _is_text(base) or base == name or (Path(name) / "config.json").is_file():
        return Origin(name, revision, runs_code(name, revision))
    place = f"{name}/adapter_config.json"
    if not Path(name).is_dir() and not _HUB_ID.fullmatch(base):
        problem = f"names the base {base!r}, which is not a Hub repository"
        raise BadInput(problem, remedy="publish the base and name it there", file=place)
    pinned = adapter.get("revision") if _is_text(adapter.get("revision")) and not Path(base).is_dir() else None
    check_config(adapter, place)
    above = _read(base, "adapter_config.json", pinned).get("base_model_name_or_path")
    if _is_text(above) and not (Path(base) / "config.json").is_file():  # else the library goes on to that one's base
        raise BadInput(f"names the base {base}, which is an adapter", remedy="merge that one first", file=place)
    beside = Origin(name, revision, runs_code(name, revision))
    return Origin(base, pinned, runs_code(base, pinned), beside)


def load_model(auto: type, source: Origin, **options) -> Any:
    """Load a whole checkpoint with an Auto class: an adapter's base at its commit, and the adapter on it.

    Raises:
        BadInput: a folder's files are damaged, or a weight is missing, of another shape or left over. transformers
            fills what is missing with random numbers, leaves out what it does not know, and goes on.
    """
    if Path(source.name).is_dir():
        check_files(source.name)
    model, info = auto.from_pretrained(source.name, output_loading_info=True, **source.options(), **options)
    if source.adapter is not None:
        at = {"revision": source.adapter.revision} if source.adapter.revision else {}
        loading_info = model.load_adapter(source.adapter.name, adapter_kwargs=at)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            info[kind] = {*info[kind], *getattr(loading_info, kind)}
    wrong = [str(key) for kind in ("missing", "mismatched", "unexpected") for key in sorted(info[f"{kind}_keys"])]
    if wrong:
        problem = f"{len(wrong)} weights are missing, of another shape or left over (first: {wrong[0]})"
        file = source.adapter.name if source.adapter else source.name
        raise BadInput(problem, remedy="save the checkpoint again, whole", file=file)
    return model


def load_processor(source: Origin) -> Any:
    """Load the processor beside an adapter where there is one, else that of the base."""
    from transformers import AutoProcessor

    beside = source.adapter
    if beside and not any(
        _read(beside.name, f"{kind}_config.json", beside.revision) for kind in ("processor", "preprocessor")
    ):
        beside = None
    place = beside or source
    return AutoProcessor.from_pretrained(place.name, **place.options())


def register_ours() -> None:
    """Let the Auto classes know the classes of this project, so that no folder's copy of them is asked for."""
    import modeling_llava_mistral  # noqa: F401
    from processing import LlavaMistralProcessor  # noqa: F401


def runs_code(name: str, revision: str | None = None, *, never: bool = False) -> bool:
    """Return whether code of `name` itself is to run, after a look at everything its files point at.

    Args:
        never: it is opened with the library's own classes; what code it brings is of no matter.

    Raises:
        BadInput: as `origin`.
    """
    check_texts(name)
    _check_index(name, revision)
    foreign = None
    for config in _CONFIGS:
        found = _read(name, config, revision)
        for reference in _references(None if never else found.get("auto_map")):
            if "--" in reference and reference.split("--")[0] != name:
                problem = f"takes its code from another repository ({reference})"
                raise BadInput(problem, remedy=AGAIN, file=f"{name}/{config}", field="auto_map")
            if reference.rsplit("--", 1)[-1].split(".")[0] not in OURS:
                foreign = foreign or (config, reference)
            elif config == "config.json" and found.get("model_type") != "llava_mistral":
                problem = f"has model_type {found.get('model_type')!r}, and the code of llava_mistral"
                raise BadInput(problem, remedy=AGAIN, file=f"{name}/{config}", field="model_type")
        check_config(found, f"{name}/{config}")
        check_sides(found, f"{name}/{config}")
        if config == "tokenizer_config.json":
            check_tokenizer(found, f"{name}/{config}")
    return foreign is not None and _allowed(name, revision, *foreign)


def _allowed(name: str, revision: str | None, config: str, reference: str) -> bool:
    """True where the user named this very commit.

    Raises:
        BadInput: they did not, or it brings a `custom_generate` too, which would run along.
    """
    place = {"file": f"{name}/{config}", "field": "auto_map"}
    problem = f"brings code of its own ({reference}), which is not run"
    if Path(name).is_dir():
        remedy = f"load it with the library's own tools, or from the Hub with {FLAG} OWNER/NAME@COMMIT"
        raise BadInput(problem, remedy=remedy, **place)
    if (commit := _TRUSTED.get(name)) is None:
        remedy = f"read that code, and give {FLAG} {name}@COMMIT with its 40 hexadecimal digits if it may run here"
        raise BadInput(problem, remedy=remedy, **place)
    if commit != revision:
        problem = f"its code is trusted at {commit}, and it would be loaded at {revision or 'main'}"
        raise BadInput(problem, remedy="name the same commit for both", **place)
    if _file(name, "custom_generate/generate.py", revision):
        problem = "brings a custom_generate/generate.py, which is never run"
        raise BadInput(problem, remedy="load it with the library's own tools", file=name)
    return True


def _check_index(name: str, revision: str | None) -> None:
    shards = _read(name, "model.safetensors.index.json", revision).get("weight_map")
    for shard in shards.values() if isinstance(shards, dict) else ():
        if not _is_text(shard) or re.search(r"[/\\]", shard):
            problem = f"names the weights {str(shard)[:80]!r}, which are outside of its folder"
            raise BadInput(problem, remedy=AGAIN, file=f"{name}/model.safetensors.index.json", field="weight_map")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _references(auto_map: Any) -> Iterator[str]:
    """The classes of an `auto_map`, whose values are names, lists of names, or null."""
    for value in auto_map.values() if isinstance(auto_map, dict) else ():
        yield from filter(_is_text, value if isinstance(value, list) else [value])


def _file(name: str, file: str, revision: str | None) -> Path | None:
    """The file, fetched; None where there is none or it cannot be had, which `from_pretrained` then says."""
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    from transformers.utils import cached_file

    if _HUB_ID.fullmatch(name):
        reach_hub(name)
    try:
        found = cached_file(name, file, revision=revision)
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


def _read(name: str, config: str, revision: str | None) -> dict[str, Any]:
    try:
        path = _file(name, config, revision)
        content = json.loads(read_bounded(path)) if path else {}
    except BadInput:
        raise
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
