"""Training speed, MFU and peak memory on a GPU of stage 1, LoRA and full fine-tuning, against TRL with stock Llava.

    python benchmarks/train_gpu.py --scienceqa ../shared/scienceqa --tokenizer ../shared/mistral_tokenizer
    python benchmarks/train_gpu.py --kind lora --size tiny --output outputs/train_gpu.json

All arms have Mistral-7B's and CLIP-L/336's shapes with random weights that are made on the device, bfloat16 autocast
and the same rows in the same optimizer steps; pictures are noise, lengths are those of the real questions and
captions. `ours` is what `llava-mistral train` builds where the recipe leaves row length and checkpointing to the plan.
`ours_equal` has stock's micro-batches, sample for sample as many, and its checkpointing. Stock is TRL's SFTTrainer
with its own collator over transformers' Llava, all of whose frozen weights are bfloat16, which TRL leaves to its user
and is the faster choice: as shipped with checkpointing, and without. That micro-batches and steps are the same is
checked, and no figure is written where they are not.

Ratios are samples per second / stock's, above 1 we are faster; MFU is of the measured peak of a matrix product and of
the data sheet's. An arm that the memory does not hold says so. Without a GPU the full size is refused; `--size tiny`
runs every line in a minute, and means nothing.
"""

import gc
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
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
KINDS = {"stage1": "pretrain", "lora": "finetune", "full": "finetune"}


@dataclass(frozen=True)
class Arm:
    """One way to train; `decided`: the plan decides rows and checkpointing by the memory that is there."""

    make: object
    checkpointing: bool = True
    decided: bool = False
    bfloat16: bool = False


STOCK = {"stock_checkpointing": Arm(stock), "stock": Arm(stock, checkpointing=False)}
SOME = {"ours": Arm(ours, decided=True), "ours_equal": Arm(ours, checkpointing=False), **STOCK}
ALL = {
    "ours": Arm(ours, decided=True),
    "ours_bfloat16": Arm(ours, decided=True, bfloat16=True),
    "ours_equal": Arm(ours),
    **STOCK,
}
ARMS = {"stage1": SOME, "lora": SOME, "full": ALL}
EQUAL = {"stage1": "stock", "lora": "stock", "full": "stock_checkpointing"}  # the stock arm that `ours_equal` meets


def main() -> int | None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, help="this one alone")
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
    output = options.output or (RESULTS if options.size == "7b" else None)
    result = measure(options, output)
    print("RESULT " + json.dumps({name: value for name, value in result.items() if name.startswith(tuple(KINDS))}))
    return 0


def measure(options, output: Path | None) -> dict:
    """Return ratios, medians, memory, and what they were measured on; each arm is written as soon as it ran."""
    import torch

    from llava_mistral.training.machine import hardware, vendor_peak
    from llava_mistral.training.throughput import measured_peak

    size, steps = SIZES[options.size], 3 if options.quick or options.size == "tiny" else 10
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    product = {"size": 8192, "rounds": 500} if options.size == "7b" else {"size": 64}
    peaks = {"measured": measured_peak(device, **product)}
    peaks["data_sheet"] = vendor_peak(torch.cuda.get_device_name()) if device.type == "cuda" else None
    tokenizer, runs = read_tokenizer(options.tokenizer), {}
    result = {"runs": runs, "peak_flops": peaks, "size": options.size, "steps": steps, "batch": size["batch"]}
    result |= {"hardware": hardware(), "machine": platform.machine()}
    result["versions"] = {"python": platform.python_version(), **versions("torch", "transformers", "trl", "peft")}
    for kind in [options.kind] if options.kind else KINDS:
        stage, watched = KINDS[kind], {}
        count = size["batch"][stage][0] * size["batch"][stage][1] * (WARM_UP + steps)
        rows = make_rows(stage, texts(options.scienceqa, stage), count, size["side"][0])
        for name, arm in ARMS[kind].items():
            figures = runs[f"{kind}_{name}"] = run(arm, kind, size, tokenizer, rows, steps, device, peaks)
            watched[name] = figures.pop("watched", None)
            check_equal(kind, watched)
            print(f"{kind}, {name}: {figures}", flush=True)
            result |= ratios(kind, runs)
            if output:
                output.parent.mkdir(parents=True, exist_ok=True)
                write_json(output, result)
    return result


def ratios(kind: str, runs: dict) -> dict:
    """What is known so far of one kind; None where an arm did not fit."""

    def rate(name: str) -> float | None:
        return runs.get(f"{kind}_{name}", {}).get("samples_per_second")

    def ratio(one: str, other: str) -> float | None:
        return round(rate(one) / rate(other), 3) if rate(one) and rate(other) else None

    own = runs[f"{kind}_ours"]
    return {
        kind: ratio("ours", "stock_checkpointing"),
        f"{kind}_to_stock_without_checkpointing": ratio("ours", "stock"),
        f"{kind}_equal": ratio("ours_equal", EQUAL[kind]),
        **{f"{kind}_{key}": own.get(key) for key in ("mfu", "mfu_of_data_sheet", "tokens_per_second")},
        f"{kind}_peak_memory_gb": own.get("peak_memory_gb"),
    }


def check_equal(kind: str, watched: dict[str, dict | None]) -> None:
    """All arms of a kind saw the same pictures in each step, and the equal ones as many samples in each micro-batch.

    Raises:
        AssertionError: they did not.
    """
    seen = {name: found for name, found in watched.items() if found}
    steps = {name: found["image_tokens"] for name, found in seen.items()}
    if any(tokens != next(iter(steps.values())) for tokens in steps.values()):
        raise AssertionError(f"{kind}: the arms' steps are of other samples: {steps}")
    batches = {name: seen[name]["samples"] for name in ("ours_equal", "stock", "stock_checkpointing") if name in seen}
    if any(samples != next(iter(batches.values())) for samples in batches.values()):
        raise AssertionError(f"{kind}: the arms' micro-batches differ: {batches}")


def run(arm: Arm, kind: str, *given) -> dict:
    """Train one arm, or say why it cannot be; afterwards the device is as empty as before."""
    import torch

    if arm.bfloat16 and importlib.util.find_spec("torchao") is None:
        return {"left_out": "torchao is not installed; pip install '.[eight_bit]'"}
    try:
        return trained(arm, kind, *given)
    except (torch.OutOfMemoryError, BadInput) as error:  # the device's refusal, or the plan's
        return {"does_not_fit": str(error).splitlines()[0]}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def trained(arm: Arm, kind: str, size: dict, tokenizer, rows, steps: int, device, peaks: dict) -> dict:
    """The medians over an arm's counted steps, the most memory it took, and what it was given."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        config = config_of(kind, arm, size, steps, folder, device)
        trainer = arm.make(kind, arm, size, tokenizer, rows, config, device, peaks["measured"])
        watched = watch(trainer)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # a model of random numbers takes more to make than to train
        trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row][WARM_UP:]
    keys = ("samples_per_second", "tokens_per_second", "mfu")
    medians = {key: float(f"{statistics.median(row[key] for row in logged):.4g}") for key in keys}
    sheet, tokens = peaks["data_sheet"], torch.stack(watched["image_tokens"])
    return {
        **medians,
        "mfu_of_data_sheet": medians["mfu"] * peaks["measured"] / sheet if sheet else None,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        "first_loss": logged[0]["loss"],
        "steps": len(logged),
        "rows_of_a_step": [trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps],
        "checkpointing": trainer.args.gradient_checkpointing,
        "watched": {"samples": watched["samples"], "image_tokens": tokens.view(WARM_UP + steps, -1).sum(1).tolist()},
    }


def watch(trainer) -> dict[str, list]:
    """Note of each micro-batch how many samples it has, and how many image tokens; nothing is waited for."""
    seen, step, token = {"samples": [], "image_tokens": []}, trainer.training_step, trainer.model.config.image_token_id

    def training_step(model, inputs, *rest):
        borders = inputs.get("cu_seq_lens_q")
        seen["samples"].append(len(inputs["input_ids"]) if borders is None else len(borders) - 1)
        seen["image_tokens"].append((inputs["input_ids"] == token).sum())
        return step(model, inputs, *rest)

    trainer.training_step = training_step
    return seen


def config_of(kind: str, arm: Arm, size: dict, steps: int, folder: str, device):
    """The recipe's SFTConfig, for a few steps and without a trace on the disk."""
    from trl import SFTConfig

    batch, accumulation = size["batch"][KINDS[kind]]
    small = {"optim": "adamw_torch_8bit", "optim_args": "bf16_stochastic_round=True"}
    return SFTConfig(
        output_dir=folder,
        max_steps=WARM_UP + steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate={"stage1": 1e-3, "lora": 2e-4, "full": 2e-5}[kind],
        **(small if arm.bfloat16 else {"optim": "adamw_torch_fused"}),
        bf16=True,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=arm.checkpointing,
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
