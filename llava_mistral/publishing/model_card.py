"""The card of a model: its README.md, from the files of its checkpoint and its evaluation summaries."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from llava_mistral.ground.escaping import code, markdown, one_line
from llava_mistral.ground.strict_json import read_object
from llava_mistral.publishing.cards import UNKNOWN, as_yaml, card_data, formatted, is_hub_id, pour, validated
from llava_mistral.publishing.known_sources import known_source
from llava_mistral.publishing.reported_results import checked_summary, eval_results, result_table
from llava_mistral.publishing.scanning import plain_name
from llava_mistral.publishing.staging import parameter_count


def model_card(
    folder: Path,
    repo_id: str,
    *,
    revision: str,
    licence: str = UNKNOWN,
    summaries: list[dict] | None = None,
    chart: str | None = None,
    recipe: str | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
) -> str:
    """The README.md of a checkpoint, from its own files.

    Args:
        folder: the staged checkpoint (config.json or adapter_config.json, weights, run.json when there is one).
        revision: the tag the usage examples are pinned to.
        licence: the Hub's identifier.
        summaries: evaluation summaries (`summary.json`) for the results tables and the model-index.
        chart: the chart's path inside the repository.
        recipe: the YAML text of the recipe; without it, the recipe noted in run.json.
        base_model, dataset: Hub ids to name as base and training data instead of what run.json says.

    Raises:
        BadInput: a summary is not one, or the card fails the Hub client's validation.
    """
    adapter = (folder / "adapter_config.json").is_file()
    runs = _runs(read_object(folder / "run.json") if (folder / "run.json").is_file() else {})
    run = runs[-1]
    config = read_object(folder / ("adapter_config.json" if adapter else "config.json"))
    bases = [base_model] if base_model else _bases(config, runs, adapter)
    data_names = [dataset or _get(run, "data", "path"), *(_get(one, "data", "path") for one in runs[-2::-1])]
    summaries = [checked_summary(summary) for summary in summaries or []]
    name = repo_id.split("/")[-1]
    named, commit = (config.get(key) for key in ("base_model_name_or_path", "revision"))
    has_code = bool(config.get("auto_map"))
    text = pour(
        "model_card.md",
        front_matter=_front_matter(name, licence, bases, data_names, adapter, _tags(config, run, adapter), summaries),
        name=name,
        what=_what_model(config, folder, adapter),
        adapter=adapter,
        has_code=has_code,
        revision=revision,
        pipeline_snippet=pipeline_snippet(repo_id, revision, has_code),
        classes_snippet=classes_snippet(repo_id, revision, has_code),
        adapter_snippet=adapter_snippet(repo_id, revision, named or UNKNOWN, commit),
        base_pinned=bool(commit),
        results=[result_table(summary) for summary in summaries],
        chart=chart,
        loss="loss.png" if (folder / "loss.png").is_file() else None,
        stages=[_stage_name(one) for one in runs],
        facts=_table([*_facts(one), *_hardware(one)] for one in runs),
        recipe=recipe.strip() if recipe else as_yaml(run.get("recipe")),
        earlier=[(_stage_name(one), as_yaml(one["recipe"])) for one in runs[:-1] if one.get("recipe")],
        rerun=_rerun(run, dataset, base_model),
        license=licence,
        parts=_parts(bases, data_names, [_terms(one) for one in runs[::-1]]),
    )
    return validated("ModelCard", text)


def _bases(config: dict, runs: list[dict], adapter: bool) -> list:
    """What a checkpoint was made from; an adapter fits one base only: the one its own config names."""
    named = config.get("base_model_name_or_path")
    bases = _as_list((adapter and named) or runs[0].get("base_model") or named)
    if adapter or any(map(is_hub_id, bases)):
        return bases
    # A stage-0 folder: what it was composed of is in the config.
    parts = [_get(config, f"{part}_config", "_name_or_path") for part in ("vision", "text")]
    return [part for part in parts if is_hub_id(part)] or bases


def _front_matter(
    name: str, licence: str, bases: list, data_names: list, adapter: bool, tags: list[str], summaries: list[dict]
) -> str:
    """The YAML that the Hub reads of a card; of bases and data only what the Hub has."""
    hub_bases = [base for base in bases if is_hub_id(base)]
    data = card_data(
        "ModelCardData",
        library_name="peft" if adapter else "transformers",
        pipeline_tag="image-text-to-text",
        license=licence,
        language=["en"],
        base_model=hub_bases or None,
        base_model_relation=("adapter" if adapter else "finetune") if hub_bases else None,
        datasets=list(dict.fromkeys(name for name in data_names if is_hub_id(name))) or None,
        tags=tags,
        model_name=name,
        eval_results=[row for summary in summaries for row in eval_results(summary)] or None,
    )
    return data.to_yaml()


def pipeline_snippet(repo_id: str, revision: str, has_code: bool) -> str:
    """Six lines a stranger pastes: a question about a picture, answered by the pinned revision."""
    trust = ", trust_remote_code=True" if has_code else ""
    return (
        "from transformers import pipeline\n\n"
        f'chat = pipeline("image-text-to-text", model="{repo_id}", revision="{revision}"{trust})\n'
        'question = [{"type": "image", "path": "picture.png"}, {"type": "text", "text": "What is in this picture?"}]\n'
        'answer = chat(text=[{"role": "user", "content": question}], max_new_tokens=64, return_full_text=False)\n'
        'print(answer[0]["generated_text"])'
    )


def classes_snippet(repo_id: str, revision: str, has_code: bool) -> str:
    """The same model and processor through the Auto classes."""
    trust = ", trust_remote_code=True" if has_code else ""
    return (
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        f'pinned = dict(revision="{revision}"{trust})\n'
        f'model = AutoModelForImageTextToText.from_pretrained("{repo_id}", **pinned)\n'
        f'processor = AutoProcessor.from_pretrained("{repo_id}", **pinned)'
    )


def adapter_snippet(repo_id: str, revision: str, base: str, base_revision: str | None) -> str:
    """An adapter onto its base, both at the commits that were compared when it was published."""
    pinned = f", revision={json.dumps(base_revision)}" if base_revision else ""
    return (
        "from peft import PeftModel\nfrom transformers import AutoModelForImageTextToText\n\n"
        f"base = AutoModelForImageTextToText.from_pretrained({json.dumps(base)}{pinned}, trust_remote_code=True)\n"
        f'model = PeftModel.from_pretrained(base, "{repo_id}", revision="{revision}")'
    )


def _what_model(config: dict, folder: Path, adapter: bool) -> str:
    count = f"{parameter_count(folder):,}"
    if adapter:
        base, commit = config.get("base_model_name_or_path") or UNKNOWN, config.get("revision")
        at = f" at commit {code(commit)}" if commit else ""
        return f"An adapter of {count} parameters ({markdown(config.get('peft_type', UNKNOWN))}) for {code(base)}{at}."
    text, vision = (config.get(key) or {} for key in ("text_config", "vision_config"))
    kind, tower, words = (code(part.get("model_type", UNKNOWN)) for part in (config, vision, text))
    return (
        f"A vision-language model ({kind}) of {count} parameters: a {tower} vision tower reads pictures of "
        f"{markdown(vision.get('image_size', UNKNOWN))} pixels a side, a projector turns them into tokens, and a "
        f"{words} language model of {markdown(text.get('num_hidden_layers', UNKNOWN))} layers answers."
    )


def _tags(config: dict, run: dict, adapter: bool) -> list[str]:
    text = (config.get("text_config") or {}).get("model_type")
    tags = ["llava", "vision-language", config.get("model_type"), text, run.get("stage")]
    tags += ["custom_code"] if config.get("auto_map") else []
    tags += ["lora"] if adapter and config.get("peft_type") == "LORA" else []
    return list(dict.fromkeys(tag for tag in tags if tag))


def _runs(run: dict) -> list[dict]:
    """A checkpoint's runs, oldest first: each run.json holds that of the checkpoint it started from."""
    before = run.get("before")
    return [*(_runs(before) if isinstance(before, dict) else []), run]


def _stage_name(run: dict) -> str:
    return formatted(run.get("stage"))


def _facts(run: dict) -> list[tuple[str, str]]:
    parameters, data, tokens = (run.get(key) or {} for key in ("parameters", "data", "tokens"))
    versions = run.get("versions") or {}
    return [
        ("made from", formatted([plain_name(str(base)) for base in _as_list(run.get("base_model"))])),
        ("parameters trained", formatted(parameters.get("trainable"))),
        ("parameters frozen", formatted(parameters.get("frozen"))),
        ("training data", formatted(plain_name(str(data["path"])) if data.get("path") else None)),
        ("training rows", formatted(data.get("rows"))),
        ("training data sha256", f"{str(data['sha256'])[:16]}…" if data.get("sha256") else UNKNOWN),
        ("tokens of questions", formatted(tokens.get("prompt"))),
        ("tokens of answers", formatted(tokens.get("answer"))),
        ("attention", formatted(run.get("window"))),
        ("steps", formatted(run.get("steps"))),
        ("epochs", formatted(run.get("epochs"))),
        ("final loss", formatted(run.get("final_loss"))),
        *_saved_step(run),
        ("seed", formatted(run.get("seed"))),
        ("versions", formatted([f"{key} {value}" for key, value in versions.items()])),
    ]


def _saved_step(run: dict) -> list[tuple[str, str]]:
    """Which step's weights these are, where they are not the last one's (`load_best_model_at_end`)."""
    best = run.get("best")
    if not isinstance(best, dict):
        return []
    losses = [
        f"{formatted(best[key])} ({name})"
        for key, name in (("loss", "training"), ("eval_loss", "held out"))
        if key in best
    ]
    return [("weights of step", formatted(best.get("step"))), ("loss at that step", formatted(losses))]


def _hardware(run: dict) -> list[tuple[str, str]]:
    hardware = run.get("hardware")
    if isinstance(hardware, dict):
        gpus, cores = hardware.get("gpus"), hardware.get("cpu_cores")
        found = f"{gpus} × {formatted(hardware.get('gpu'))}" if gpus else "no GPU" if gpus == 0 else None
        hardware = [part for part in (found, f"{cores} CPU cores" if cores else None) if part]
    seconds, energy = run.get("seconds"), run.get("energy_kwh")
    return [
        ("hardware", formatted(hardware)),
        ("time", UNKNOWN if seconds is None else f"{seconds:,.0f} s ({seconds / 3600:.2g} h)"),
        ("energy", UNKNOWN if energy is None else f"{energy:.3g} kWh"),
    ]


def _table(columns: Iterable[list[tuple[str, str]]]) -> list[tuple[str, list[str]]]:
    """Facts of several runs side by side: (what, [one value for each run])."""
    columns = list(columns)
    return [(row[0][0], [markdown(value) for _, value in row]) for row in zip(*columns, strict=True)]


def _rerun(run: dict, dataset: str | None, base_model: str | None) -> str | None:
    """The command that trains it again from the recipe beside it, with what the recipe need not say."""
    if run.get("stage") not in ("pretrain", "finetune"):
        return None
    base = base_model or next(iter(_as_list(run.get("base_model"))), None)
    flags = {"model_name_or_path": base, "dataset": dataset or _get(run, "data", "path"), "output_dir": "again"}
    words = {flag: shlex.quote(one_line(plain_name(str(value)))) for flag, value in flags.items() if value}
    arguments = " ".join(f"--{flag} {word}" for flag, word in words.items())
    return f"llava-mistral train --stage {run['stage']} --config recipe.yaml \\\n    {arguments}"


def _parts(bases: list[str], data_names: list[str | None], licences: list[str | None]) -> list[tuple[str, str, str]]:
    parts = [("model", _linked(base, "https://huggingface.co/"), UNKNOWN) for base in bases]
    for name, licence in zip(data_names, licences, strict=True):
        linked = _linked(name, "https://huggingface.co/datasets/") if name else UNKNOWN
        parts.append(("data", linked, code(licence) if licence else UNKNOWN))
    return parts if bases else [("model", UNKNOWN, UNKNOWN), *parts]


def _terms(run: dict) -> str | None:
    """The licence of a run's data: the one its manifest gave, or that of a source its name speaks of."""
    source = known_source(_get(run, "data", "source"), plain_name(str(_get(run, "data", "path") or "")))
    return (source and source.licence) or _get(run, "data", "license")


def _linked(name: str, root: str) -> str:
    return f"[{name}]({root}{name})" if is_hub_id(name) else code(plain_name(str(name)))


def _as_list(value) -> list:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _get(value: dict, *keys: str):
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
