"""Time of forward, prefill and decoding against stock Llava, and the memory that loading takes against the weights.

    python benchmarks/model.py --quick
    python benchmarks/model.py --rounds 50

Both models have the same configuration and the very same tensors, run in turn in one process, and must give equal
logits. `forward`, `prefill` and `decode` are the medians over the rounds of their time / ours; above 1 we are faster.

`load_peak` is the peak resident memory of `from_pretrained` in a process of its own, less what is resident once
everything is imported, over the bytes of the weights; 1 is the least there can be. At the saved precision the weights
stay mapped to their file, so its pages are the weights and count, once. At another precision there are the converted
weights and, beside them, pages of the file, which the system drops whenever it needs memory: `load.converted` has the
figures with and without them.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.result_files import result_file
from llava_mistral.evaluation.results import versions
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.strict_json import write_json

VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
TEXT = {"hidden_size": 512, "intermediate_size": 1792, "num_attention_heads": 8, "num_key_value_heads": 2}
IMAGE_TOKEN, WORDS, DECODED = 32000, 64, 32
WINDOW = 256  # shorter than an image of 576 tokens, so that it counts in every measurement


def main() -> int | None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer layers and rounds, under a minute")
    parser.add_argument("--rounds", type=int, help="runs of each way; 10 or more (default 10 with --quick, else 30)")
    parser.add_argument("--load", metavar="FOLDER", help="only load it and say how much memory that took")
    parser.add_argument("--dtype", default="auto", help="with --load: precision to load in")
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load_and_watch(options.load, options.dtype)))
        return 0
    if options.rounds is None:
        options.rounds = 10 if options.quick else 30
    if options.rounds < 10:
        parser.error(f"--rounds {options.rounds} is too few for a median; give 10 or more")
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, Path(scratch))
    write_json(result_file("model.json", options.quick), result)
    print("RESULT " + json.dumps({name: result[name] for name in ("forward", "prefill", "decode", "load_peak")}))
    return 0 if result["same_logits"] else 1


def measure(options, scratch: Path) -> dict:
    """Return ratios, medians, memory, and what they were measured on."""
    import torch

    ours, stock = twins(layers=4 if options.quick else 8)
    ours.save_pretrained(scratch / "model")
    inputs = example(ours.config)
    ways, same, repeats = {}, True, 1 if options.quick else 3
    for name, run in {"forward": forward, "prefill": prefill, "decode": decode}.items():
        with torch.inference_mode():
            same &= torch.equal(run(ours, inputs)[0], run(stock, inputs)[0])
            ways[name] = compare(run, ours, stock, inputs, options.rounds)
        print(f"{name}: {ways[name]['ours_seconds']:.4f} s, stock {ways[name]['stock_seconds']:.4f} s", flush=True)
    weights = sum(weight.nbytes for weight in ours.parameters())
    del ours, stock
    loads = {dtype: load_apart(scratch / "model", dtype, repeats) for dtype in ("auto", "bfloat16")}
    return {
        **{name: way["ratio"] for name, way in ways.items()},
        "load_peak": round(loads["auto"]["peak_bytes"] / weights, 3),
        "same_logits": same,
        "runs": ways,
        "load": {
            "weights_mb": weights / 2**20,
            "saved_precision": "float32",
            "peak_mb": loads["auto"]["peak_bytes"] / 2**20,
            "seconds": loads["auto"]["seconds"],
            "converted": {
                "to": "bfloat16",
                "peak_over_weights": round(loads["bfloat16"]["peak_bytes"] / (weights / 2), 3),
                "peak_over_weights_without_file_pages": round(
                    loads["bfloat16"]["peak_anonymous_bytes"] / (weights / 2), 3
                ),
                "seconds": loads["bfloat16"]["seconds"],
            },
            "repeats": repeats,
        },
        "model": {"vision": VISION, "text": TEXT, "layers": 4 if options.quick else 8, "window": WINDOW},
        "tokens": {"image": 576, "words": WORDS, "decoded": DECODED},
        "quick": options.quick,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **versions("torch", "transformers", "safetensors")},
    }


def twins(layers: int) -> tuple:
    """Return our model and the library's, which share every tensor."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration

    torch.manual_seed(0)
    text = {"model_type": "mistral", "vocab_size": 32064, "sliding_window": WINDOW, "num_hidden_layers": layers}
    vision = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
    config = LlavaMistralConfig(
        vision_config={**vision, **VISION}, text_config={**text, **TEXT}, image_token_id=IMAGE_TOKEN
    )
    ours = LlavaMistralForConditionalGeneration(config).eval()
    names = ("vision_config", "text_config", "image_token_index", "vision_feature_layer")
    with torch.device("meta"):
        stock = LlavaForConditionalGeneration(LlavaConfig(**{name: getattr(config, name) for name in names}))
    # What is computed and not stored (positions, rotation frequencies) must come from a real model, too.
    for (name, buffer), (_, other) in zip(ours.named_buffers(), list(stock.named_buffers()), strict=True):
        owner = stock.get_submodule(name.rpartition(".")[0])
        owner.register_buffer(name.rpartition(".")[2], buffer, persistent=False)
        assert buffer.shape == other.shape, name
    stock.load_state_dict(ours.state_dict(), strict=True, assign=True)
    return ours, stock.eval()


def example(config) -> dict:
    """One image, then words."""
    import torch

    generator = torch.Generator().manual_seed(1)
    words = torch.randint(5, IMAGE_TOKEN, (1, WORDS), generator=generator)
    ids = torch.cat([torch.ones(1, 1, dtype=torch.long), torch.full((1, 576), IMAGE_TOKEN), words], dim=1)
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 336, 336, generator=generator)}


def forward(model, inputs: dict) -> tuple:
    """Return (logits of the whole sequence, seconds), without a cache."""
    begun = time.perf_counter()
    logits = model(**inputs, use_cache=False).logits
    return logits, time.perf_counter() - begun


def prefill(model, inputs: dict) -> tuple:
    """Return (logits after the prompt, seconds to them), the cache filled on the way."""
    begun = time.perf_counter()
    logits = model(**inputs, use_cache=True, logits_to_keep=1).logits
    return logits, time.perf_counter() - begun


def decode(model, inputs: dict) -> tuple:
    """Return (logits of the last token, seconds from the first to the last token), the prefill not counted."""
    out = model(**inputs, use_cache=True, logits_to_keep=1)
    begun = time.perf_counter()
    for _ in range(DECODED):
        ids = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=ids, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
    return out.logits, time.perf_counter() - begun


def compare(run: Callable, ours, stock, inputs: dict, rounds: int) -> dict:
    """Time both in turn, the first of a round being the second of the next; return medians and ratios.

    The ratio is the median of each round's own: a machine that slows down slows both sides of a round.
    """
    seconds = {"ours": [], "stock": []}
    for index in range(rounds):
        pair = [("ours", ours), ("stock", stock)]
        for side, model in pair if index % 2 else pair[::-1]:
            seconds[side].append(run(model, inputs)[1])
    ratios = [theirs / own for own, theirs in zip(seconds["ours"], seconds["stock"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    medians = {f"{side}_seconds": statistics.median(times) for side, times in seconds.items()}
    return {"ratio": round(middle, 3), "ratio_quartiles": [round(low, 3), round(high, 3)], **medians}


def load_apart(folder: Path, dtype: str, repeats: int) -> dict:
    """Load in fresh processes; return the medians."""
    command = [sys.executable, __file__, "--load", str(folder), "--dtype", dtype]
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def load_and_watch(folder: str, dtype: str) -> dict:
    """Load `folder` and return by how much memory grew at its highest, resident and anonymous, and the seconds."""
    import torch

    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration

    with torch.device("meta"):  # imports what the model needs; takes no memory for weights
        LlavaMistralForConditionalGeneration(LlavaMistralConfig.from_pretrained(folder))
    with suppress(OSError):  # where it is forbidden, the peak may be that of the imports, and too high
        Path("/proc/self/clear_refs").write_text("5")
    before, highest, over = memory(), 0, Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.001):
            highest = max(highest, memory()["RssAnon"])

    watcher = Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    model = LlavaMistralForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    seconds = time.perf_counter() - begun
    over.set()
    watcher.join()
    after = memory()
    assert all(weight.device.type == "cpu" for weight in model.parameters())
    return {
        "peak_bytes": after["VmHWM"] - before["VmRSS"],
        "peak_anonymous_bytes": max(highest, after["RssAnon"]) - before["RssAnon"],
        "seconds": seconds,
    }


def memory() -> dict[str, int]:
    """Bytes of this process: resident now, at most, and the part of it that no file backs."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {name[:-1]: int(size[0]) * 1024 for name, *size in lines if name in ("VmRSS:", "VmHWM:", "RssAnon:")}


if __name__ == "__main__":
    run_verb(main)
