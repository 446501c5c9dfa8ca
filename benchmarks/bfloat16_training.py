"""The loss of a full stage 2 with `--trained_dtype bfloat16` beside that of float32, step by step.

    python benchmarks/bfloat16_training.py --model outputs/miniature/stage1 --dataset outputs/miniature/digitsqa-pruned

Three runs of `train` from one checkpoint, on the same samples in the same order: float32 weights with torch's AdamW;
bfloat16 weights with torchao's AdamW of 8 bits and stochastic rounding; and bfloat16 weights rounded to the nearest,
which `train` refuses. At this learning rate a step is less than half a unit in the last place of a usual weight, as it
is at 7B, so that the last loses what it learns. Losses are means over a tenth of the steps; a gap is the difference to
float32's in shares of what float32 takes off from the first tenth to the last. The runs go on at the same time, since
none is timed. It needs `pip install '.[eight_bit]'`. The figures are put into docs/training/plan.md.
"""

import argparse
import json
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
    --per_device_train_batch_size 4 --gradient_accumulation_steps 1 --logging_steps 1 --save_strategy no
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
PAGE = Path(__file__).parents[1] / "docs" / "training" / "plan.md"
BEGIN, END = "<!-- bfloat16:begin -->", "<!-- bfloat16:end -->"


def main() -> int | None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint to start from")
    parser.add_argument("--dataset", required=True, help="rows of stage 2")
    parser.add_argument("--steps", type=int, default=500, help="a multiple of 10 (default 500)")
    parser.add_argument("--learning_rate", default="5e-5", help="of the text model and the projector (default 5e-5)")
    parser.add_argument("--output", type=Path, help="JSON (default benchmarks/results/bfloat16_training.json)")
    options = parser.parse_args()
    if options.steps < PARTS or options.steps % PARTS:
        parser.error(f"--steps {options.steps} cannot be parted into tenths; give a multiple of 10")
    result = measure(options)
    write_json(options.output or result_file("bfloat16_training.json", False), result)
    if not options.output:
        PAGE.write_text(put_into(PAGE.read_text(encoding="utf-8"), as_markdown(result)), encoding="utf-8")
    print("RESULT " + json.dumps({arm: result[arm]["largest_gap"] for arm in ("stochastic", "nearest")}))


def measure(options: argparse.Namespace) -> dict:
    """Return losses by tenths of the steps, and gaps."""
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        runs = {arm: start(arm, options, Path(scratch) / arm) for arm in ARMS}
        try:
            curves = {arm: losses(run, Path(scratch) / arm) for arm, run in runs.items()}
        finally:
            for run in runs.values():
                run.kill()
    length = options.steps // PARTS
    means = {
        arm: [fmean(curve[i : i + length]) for i in range(0, options.steps, length)] for arm, curve in curves.items()
    }
    base = means.pop("float32")
    taken = base[0] - base[-1]
    gaps = {
        arm: [round((ours - theirs) / taken, 4) for ours, theirs in zip(mean, base, strict=True)]
        for arm, mean in means.items()
    }
    return {
        "float32": {"losses": [round(loss, 4) for loss in base]},
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


def start(arm: str, options: argparse.Namespace, output: Path) -> subprocess.Popen:
    """Begin to train."""
    command, flags = ARMS[arm]
    given = ["--model_name_or_path", options.model, "--dataset", options.dataset, "--output_dir", output]
    given += ["--max_steps", options.steps, "--learning_rate", options.learning_rate, *COMMON.split(), *flags.split()]
    return subprocess.Popen([sys.executable, *command, *map(str, given)], start_new_session=True)


def losses(run: subprocess.Popen, output: Path) -> list[float]:
    """The loss of each step."""
    if code := run.wait():
        raise subprocess.CalledProcessError(code, run.args)
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    return [loss for _, loss in record["loss_curve"]]


def as_markdown(result: dict) -> str:
    """The section's figures: what the plan counts at 7B, and the losses."""
    base, small, nearest = (result[arm] for arm in ("float32", "stochastic", "nearest"))
    tenths = [1, 2, 4, 7, PARTS]
    lines = [
        "| trained as | weights | gradients | AdamW | peak | 80 GB |",
        "|---|---|---|---|---|---|",
        *planned(),
        "",
    ]
    lines += [f"| loss, mean over a tenth of {result['steps']} steps | {' | '.join(f'tenth {n}' for n in tenths)} |"]
    lines += ["|---|" + "---|" * len(tenths)]
    names = {"float32": base, "bfloat16, stochastic rounding, 8-bit AdamW": small}
    names["bfloat16, rounded to the nearest, 8-bit AdamW (refused)"] = nearest
    for name, arm in names.items():
        lines.append(f"| {name} | {' | '.join(format(arm['losses'][n - 1], '.4f') for n in tenths)} |")
    lines += [
        "",
        f"The largest gap to float32 in any tenth is {small['largest_gap']:.1%} of what float32 takes off the",
    ]
    lines[-1] += f" loss, and {nearest['largest_gap']:.0%} where weights are rounded to the nearest"
    lines[-1] += f" (torchao {result['versions']['torchao']}, a CPU)."
    return "\n".join(lines)


def planned() -> list[str]:
    """Full fine-tuning of Mistral-7B by the plan: a step of 32 questions in one row, layers computed again."""
    from types import SimpleNamespace

    from benchmarks.train_gpu import SIZES
    from benchmarks.training_arms import model_config
    from llava_mistral.training.plan.gpus import GPUS
    from llava_mistral.training.plan.memory import memory_of
    from llava_mistral.training.plan.printed import decide
    from llava_mistral.training.plan.workload import Run, Sample, largest_batch

    class Tokenizer(SimpleNamespace):
        def __len__(self):
            return 32002

    config = model_config(SIZES["7b"], Tokenizer(convert_tokens_to_ids=lambda token: 32000))
    samples, lines = [Sample(700, 3, 576, 1), Sample(250, 3, 0, 0)] * 16, []
    for name, optim, small in (
        ("float32, `adamw_torch_fused`", "adamw_torch_fused", False),
        ("float32, `adamw_torch_8bit`", "adamw_torch_8bit", False),
        ("bfloat16, `adamw_torch_8bit`", "adamw_torch_8bit", True),
    ):
        run = Run("finetune", 32, 1, 15.0, 0, optim, True, True, packed=True, small_frozen=True, small_trained=small)
        memory = memory_of(config, run, largest_batch(samples, run))
        best = decide(config, run, samples, GPUS["H100"], ())
        again = "computed again" if best.checkpointing else "kept"
        fits = f"fits; decided: layers {again}, {best.accumulation} x {best.batch} samples"
        fits = fits if memory.peak <= GPUS["H100"].memory else "does not fit"
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.peak)
        lines.append(f"| {name} | {' | '.join(f'{part / 1e9:.0f} GB' for part in parts)} | {fits} |")
    return lines


def put_into(page: str, text: str) -> str:
    """The page with `text` between its markers."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    sys.exit(run_verb(main))
