"""The cost of inference: parameters, FLOP and cache from the configuration; memory and speed by measurement.

    python -m llava_mistral.evaluation.efficiency outputs/miniature/stage2 --batch_sizes 1 8

prints the measured part as JSON. `llava-mistral compare --efficiency` puts several models side by side.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput

CONTEXTS = (2048, 4096, 16384, 32768)  # tokens
CACHE_BYTES = 2  # of a cached number: bfloat16
WORDS, DECODED = 64, 32  # tokens of text behind the picture, and tokens generated
FEWEST_ROUNDS = 3


def arithmetic(config: Any) -> dict[str, Any]:
    """Return the costs that follow from the configuration; nothing is loaded or run.

    Args:
        config: a `LlavaMistralConfig`.

    Returns:
        `parameters` by part; `flops` of one picture's tower and projector and of one token's matrices (counted by
        torch's own `FlopCounterMode`, a multiplication and an addition each), and of its attention at each of
        `CONTEXTS`: 4 x layers x heads x head size x tokens attended; `kv_cache` bytes of a token and at each of
        `CONTEXTS`, in bfloat16: 2 x layers x key-value heads x head size x 2 for each token within the window.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForImageTextToText

    text, vision = config.text_config, config.vision_config
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False, attn_implementation="eager")
        pixels = torch.zeros(1, 3, vision.image_size, vision.image_size)
        word, visible = torch.zeros(1, 1, text.hidden_size), torch.zeros(1, 1, 1, 1)
        place = torch.zeros(1, 1, dtype=torch.long)
    inner, meta = model.model, {"device": "meta"}
    with FlopCounterMode(display=False) as picture, torch.no_grad():
        patches = inner.vision_tower(pixels).last_hidden_state.shape[1]
        patches -= config.vision_feature_select_strategy == "default"  # the class token
        inner.multi_modal_projector(torch.zeros(1, patches, inner.multi_modal_projector.linear_1.in_features, **meta))
    with FlopCounterMode(display=False) as token, torch.no_grad():
        # A mask made beforehand: the library's own looks at positions, which a tensor without memory has not.
        hidden = inner.language_model(inputs_embeds=word, attention_mask=visible, position_ids=place, use_cache=False)
        model.lm_head(hidden.last_hidden_state)
    window = getattr(text, "sliding_window", None)
    attended = {context: min(context, window or context) for context in CONTEXTS}
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * head * CACHE_BYTES
    scored = 4 * text.num_hidden_layers * text.num_attention_heads * head
    return {
        "text_model": text.model_type,
        "window": window,
        "parameters": {
            "vision_tower": _count(inner.vision_tower),
            "projector": _count(inner.multi_modal_projector),
            "text_model": _count(inner.language_model) + _count(model.lm_head),
            "all": _count(model),
        },
        "flops": {
            "picture": picture.get_total_flops(),
            "token": token.get_total_flops() - scored,  # its attention to itself stands below
            "attention": {context: scored * seen for context, seen in attended.items()},
        },
        "kv_cache": {"token": cached, "at": {context: cached * seen for context, seen in attended.items()}},
    }


def _count(module: Any) -> int:
    return sum(weight.numel() for weight in module.parameters())


def efficiency(
    checkpoints: Mapping[str, str], batch_sizes: Sequence[int], *, rounds: int = 10, device: str | None = None
) -> dict[str, Any]:
    """Return `arithmetic` and measurements of every checkpoint, as `comparison.json` keeps them.

    Args:
        checkpoints: {name: folder or Hub id}.
        batch_sizes: prompts at a time; a prompt is a picture and `WORDS` tokens.
        rounds: measurements of each, the models in turn; medians and quartiles are given.

    Raises:
        BadInput: a checkpoint is none, a batch size is not positive, or there are too few rounds.
    """
    from llava_mistral.evaluation.asking import Checkpoint

    check_sizes(batch_sizes, rounds)
    models = {name: Checkpoint(path, device=device) for name, path in checkpoints.items()}
    facts = {name: {"checkpoint": checkpoints[name], **arithmetic(it.model.config)} for name, it in models.items()}
    speed = speeds(models, batch_sizes, rounds)
    used = next(iter(models.values())).device
    del models  # the memory of each is measured in a process of its own, beside nothing else
    for name, path in checkpoints.items():
        facts[name]["measured"] = speed[name] | {"peak_memory": peak_memory(path, max(batch_sizes), device)}
        facts[name]["training"] = training_rate(path)
    return {"hardware": hardware(used), "batch_sizes": list(batch_sizes), "rounds": rounds, "models": facts}


def check_sizes(batch_sizes: Sequence[int], rounds: int) -> None:
    """Refuse batch sizes and numbers of rounds that measure nothing."""
    if not batch_sizes or min(batch_sizes) < 1:
        raise BadInput("is out of range", remedy="give positive numbers", field="batch_sizes")
    if rounds < FEWEST_ROUNDS:
        raise BadInput(f"{rounds} are too few for a median", remedy=f"give {FEWEST_ROUNDS} or more", field="rounds")


def hardware(device: str) -> dict[str, Any]:
    """Return the hardware of the measurement."""
    import torch

    if device.startswith("cuda"):
        return {"device": torch.cuda.get_device_name(device), "threads": None}
    import platform

    return {"device": platform.machine(), "threads": torch.get_num_threads()}


def speeds(models: Mapping[str, Any], batch_sizes: Sequence[int], rounds: int) -> dict[str, dict[str, Any]]:
    """Return {name: {"prefill": {batch size: rates}, "decode": …}}; rates are quartiles, in tokens per second.

    The models take turns within a round, so that a machine that slows down slows all of them.
    """
    import torch
    from tqdm import tqdm

    results: dict[str, dict[str, Any]] = {name: {"prefill": {}, "decode": {}} for name in models}
    bar = tqdm(total=len(batch_sizes) * rounds, desc="measuring", unit=" rounds", delay=2)
    for size in batch_sizes:
        prompts = {name: prompt(it.model, size) for name, it in models.items()}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        with torch.inference_mode():
            for turn in range(rounds + 1):
                for name, it in models.items():
                    rates = once(it.model, prompts[name])
                    if turn:  # the first warms up
                        times[name].append(rates)
                bar.update(turn > 0)
        for name, rates in times.items():
            for kind, values in zip(("prefill", "decode"), zip(*rates, strict=True), strict=True):
                results[name][kind][size] = [round(value, 1) for value in statistics.quantiles(values, n=4)]
    bar.close()
    return results


def prompt(model: Any, size: int) -> dict[str, Any]:
    """Return `size` prompts of one picture and `WORDS` tokens, of noise; what they say costs nothing."""
    import torch

    noise = torch.Generator().manual_seed(0)
    config, to = model.config, {"device": model.device}
    sizes = torch.full((size, 2), config.vision_config.image_size)
    shape = (3, config.vision_config.image_size, config.vision_config.image_size)
    pictures = torch.randn(size, *((1,) * (config.image_aspect_ratio == "anyres")), *shape, generator=noise)
    if config.image_aspect_ratio == "anyres":  # the whole picture and one tile, which is the least there is
        pictures = pictures.expand(-1, 2, -1, -1, -1)
    pictures = pictures.to(**to, dtype=model.dtype)
    features = model.get_image_features(pixel_values=pictures, image_sizes=sizes.to(**to)).pooler_output
    limit = min(config.image_token_id, config.text_config.vocab_size)
    words = torch.randint(1, limit, (size, WORDS), generator=noise).to(**to)
    image = torch.full((size, len(features[0])), config.image_token_id, **to)
    return {"input_ids": torch.cat([image, words], 1), "pixel_values": pictures, "image_sizes": sizes.to(**to)}


def once(model: Any, inputs: dict[str, Any]) -> tuple[float, float]:
    """Return tokens per second of reading the prompts and of writing `DECODED` tokens behind each."""
    begun = _now(model)
    out = model(**inputs, use_cache=True, logits_to_keep=1)
    read = _now(model)
    for _ in range(DECODED):
        ids = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=ids, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
    written = _now(model)
    return inputs["input_ids"].numel() / (read - begun), len(inputs["input_ids"]) * DECODED / (written - read)


def _now(model: Any) -> float:
    if model.device.type == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(checkpoint: str, batch_size: int, device: str | None = None) -> dict[str, int]:
    """Return bytes at the highest while loading, reading and writing once, in a process of its own.

    On a GPU what torch allocated there; else the resident memory above what the imported libraries take.
    """
    command = [
        sys.executable,
        "-m",
        "llava_mistral.evaluation.efficiency",
        checkpoint,
        "--batch_sizes",
        str(batch_size),
    ]
    command += ["--device", device] if device else []
    done = subprocess.run([*command, "--memory"], check=True, capture_output=True, text=True, cwd=_home(checkpoint))
    return json.loads(done.stdout.splitlines()[-1])


def _home(checkpoint: str) -> Path | None:
    """Where `-m llava_mistral.evaluation.efficiency` is found; a path that is relative to here must stay so."""
    return None if Path(checkpoint).exists() and not Path(checkpoint).is_absolute() else Path(__file__).parents[2]


def watch_memory(checkpoint: str, batch_size: int, device: str | None) -> dict[str, int]:
    """Load, read and write once in this process; return the bytes at the highest and those of the weights."""
    import torch
    import transformers.models.clip.modeling_clip
    import transformers.models.llava_next.modeling_llava_next  # noqa: F401  what loading would import

    from llava_mistral.evaluation.asking import Checkpoint

    before = _resident("VmRSS")
    model = Checkpoint(checkpoint, device=device).model
    with torch.inference_mode():
        once(model, prompt(model, batch_size))
    on_gpu = model.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM") - before
    weights = sum(weight.nbytes for weight in model.parameters())
    return {"batch_size": batch_size, "bytes": peak, "weights": weights}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def training_rate(checkpoint: str) -> dict[str, Any] | None:
    """Return samples per second of the run that made a checkpoint, by its run.json; None where there is none."""
    record = Path(checkpoint) / "run.json"
    if not record.is_file():
        return None
    run = json.loads(record.read_text(encoding="utf-8"))
    if not run.get("seconds") or not run.get("epochs"):
        return None
    rate = run["data"]["rows"] * run["epochs"] / run["seconds"]
    return {"stage": run["stage"], "samples_per_second": round(rate, 2), "hardware": run.get("hardware")}


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser

    parser = VerbParser(prog="llava_mistral.evaluation.efficiency", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8], help="prompts at a time")
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each; medians are given")
    parser.add_argument("--device", help="torch device; default: the GPU where there is one")
    parser.add_argument("--memory", action="store_true", help="measure nothing but the memory, once")
    options = parser.parse_args()
    check_sizes(options.batch_sizes, options.rounds)
    if options.memory:
        print(json.dumps(watch_memory(options.checkpoint, max(options.batch_sizes), options.device)))
        return
    checkpoints = {options.checkpoint: options.checkpoint}
    print(json.dumps(efficiency(checkpoints, options.batch_sizes, rounds=options.rounds, device=options.device)))


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
