"""The card of a pruned dataset: its README.md, from the manifests of its configs."""

import json
import re
import shlex
from typing import Any

from llava_mistral.data.card_configs import card_configs
from llava_mistral.ground.escaping import code, markdown, one_line
from llava_mistral.publishing.cards import UNKNOWN, as_yaml, card_data, formatted, is_hub_id, pour, validated
from llava_mistral.publishing.known_sources import known_source
from llava_mistral.publishing.scanning import plain_name

SIZE_CATEGORIES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
)  # fmt: skip
LICENCE_NOTES = {
    "cc-by-nc-sa-4.0": "credit the source, no commercial use, pass on under the same terms",
    "cc-by-4.0": "credit the source",
}


def dataset_card(repo_id: str, configs: dict[str, dict[str, Any]], licence: str) -> str:
    """The README.md of a pruned dataset with one config per selection method.

    Args:
        configs: config name -> {"manifest": dict, "revision": tag, "info": dataset_info with features and splits}, and
            "data_files" where they do not lie at `{config}/{split}-*`, and "picture" where one of what was kept lies
            beside them. A config that somebody else published keeps the info of the card it was on.
        licence: the Hub's identifier, the same for all configs.

    Raises:
        BadInput: the card fails the Hub client's validation.
    """
    names = sorted(configs)
    infos = [{"config_name": name, **_without(configs[name]["info"], "config_name")} for name in names]
    entries = [entry for info in infos for entry in _entries(info, configs[info["config_name"]])]
    sources = sorted({_source(configs[name]["manifest"]) for name in names})
    known = {id(found): found for source in sources if (found := known_source(source))}.values()
    makers = sorted({maker for found in known for maker in found.annotations_creators})
    makers = makers if all(known_source(source) for source in sources) else []
    rows = sum(split["num_examples"] for info in infos for split in info["splits"])
    data = card_data(
        "DatasetCardData",
        license=licence,
        language=["en"],
        pretty_name=repo_id.split("/")[-1],
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[next((label for limit, label in SIZE_CATEGORIES if rows < limit), "10M<n<100M")],
        source_datasets=[_extended(source) for source in sources if source != UNKNOWN] or None,
        annotations_creators=makers or None,
        tags=["image", "text", "data-selection", *(f"selection:{name}" for name in names)],
        configs=[entry for entry, _ in entries],
        dataset_info=[info for _, info in entries] if len(entries) > 1 else entries[0][1],
    )
    text = pour(
        "dataset_card.md",
        front_matter=data.to_yaml(),
        name=repo_id.split("/")[-1],
        what=_what_dataset(names, sources),
        configs=[_config_facts(repo_id, info, configs[info["config_name"]]) for info in infos],
        columns=[(feature["name"], _kind(feature)) for feature in infos[0]["features"]],
        license=licence,
        license_note=LICENCE_NOTES.get(licence),
        sources=", ".join(map(markdown, sources)),
        makers=formatted(makers),
        citations=[found.citation for found in known],
    )
    return validated("DatasetCard", text)


def _extended(source: str) -> str:
    """A source in the Hub's words: `other-` for one that is not on the Hub."""
    return f"extended|{source}" if is_hub_id(source) else f"extended|other-{source}"


def _entries(info: dict, config: dict) -> list[tuple[dict, dict]]:
    """What `configs` and `dataset_info` have for one set of rows: a pair, or two where they have both forms."""
    columns = [feature["name"] for feature in info["features"]]
    shown = card_configs(info["config_name"], config.get("data_files") or _data_files(info), columns)
    return [
        (
            entry,
            {
                **info,
                "config_name": entry["config_name"],
                "features": [part for part in info["features"] if part["name"] in entry.get("columns", columns)],
            },
        )
        for entry in shown
    ]


def _data_files(info: dict) -> list[dict[str, str]]:
    return [{"split": s["name"], "path": f"{info['config_name']}/{s['name']}-*"} for s in info["splits"]]


def dataset_snippet(repo_id: str, config: str, split: str, revision: str) -> str:
    """Four lines that load one config of a dataset at a pinned revision."""
    return (
        "from datasets import load_dataset\n\n"
        f"rows = load_dataset({', '.join(map(json.dumps, (repo_id, config)))}, "
        f"split={json.dumps(split)}, revision={json.dumps(revision)})\n"
        "print(rows[0])"
    )


def _what_dataset(names: list[str], sources: list[str]) -> str:
    chosen = (
        f"chosen by the method {code(names[0])}"
        if len(names) == 1
        else f"chosen by {len(names)} methods, one config each"
    )
    rows = "Training rows for a vision-language model (pictures, prompt, completion)"
    return f"{rows}, {chosen}, from {', '.join(map(markdown, sources))}."


def _config_facts(repo_id: str, info: dict, config: dict) -> dict:
    manifest, name = config["manifest"], info["config_name"]
    given = manifest.get("input") if isinstance(manifest.get("input"), dict) else {}
    method = manifest.get("method")
    counts = manifest.get("counts") if isinstance(manifest.get("counts"), dict) else {}
    splits = info["splits"]
    return {
        "name": name,
        "has_manifest": bool(manifest),
        "picture": config.get("picture") if re.fullmatch(r"[\w.-]+", name) else None,
        "linked": bool(re.fullmatch(r"[\w.-]+", name)),
        "snippet": dataset_snippet(repo_id, name, splits[0]["name"], config["revision"]),
        "rows": ", ".join(f"{split['name']} {split['num_examples']:,}" for split in splits),
        "input_rows": formatted(given.get("rows")),
        "method": formatted(method),
        "seed": formatted(manifest.get("seed")),
        "source": _source(manifest),
        "counts": [
            (reason, formatted(count)) for reason, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))
        ],
        "recipe": as_yaml(manifest.get("recipe")),
        "rerun": _rerun(manifest),
        "input_sha256": formatted(given.get("sha256")),
        "versions": formatted([f"{k} {v}" for k, v in (manifest.get("versions") or {}).items()]),
    }


def _rerun(manifest: dict) -> str | None:
    """The command that chooses the same rows again, with everything the recipe says; None where it is not known."""
    recipe = manifest.get("recipe") if isinstance(manifest.get("recipe"), dict) else {}
    flags = {"dataset": recipe.get("dataset") or _source(manifest)}
    flags |= {key: manifest.get(key) for key in ("method", "size", "seed")}
    if not flags["method"] or not (flags["size"] or flags["method"] == "full"):
        return None
    flags |= {key: value for key, value in recipe.items() if key not in flags and re.fullmatch("[a-z_]+", key)}
    given = {key: value for key, value in flags.items() if value is not None and value is not False}
    words = [
        f"--{key}" if value is True else f"--{key} {shlex.quote(one_line(value))}" for key, value in given.items()
    ]
    lines, line = [], "llava-mistral prune"
    for word in [*words, "--output pruned"]:
        if len(line) + len(word) > 100:
            lines.append(line)
            line = "   "
        line += f" {word}"
    return " \\\n".join([*lines, line])


def _source(manifest: dict) -> str:
    given = manifest.get("input")
    name = manifest.get("source") or (given.get("name") if isinstance(given, dict) else given)
    return plain_name(str(name)) if name else UNKNOWN


def _kind(feature: dict) -> str:
    for key in ("dtype", "list", "sequence", "struct"):
        if key in feature:
            kind = feature[key]
            return str(kind) if key == "dtype" and isinstance(kind, str) else f"{key} of {_inner(kind)}"
    return UNKNOWN


def _inner(kind) -> str:
    if isinstance(kind, list):
        return "{" + ", ".join(f"{item['name']}: {_kind(item)}" for item in kind) + "}"
    return _kind(kind) if isinstance(kind, dict) else str(kind)


def _without(value: dict, key: str) -> dict:
    return {k: v for k, v in value.items() if k != key}
