"""Mistral against LLaMA at 7B, random weights on a GPU: reading, writing and training speed, and memory.

    python benchmarks/backbones_gpu.py
    python benchmarks/backbones_gpu.py --size tiny

Both have the shapes of transformers' default configurations (Mistral-7B-v0.1 and LLaMA-7B) behind CLIP ViT-L/14-336
and are measured in turn, each batch size by itself. `prefill`, `decode` and `training` are medians of Mistral's tokens
per second over LLaMA's, `memory` is LLaMA's peak over Mistral's; above 1 Mistral does better. `--size tiny` runs every
line of it on a CPU and writes nothing: its figures say nothing about 7B. `backbones.py` pours the JSON into a page.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.backbones import MEASURED, study_config
from llava_mistral.evaluation.efficiency import arithmetic, check_sizes, prompt, speeds
from llava_mistral.evaluation.results import versions
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.strict_json import write_json

TINY = {
    "vision": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_size": 28, "patch_size": 14},
    },
    "text": {
        **{"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
        "num_attention_heads": 8,
    },
    "heads": {"mistral": {"num_key_value_heads": 2, "sliding_window": 16}, "llama": {"num_key_value_heads": 8}},
}


def main() -> int | None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["7b", "tiny"], default="7b", help="tiny: to try the benchmark on a CPU")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 16], help="prompts at a time")
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each; medians are given")
    options = parser.parse_args()
    check_sizes(options.batch_sizes, options.rounds)
    import torch

    if options.size == "7b" and not torch.cuda.is_available():
        raise BadInput("there is no GPU, so nothing is measured", remedy="run it where there is one")
    result = measure(options, "cuda" if torch.cuda.is_available() else "cpu")
    if options.size == "7b":
        MEASURED.parent.mkdir(exist_ok=True)
        write_json(MEASURED, result)
    print("RESULT " + json.dumps({name: result[name] for name in ("prefill", "decode", "training", "memory")}))
    return 0


def measure(options, device: str) -> dict:
    """Return ratios, medians, memory, and what they were measured on."""
    import torch

    models, facts = {}, {}
    for name in ("mistral", "llama"):
        model = build(name, options.size, device)
        facts[name] = arithmetic(model.config) | {"memory": peak(model, max(options.batch_sizes), device)}
        models[name] = SimpleNamespace(model=model)
    for name, speed in speeds(models, options.batch_sizes, options.rounds).items():
        facts[name] |= speed
    trained = {name: train(it.model, options.rounds) for name, it in models.items()}
    for name, rates in trained.items():
        facts[name]["training"] = statistics.quantiles(rates, n=4)
    largest = max(options.batch_sizes)
    mistral, llama = facts["mistral"], facts["llama"]
    return {
        **{kind: round(mistral[kind][largest][1] / llama[kind][largest][1], 3) for kind in ("prefill", "decode")},
        "training": round(mistral["training"][1] / llama["training"][1], 3),
        "memory": round(llama["memory"] / mistral["memory"], 3) if llama["memory"] else None,
        "models": facts,
        "size": options.size,
        "batch_sizes": options.batch_sizes,
        "rounds": options.rounds,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {"python": platform.python_version(), **versions("torch", "transformers")},
    }


def build(name: str, size: str, device: str):
    """Return a model with random weights, made on the device, in bfloat16 there."""
    import torch

    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    torch.manual_seed(0)
    tiny = {"vision": TINY["vision"], "text": {**TINY["text"], **TINY["heads"][name]}} if size == "tiny" else {}
    config = study_config(name, **tiny, dtype="bfloat16")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return LlavaMistralForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def peak(model, batch_size: int, device: str) -> int | None:
    """Return the bytes allocated at the highest while reading and writing once, without the other model's.

    None on a CPU.
    """
    import torch

    from llava_mistral.evaluation.efficiency import once

    if device != "cuda":
        return None
    before = torch.cuda.memory_allocated() - sum(weight.nbytes for weight in model.parameters())
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        once(model, prompt(model, batch_size))
    return torch.cuda.max_memory_allocated() - before


def train(model, rounds: int) -> list[float]:
    """Return tokens per second of stage 1's step, the projector's gradients through a frozen text model."""
    import torch

    from llava_mistral.training.stages import set_trainable

    set_trainable(model, "pretrain")
    model.gradient_checkpointing_enable()
    model.train()
    with torch.no_grad():
        inputs = prompt(model, 1)
    rates = []
    for turn in range(rounds + 1):
        begun = time.perf_counter()
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        if turn:  # the first warms up
            rates.append(inputs["input_ids"].numel() / (time.perf_counter() - begun))
    return rates


if __name__ == "__main__":
    run_verb(main)
