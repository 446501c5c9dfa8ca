"""Training speed, MFU and peak memory on a GPU of stage 1 and of stage 2 by LoRA, against TRL with stock Llava.

    python benchmarks/train_gpu.py --scienceqa ../shared/scienceqa --tokenizer ../shared/mistral_tokenizer
    python benchmarks/train_gpu.py --size tiny --output outputs/train_gpu.json

Both arms have Mistral-7B's and CLIP-L/336's shapes with random weights that are made on the device, bfloat16 autocast
and gradient checkpointing, the same rows and the same micro-batches; pictures are noise, lengths are those of the real
questions and captions. Ours is what `llava-mistral train` builds. Stock is TRL's SFTTrainer with its own collator over
transformers' Llava, all of whose frozen weights are bfloat16, which TRL leaves to its user and is the faster choice.

`stage1` and `lora` are samples per second / stock's, above 1 we are faster; MFU is of the measured peak of a matrix
product. Without a GPU the full size is refused; `--size tiny` runs every line in a minute, and means nothing.
"""

import gc
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.training_arms import make_rows, ours, read_tokenizer, stock, texts
from llava_mistral.evaluation.results import versions
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.strict_json import write_json

RESULTS = Path(__file__).parent / "results" / "train_gpu.json"
SIZES = {
    "7b": {
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
        "side": (336, 14),
        "text": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
        "kv_heads": 8,
        "batch": {"pretrain": (8, 8), "finetune": (4, 8)},  # micro-batch, accumulation: those of the recipes
    },
    "tiny": {
        "vision": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2},
        "side": (32, 8),
        "text": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        "kv_heads": 2,
        "batch": {"pretrain": (2, 2), "finetune": (2, 2)},
    },
}
WARM_UP = 2  # optimizer steps that are not counted: kernels are chosen, memory is taken


def main() -> int | None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="7b", help="tiny: a rehearsal, on a CPU too")
    parser.add_argument("--scienceqa", type=Path, help="folder with problems_head.json and captions.json")
    parser.add_argument("--tokenizer", type=Path, help="folder with Mistral's tokenizer.model")
    parser.add_argument("--quick", action="store_true", help="3 counted steps instead of 10")
    parser.add_argument("--output", type=Path, help="where the figures go (default for 7b: benchmarks/results)")
    options = parser.parse_args()
    import torch

    if options.size == "7b":
        if not torch.cuda.is_available():
            raise BadInput("there is no GPU, so nothing is measured", remedy="run it where there is one")
        if not (options.scienceqa and options.tokenizer):
            raise BadInput("the real lengths are not given", remedy="give --scienceqa FOLDER and --tokenizer FOLDER")
    result = measure(options)
    if output := options.output or (RESULTS if options.size == "7b" else None):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, result)
    names = ("stage1", "lora", "stage1_mfu", "lora_mfu", "stage1_peak_memory_gb", "lora_peak_memory_gb")
    print("RESULT " + json.dumps({name: result[name] for name in names}))
    return 0


def measure(options) -> dict:
    """Return ratios, medians, memory, and what they were measured on."""
    import torch

    from llava_mistral.training.machine import hardware
    from llava_mistral.training.throughput import measured_peak

    size, steps = SIZES[options.size], 3 if options.quick or options.size == "tiny" else 10
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = measured_peak(device, size=8192 if options.size == "7b" else 64)
    tokenizer = read_tokenizer(options.tokenizer)
    runs = {}
    for name, stage in (("stage1", "pretrain"), ("lora", "finetune")):
        count = size["batch"][stage][0] * size["batch"][stage][1] * (WARM_UP + steps)
        rows = make_rows(stage, texts(options.scienceqa, stage), count, size["side"][0])
        for arm in (ours, stock):
            runs[f"{name}_{arm.__name__}"] = figures = run(arm, stage, size, tokenizer, rows, steps, device, peak)
            print(f"{name}, {arm.__name__}: {figures}", flush=True)
    results = {}
    for name in ("stage1", "lora"):
        own, other = runs[f"{name}_ours"], runs[f"{name}_stock"]
        results[name] = round(own["samples_per_second"] / other["samples_per_second"], 3)
        results |= {f"{name}_{key}": own[key] for key in ("mfu", "tokens_per_second", "peak_memory_gb")}
    return {
        **results,
        "runs": runs,
        "measured_peak_flops": peak,
        "size": options.size,
        "steps": steps,
        "batch": size["batch"],
        "hardware": hardware(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **versions("torch", "transformers", "trl", "peft")},
    }


def run(arm, stage: str, size: dict, tokenizer, rows, steps: int, device, peak: float) -> dict:
    """Train one arm and return the medians over its counted steps, and the most memory it took."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        trainer = arm(stage, size, tokenizer, rows, config_of(stage, size, steps, folder, device), device, peak)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # a model of random numbers takes more to make than to train
        trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row][WARM_UP:]
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    del trainer
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    keys = ("samples_per_second", "tokens_per_second", "mfu")
    medians = {key: float(f"{statistics.median(row[key] for row in logged):.4g}") for key in keys}
    return {**medians, "peak_memory_gb": memory, "first_loss": logged[0]["loss"], "steps": len(logged)}


def config_of(stage: str, size: dict, steps: int, folder: str, device):
    """The recipe's SFTConfig, for a few steps and without a trace on the disk."""
    from trl import SFTConfig

    batch, accumulation = size["batch"][stage]
    return SFTConfig(
        output_dir=folder,
        max_steps=WARM_UP + steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3 if stage == "pretrain" else 2e-5,
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=True,
        dataloader_num_workers=min(4, os.cpu_count() or 1) if device.type == "cuda" else 0,
        max_length=None,
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    run_verb(main)
