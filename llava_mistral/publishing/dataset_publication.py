"""Publish a pruned dataset as one config beside those that others publish in the same repository."""

import re
from collections.abc import Iterable
from pathlib import Path

from llava_mistral.data.card_configs import card_configs, messages_config
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import parse_object, read_object, write_json
from llava_mistral.ground.whole_file import sha256_of
from llava_mistral.publishing import licences, parquet, staging, verification
from llava_mistral.publishing.dataset_card import dataset_card, dataset_snippet
from llava_mistral.publishing.scanning import refuse_findings, scan_folder
from llava_mistral.publishing.staging import files_under
from llava_mistral.publishing.upload import (
    Publication,
    content_tag,
    list_remote,
    publish,
    read_remote,
    tag,
)

CARD, MANIFEST, PICTURE = "README.md", "manifest.json", "report.png"


class DatasetPublication:
    """One config of a dataset repository, beside those that others publish there."""

    repo_type = "dataset"

    def __init__(self, repo_id: str, folder: Path, sources: dict, manifest: dict, info: dict, licence: str):
        self.repo_id, self.folder, self.sources, self.manifest = repo_id, folder, sources, manifest
        self.config, self.info, self.licence, self.left_out = info["config_name"], info, licence, []
        self._files = files_under(folder)
        self.revision = content_tag(self.config, {path: sha256_of(content) for path, content in self._files.items()})
        self._api = None

    def files(self, head: str | None) -> dict[str, Path | bytes]:
        """Our config's files, and the card that lists all configs at `head`."""
        ours = {"manifest": self.manifest, "revision": self.revision, "info": self.info}
        ours |= _picture(self.config, self._files)
        configs = {**self._others(head), self.config: ours}
        return {**self._files, CARD: dataset_card(self.repo_id, configs, self.licence).encode()}

    def check(self) -> None:
        """Nothing further: every picture was decoded and every string scanned when the rows were staged."""

    def publish(self, api, private: bool) -> Publication:
        """Commit it, and name the commit by its content."""
        self._api = api
        done = publish(
            api,
            self.repo_id,
            self.repo_type,
            self.files,
            message=f"Publish {self.revision}",
            owns=lambda path: path.startswith(f"{self.config}/"),
            private=private,
        )
        tag(api, done, self.revision)
        return done

    def verify(self, published: Publication) -> str:
        """Receive it as a stranger; say what was compared."""
        columns = [feature["name"] for feature in self.info["features"]]
        shown = {
            entry["config_name"]: entry.get("columns", columns) for entry in card_configs(self.config, [], columns)
        }
        seen = verification.verify_dataset(published.repo_id, published.commit, published.files, shown, self.sources)
        rows = ", ".join(f"{split} {count:,}" for split, count in seen["rows"].items())
        return f"verified: {seen['files']} files equal by sha256, rows and pixels equal, loaded and streamed ({rows})"

    def snippet(self, published: Publication) -> str:
        """Lines a stranger pastes, pinned to the commit."""
        return dataset_snippet(published.repo_id, self.config, next(iter(self.sources)), published.commit)

    def _others(self, head: str | None) -> dict[str, dict]:
        """The configs that lie beside ours at `head`: their manifests, and their infos from the card there."""
        if self._api is None or head is None:
            return {}
        there = list_remote(self._api, self.repo_id, self.repo_type, head)
        if CARD not in there:
            return {}
        others, licence = _card_configs(self._read(CARD, head), f"{self.repo_id}/{CARD}")
        if licence not in (None, self.licence):
            raise BadInput(
                f"{self.repo_id} is under {licence}, these rows under {self.licence}",
                remedy="publish them to a repository of their own",
                field="license",
            )
        others.pop(self.config, None)
        return {name: self._other(name, entry, there, head) for name, entry in others.items()}

    def _other(self, name: str, entry: dict, there: dict[str, str], head: str) -> dict:
        place = f"{name}/{MANIFEST}"
        if place not in there:  # made by another tool: nothing is known but what its card says
            return entry
        manifest = self._read(place, head)
        sums = {path: digest for path, digest in there.items() if path.startswith(f"{name}/")}
        revision = content_tag(name, {**sums, place: sha256_of(manifest)})
        told = {"manifest": parse_object(manifest, place), "revision": revision}
        return {**entry, **told, **_picture(name, there)}

    def _read(self, path: str, head: str) -> bytes:
        return read_remote(self._api, self.repo_id, self.repo_type, path, head)


def _picture(config: str, files: Iterable[str]) -> dict[str, str]:
    place = f"{config}/{PICTURE}"
    return {"picture": place} if place in files else {}


def prepare_dataset(
    folder: Path,
    repo_id: str,
    workspace: Path,
    *,
    license: str | None = None,
    split: str | None = None,
    config_name: str | None = None,
) -> DatasetPublication:
    """Stage a pruned dataset as one config: its rows with clean pictures, its manifest without local paths.

    A file whose hash the manifest has leaves as it is when it holds bare pixels alone (`parquet.own_shard`); the
    pictures of others are encoded anew. The manifest's `files` become those that are published.

    Args:
        split: the name of its one split on the Hub, where it is to be another than the folder's.
        config_name: the config's name, where it is to be another than the method's: what `load_dataset` takes by
            itself, and the only one that some trainers look for, is called "default".

    Raises:
        BadInput: no manifest, no licence, an unreadable picture, a row that holds what must not leave.
    """
    from tqdm import tqdm

    staging.own_files(folder)
    manifest = read_manifest(folder)
    licence = licences.dataset_licence(manifest, license, folder)
    sources, noted = parquet.split_files(folder), manifest.get("files") or {}
    _check_files(manifest, [path for paths in sources.values() for path in paths], folder)
    if split and not re.fullmatch(r"\w+(\.\w+)*", split):  # as `datasets` has it; it becomes part of a path
        raise BadInput(
            f"{split!r} is not a valid name for a split", remedy="use letters, digits and dots", field="split"
        )
    if split and len(sources) == 1:
        sources = {split: next(iter(sources.values()))}
    elif split:
        raise BadInput(f"the folder has the splits {', '.join(sources)}", remedy="leave --split out", field="split")
    if config_name and not re.fullmatch(r"\w+([-.]\w+)*", config_name):
        problem, remedy = f"{config_name!r} is not a valid name for a config", "use letters, digits and dashes"
        raise BadInput(problem, remedy=remedy, field="config_name")
    config, staged = config_name or manifest["method"], workspace / "files"
    (staged / config).mkdir(parents=True)
    shards = {}
    with tqdm(desc="pictures", unit=" rows", disable=None) as bar:
        for name, paths in sources.items():
            for number, path in enumerate(paths):
                target = staged / config / f"{name}-{number:05d}-of-{len(paths):05d}.parquet"
                own = path.relative_to(folder).as_posix() in noted and parquet.own_shard(path, target, bar.update)
                shards.setdefault(name, []).append(own or parquet.write_shard(path, target, folder, bar.update))
                staging.check_size(target)
    _check_rows(manifest, shards, folder)
    manifest["files"] = {s.path.name: sha256_of(s.path) for one in shards.values() for s in one}
    if (folder / PICTURE).is_file():
        staging.write_picture(folder / PICTURE, staged / config / PICTURE)
    write_json(staged / config / MANIFEST, manifest)
    refuse_findings(scan_folder(staged, folder), folder)
    return DatasetPublication(repo_id, staged, sources, manifest, _info(config, shards), licence)


def read_manifest(folder: Path) -> dict:
    """A pruned dataset's manifest, with local paths reduced to plain names (ids are left as they are).

    Raises:
        BadInput: there is none, or its method is not a valid name for a config.
    """
    manifest = read_object(folder / MANIFEST)
    method = manifest.get("method")
    if not (isinstance(method, str) and method.replace("-", "").replace("_", "").isalnum()):
        raise BadInput(
            f"{method!r} is not a valid name for a config", remedy="make the set again with llava-mistral prune",
            file=folder / MANIFEST, field="method",
        )  # fmt: skip
    ids = {key: manifest[key] for key in ("kept", "dropped") if key in manifest}
    return {**staging.scrub_paths({k: v for k, v in manifest.items() if k not in ids}), **ids}


def _check_files(manifest: dict, paths: list[Path], folder: Path) -> None:
    """Refuse rows that are not those the manifest was written for, where it notes their hashes."""
    noted = manifest.get("files") or {}
    for path in paths:
        if noted.get(path.relative_to(folder).as_posix(), sha := sha256_of(path)) != sha:
            raise BadInput("is not the file its manifest was written for", remedy="prune again", file=path)


def _check_rows(manifest: dict, shards: dict[str, list], folder: Path) -> None:
    rows = sum(shard.rows for one in shards.values() for shard in one)
    if rows == 0:
        raise BadInput("holds no rows", remedy="prune again and keep at least one", file=folder)
    kept = manifest.get("kept")
    if isinstance(kept, list) and len(kept) != rows:
        raise BadInput(
            f"the folder holds {rows} rows, its manifest keeps {len(kept)}",
            remedy="prune again into a new folder",
            file=folder / MANIFEST,
            field="kept",
        )


def _info(config: str, shards: dict[str, list]) -> dict:
    splits = [
        {"name": name, "num_bytes": sum(s.arrow_bytes for s in one), "num_examples": sum(s.rows for s in one)}
        for name, one in shards.items()
    ]
    return {
        "config_name": config,
        "features": parquet.dataset_features(next(iter(shards.values()))[0].path),
        "splits": splits,
        "download_size": sum(shard.bytes for one in shards.values() for shard in one),
        "dataset_size": sum(split["num_bytes"] for split in splits),
    }


def _card_configs(card: bytes, name: str) -> tuple[dict[str, dict], str | None]:
    """The configs on a card, as `dataset_card` takes them, and the card's licence.

    Raises:
        BadInput: somebody has broken its front matter; without it their configs would be dropped.
    """
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    try:
        data = DatasetCard(card.decode(), ignore_metadata_errors=True).data.to_dict()
        infos = data.get("dataset_info") or []
        infos = [infos] if isinstance(infos, dict) else infos
        files = {config.get("config_name"): config.get("data_files") for config in data.get("configs") or []}
        names = [info.get("config_name", "default") for info in infos]
    except (ValueError, TypeError, AttributeError, YAMLError) as error:
        problem = f"the card there does not validate ({' '.join(str(error).split())[:200]})"
        raise BadInput(problem, remedy="correct its front matter on the Hub", file=name) from None
    entries = {
        name: {"manifest": {}, "revision": "main", "info": info, "data_files": files.get(name)}
        for name, info in zip(names, infos, strict=True)
    }
    for name in [name for name in entries if messages_config(name) in entries]:  # two faces of the same rows
        info, other = entries[name]["info"], entries.pop(messages_config(name))["info"]
        known = [feature["name"] for feature in info["features"]]
        more = [feature for feature in other["features"] if feature["name"] not in known]
        entries[name]["info"] = {**info, "features": [*info["features"], *more]}
    return entries, data.get("license")
