"""The loss of a full stage 2 with `--trained_dtype bfloat16` beside that of float32, step by step.

    python benchmarks/bfloat16_training.py --model outputs/miniature/stage1 --dataset outputs/miniature/digitsqa-pruned

Three runs of `train` from one checkpoint, on the same samples in the same order: float32 weights with torch's AdamW;
bfloat16 weights with torchao's AdamW of 8 bits and stochastic rounding; and bfloat16 weights rounded to the nearest,
which `train` refuses. At this learning rate a step is less than half a unit in the last place of a usual weight, as it
is at 7B, so that the last loses what it learns. A gap is the difference of a run's loss to that of float32, as means
over a tenth of the steps, in shares of what float32 takes off the loss. It needs `pip install '.[eight_bit]'`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.result_files import result_file
from llava_mistral.evaluation.results import versions
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.strict_json import write_json

COMMON = """--stage finetune --num_train_epochs 1000 --bf16 True --lr_scheduler_type constant --weight_decay 0
    --per_device_train_batch_size 16 --gradient_accumulation_steps 1 --logging_steps 1 --save_strategy no
    --report_to none --chat_template mistral_instruct --vision_cache off --use_cpu True"""
SMALL = "--trained_dtype bfloat16 --optim adamw_torch_8bit --optim_args bf16_stochastic_round=True"
# The verb without its check, and the optimizer without its stochastic rounding.
NEAREST = """
import sys
from llava_mistral.training import recipe_checks
recipe_checks._check_trained_dtype = lambda recipe: None
sys.argv[0] = "llava-mistral train"
from llava_mistral.commands.train import main
sys.exit(main())
"""
ARMS = {
    "float32": (["-m", "llava_mistral", "train"], "--optim adamw_torch"),
    "stochastic": (["-m", "llava_mistral", "train"], SMALL),
    "nearest": (["-c", NEAREST], SMALL.replace("True", "False")),
}
PARTS = 10


def main() -> int | None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint to start from")
    parser.add_argument("--dataset", required=True, help="rows of stage 2")
    parser.add_argument("--steps", type=int, default=500, help="a multiple of 10 (default 500)")
    parser.add_argument("--learning_rate", default="2e-5", help="of the text model and the projector (default 2e-5)")
    parser.add_argument("--output", type=Path, help="JSON (default benchmarks/results/bfloat16_training.json)")
    options = parser.parse_args()
    if options.steps < PARTS or options.steps % PARTS:
        parser.error(f"--steps {options.steps} cannot be parted into tenths; give a multiple of 10")
    result = measure(options)
    write_json(options.output or result_file("bfloat16_training.json", False), result)
    print("RESULT " + json.dumps({arm: result[arm]["largest_gap"] for arm in ("stochastic", "nearest")}))


def measure(options: argparse.Namespace) -> dict:
    """Return losses by tenths of the steps, and gaps."""
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        curves = {arm: losses(arm, options, Path(scratch) / arm) for arm in ARMS}
    length = options.steps // PARTS
    means = {
        arm: [fmean(curve[i : i + length]) for i in range(0, options.steps, length)] for arm, curve in curves.items()
    }
    base = means.pop("float32")
    taken = curves["float32"][0] - base[-1]
    gaps = {
        arm: [round((ours - theirs) / taken, 4) for ours, theirs in zip(mean, base, strict=True)]
        for arm, mean in means.items()
    }
    return {
        "float32": {"losses": [round(loss, 4) for loss in base], "first": curves["float32"][0]},
        **{
            arm: {
                "losses": [round(loss, 4) for loss in means[arm]],
                "gaps": gaps[arm],
                "largest_gap": max(map(abs, gaps[arm])),
            }
            for arm in means
        },
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **versions("torch", "torchao", "transformers", "trl")},
    }


def losses(arm: str, options: argparse.Namespace, output: Path) -> list[float]:
    """Train; return the loss of each step."""
    start, flags = ARMS[arm]
    given = ["--model_name_or_path", options.model, "--dataset", options.dataset, "--output_dir", output]
    given += ["--max_steps", options.steps, "--learning_rate", options.learning_rate, *COMMON.split(), *flags.split()]
    print(f"{arm}: {options.steps} steps", flush=True)
    subprocess.run([sys.executable, *start, *map(str, given)], check=True, env=os.environ)
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in record["loss_curve"]]


if __name__ == "__main__":
    sys.exit(run_verb(main))
