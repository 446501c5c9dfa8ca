"""Stage the files of a checkpoint by allow-list: weights are linked, JSON is copied and scrubbed."""

import re
import shutil
from pathlib import Path

from llava_mistral.ground import checkpoint_headers
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import read_header, refuse_types
from llava_mistral.ground.strict_json import read_object, write_json
from llava_mistral.publishing.parquet import clean_png
from llava_mistral.publishing.scanning import is_local_path, plain_name

# What a stranger needs to load, to run and to judge a checkpoint. Everything else stays at home: optimizer and RNG
# state, `training_args.bin` (a pickle that holds the token), logs, caches, `.env`, `.git`.
ALLOWED = re.compile(
    r"config\.json|generation_config\.json|adapter_config\.json"
    r"|(?:adapter_)?model(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|processor_config\.json|preprocessor_config\.json|chat_template\.(?:jinja|json)"
    r"|additional_chat_templates/[\w-]+\.jinja"
    r"|tokenizer\.(?:json|model)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.json|merges\.txt|tekken\.json"
    r"|\w+_llava_mistral\.py|run\.json|loss\.png|LICENSE(?:\.txt|\.md)?|NOTICE(?:\.txt)?"
)
# Keys under which libraries note where a file lay on the machine that saved it. Nothing reads them after loading.
PROVENANCE_KEYS = {
    "_name_or_path", "name_or_path", "_commit_hash", "tokenizer_file", "vocab_file", "merges_file", "local_files_only",
    "special_tokens_map_file", "pretrained_vision_tower", "cache_dir", "is_local", "proxies", "force_download",
}  # fmt: skip
# The code that travels in a folder, which its receiver runs: by name, as it was reviewed and tested here.
PUBLISHED = ("modeling_llava_mistral", "processing")
OUR_CODE = {
    path.name: path
    for folder in PUBLISHED
    for path in Path(__file__).parents[2].joinpath(folder).glob("*_llava_mistral.py")
}
MAX_FILE_BYTES = 50 * 10**9  # the Hub's limit for one file (https://huggingface.co/docs/hub/storage-limits)


def stage_model(folder: Path, staging: Path, base_model: str | None = None) -> list[str]:
    """Fill `staging` with what may be published of a checkpoint; weights are linked, JSON is copied and scrubbed.

    Args:
        folder: a transformers or PEFT folder.
        staging: an empty folder.
        base_model: for an adapter, the Hub id to name as its base instead of a local path.

    Returns:
        the names of the files that stay at home.

    Raises:
        BadInput: the folder is not a checkpoint, or one that cannot be published (missing shard, foreign code).
    """
    files = own_files(folder) if folder.is_dir() else {}
    check_checkpoint(folder)
    _check_tokenizer(folder)
    code = _code_files(folder)
    left_out, weights = [], {file.name for file in weight_files(folder)}
    unread = {checkpoint_headers.INDEX} if checkpoint_headers.SINGLE in weights else set()
    for name, path in files.items():
        unread |= {name} if path.suffix == ".safetensors" and name not in weights else set()
        if not (ALLOWED.fullmatch(name) or name in code) or name in unread:
            left_out.append(name)
            continue
        check_size(path)
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            target.symlink_to(path.resolve())
        elif path.suffix == ".png":
            write_picture(path, target)
        elif name == "run.json":
            write_json(target, scrub_paths(read_object(path)))
        elif (scrubbed := _scrubbed_config(path, base_model)) is not None:
            write_json(target, scrubbed)
        else:
            shutil.copyfile(path, target)
    return [name for name in left_out if not name.startswith((".git/", "__pycache__/"))]


def write_picture(picture: Path, target: Path) -> None:
    """Write a chart's pixels as PNG, and nothing else that its file held.

    Raises:
        BadInput: it is not a picture.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        clean = clean_png(picture.read_bytes())
    except BadInput:
        raise BadInput("is not a picture", remedy="give a PNG, or remove it", file=picture) from None
    target.write_bytes(clean)


def is_replaced(path: str) -> bool:
    """Whether a file on the Hub that a new version lacks must go: all that loaders read, but no licence put there."""
    return bool(ALLOWED.fullmatch(path)) and not path.startswith(("LICENSE", "NOTICE"))


def check_checkpoint(folder: Path) -> None:
    """Refuse a folder that is not a checkpoint before any weight is read: config, code and all weight files exist."""
    if not folder.is_dir():
        raise BadInput("the folder does not exist", remedy="give a checkpoint folder", file=folder)
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not (folder / "config.json").is_file():
        raise BadInput(
            "is not a checkpoint: it has neither config.json nor adapter_config.json",
            remedy="give a folder written by save_pretrained, such as an output of llava-mistral train",
            file=folder,
        )
    config = {} if adapter else read_object(folder / "config.json")
    if not adapter and not config.get("model_type"):
        raise BadInput(
            "names no model", remedy="save the checkpoint again", file=folder / "config.json", field="model_type"
        )
    for path in weight_files(folder):
        check_size(path)
        header = read_header(path)
        if not config.get("quantization_config"):
            refuse_types(header, path)
    if adapter:
        _check_whole_modules(folder)


def _check_whole_modules(folder: Path) -> None:
    """Refuse an adapter without a module that was trained in full beside it, as LLaVA's projector is.

    PEFT would only warn, and the base's own module would answer in its place (haotian-liu/LLaVA issues 784, 1592).
    """
    config = read_object(folder / "adapter_config.json")
    held = {part for path in weight_files(folder) for name in read_header(path) for part in name.split(".")}
    for module in config.get("modules_to_save") or []:
        if module.rsplit(".", 1)[-1] not in held:
            raise BadInput(
                f"the adapter's weights lack {module}, which was trained with it",
                remedy="save the adapter again with PeftModel.save_pretrained",
                file=folder,
                field="modules_to_save",
            )


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint that the library reads, or of an adapter; every one present and inside.

    Raises:
        BadInput: no safetensors, two whole sets, a missing shard, an index that points outside the folder.
    """
    adapter = folder / "adapter_model.safetensors"
    files = checkpoint_headers.weight_files(folder) + [file for file in [adapter] if file.is_file()]
    if foreign := [file.name for file in files if not ALLOWED.fullmatch(file.name)]:
        problem = f"points at {foreign[0]!r}, which is not a weight file of this folder"
        index = folder / checkpoint_headers.INDEX
        raise BadInput(problem, remedy="save the checkpoint again", file=index, field="weight_map")
    if not files:
        remedy = "copy or save the checkpoint again (with safe_serialization, never as .bin)"
        raise BadInput("model.safetensors is missing", remedy=remedy, file=folder)
    return files


def parameter_count(folder: Path) -> int:
    """How many numbers the weight files hold, from their headers (buffers saved with the weights included)."""
    total = 0
    for path in weight_files(folder):
        for name, tensor in read_header(path).items():
            if name != "__metadata__":
                size = 1
                for side in tensor["shape"]:
                    size *= side
                total += size
    return total


def check_size(path: Path) -> None:
    """Refuse a file that the Hub would refuse after hours of sending."""
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise BadInput(
            f"{size / 1e9:.0f} GB is over the Hub's {MAX_FILE_BYTES // 10**9} GB for one file",
            remedy="save in shards (save_pretrained's max_shard_size, datasets' max_shard_size)",
            file=path,
        )


def files_under(folder: Path) -> dict[str, Path]:
    """The files of a folder by their path in it, in order."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def own_files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their path in it, in order; a link leads to another of them, or within the Hub's cache.

    Raises:
        BadInput: a link leads elsewhere, so that any file of this machine would be published in its place.
    """
    real = folder.resolve()
    inside = [real]
    if real.parent.name == "snapshots" and real.parents[1].name.startswith(("models--", "datasets--")):
        inside.append(real.parents[1] / "blobs")  # the cache keeps files there, and links to them in a snapshot
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in inside):
            problem = "is a link to somewhere outside of the folder"
            raise BadInput(problem, remedy="put the file itself there, or remove the link", file=path)
    return files_under(folder)


def scrub_paths(value):
    """A record of a run with every local path in it reduced to its plain name."""
    if isinstance(value, dict):
        return {key: scrub_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scrub_paths(item) for item in value]
    return plain_name(value) if isinstance(value, str) else value


def _code_files(folder: Path) -> set[str]:
    """The modules that `auto_map` names; each must be in the folder, because code of another repository can change."""
    modules = set()
    for name in ("config.json", "processor_config.json", "tokenizer_config.json", "preprocessor_config.json"):
        path = folder / name
        entries = (read_object(path).get("auto_map") or {}) if path.is_file() else {}
        for reference in entries.values():
            for one in reference if isinstance(reference, list) else [reference]:
                modules |= {_module_file(one, path)} if one else set()
    for module in sorted(OUR_CODE.keys() & {path.name for path in folder.iterdir()}):
        if (folder / module).read_bytes() != OUR_CODE[module].read_bytes():
            raise BadInput(
                "is not this project's own code",
                remedy="load the checkpoint and save it again, which puts the code beside it",
                file=folder / module,
            )
    if missing := sorted(m for m in modules if not (folder / m).is_file()):
        raise BadInput(
            f"auto_map names {missing[0]}, which is not in the folder",
            remedy="save the checkpoint again so that its code lies beside it",
            file=folder / "config.json",
            field="auto_map",
        )
    return modules


def _check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that looks for its files by a path that climbs; an absolute one is scrubbed, as elsewhere."""
    path = folder / "tokenizer_config.json"
    for key, value in (read_object(path) if path.is_file() else {}).items():
        names = value if isinstance(value, list) else [value]
        if re.search("_files?$", key) and any(".." in re.split(r"[/\\]", name) for name in map(str, names)):
            raise BadInput(
                f"names a file outside of its folder ({value!r})",
                remedy="save the checkpoint again so that all of it lies in its folder",
                file=path,
                field=key,
            )


def _module_file(reference: str, path: Path) -> str:
    if "--" in reference:
        raise BadInput(
            f"takes its code from another repository ({reference})",
            remedy="save the checkpoint again so that its code lies beside it",
            file=path,
            field="auto_map",
        )
    return reference.rsplit(".", 1)[0] + ".py"


def _scrubbed_config(path: Path, base_model: str | None) -> dict | None:
    """A config without its notes of where things lay, or None when it had none and can be copied byte for byte.

    Raises:
        BadInput: it is an adapter's and names a base that is on this machine only.
    """
    if not path.name.endswith("config.json"):
        return None
    config = read_object(path)
    scrubbed = _without_provenance(config)
    if path.name == "adapter_config.json":
        base = scrubbed["base_model_name_or_path"] = base_model or config.get("base_model_name_or_path")
        if base != config.get("base_model_name_or_path"):
            scrubbed.pop("revision", None)  # it was one of the other name
        if not base or is_local_path(base):
            raise BadInput(
                "the adapter's base is unknown or a folder on this machine",
                remedy="publish the base first and name it with --base_model OWNER/NAME",
                file=path,
                field="base_model_name_or_path",
            )
    return None if scrubbed == config else scrubbed


def _without_provenance(value):
    if isinstance(value, list):
        return [_without_provenance(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {
        k: v for k, v in value.items() if not (k in PROVENANCE_KEYS and (not isinstance(v, str) or is_local_path(v)))
    }
    return {key: _without_provenance(item) for key, item in kept.items()}
