"""The first hour on a GPU in one command, part by part; each result is kept as soon as it is there.

    python benchmarks/gpu_hour.py --scienceqa FOLDER --tokenizer FOLDER
    python benchmarks/gpu_hour.py --part 2
    python benchmarks/gpu_hour.py --size tiny --output outputs/gpu

A part that has a result is not run again; one that fails leaves its traceback as its result, is run again the next
time, and the parts after it are run. `--size tiny` runs on a CPU, in the tests, too.
"""

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from llava_mistral.evaluation.results import versions
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.strict_json import write_json

HOME = Path(__file__).parents[1]
RESULTS = HOME / "benchmarks" / "results" / "gpu"


def environment(options) -> dict:
    """What is installed, and that the GPU multiplies."""
    import torch

    from llava_mistral.training.machine import hardware, vendor_peak
    from llava_mistral.training.throughput import measured_peak

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    reached = measured_peak(device, size=8192 if cuda else 64)
    return {
        "hardware": hardware(),
        "measured_peak_flops": reached,
        "vendor_peak_flops": vendor_peak(torch.cuda.get_device_name()) if cuda else None,
    }


def correctness(options) -> dict:
    """Packed rows give the loss and the gradients of the samples one by one, in bfloat16, on this device."""
    import torch

    from llava_mistral.training import attention

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lengths, worst = (300, 70, 190), {}
    for window in (None, 64):
        shapes = [(1, heads, sum(lengths), 64) for heads in (8, 2, 2)]
        states = [torch.randn(*shape, device=device, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
        borders = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
        names = {"cu_seq_lens_q": borders, "max_length_q": max(lengths), "sliding_window": window}
        output, _ = attention.per_sample_attention(Grouped(), *states, None, **names)
        actual = torch.autograd.grad(output.float().square().sum(), states)
        exact = [one.detach().float().requires_grad_() for one in states]
        expected, _ = attention.per_sample_attention(Grouped(), *exact, None, **names)
        exact_gradients = torch.autograd.grad(expected.square().sum(), exact)
        pairs = [(output, expected), *zip(actual, exact_gradients, strict=True)]
        errors = [float((one.float() - other).detach().norm() / other.detach().norm()) for one, other in pairs]
        worst[f"window {window}"] = dict(zip(("output", "query", "key", "value"), errors, strict=True))
        if max(errors) > 0.02:
            raise AssertionError(f"attention of packed rows is off by {errors}")
    return {"kernel": device.type == "cuda", "relative_errors": worst}


class Grouped:
    """What the library's attention asks of the module that calls it."""

    num_key_value_groups, is_causal, training = 4, True, True


def script(name: str, *words: str) -> Callable:
    """A part that is a benchmark of its own: its RESULT line."""

    def part(options) -> dict:
        arguments = [word.format(size=options.size) for word in words]
        if name == "train_gpu" and options.scienceqa:
            arguments += ["--scienceqa", str(options.scienceqa), "--tokenizer", str(options.tokenizer)]
        if name == "train_gpu":
            arguments += ["--output", str(options.output / "train_gpu_whole.json")]
        command = [sys.executable, str(HOME / "benchmarks" / f"{name}.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HOME, timeout=options.minutes * 60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return json.loads(done.stdout.rpartition("RESULT ")[2])

    return part


PARTS: dict[str, Callable] = {
    "environment": environment,
    "correctness": correctness,
    "train_gpu": script("train_gpu", "--size", "{size}", "--quick"),
    "backbones_gpu": script("backbones_gpu", "--size", "{size}", "--rounds", "3"),
}


def main() -> int:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["7b", "tiny"], default="7b", help="tiny: a rehearsal, on a CPU too")
    parser.add_argument("--part", type=int, choices=range(1, len(PARTS) + 1), help="this one alone, from 1")
    parser.add_argument("--scienceqa", type=Path, help="folder with problems_head.json and captions.json")
    parser.add_argument("--tokenizer", type=Path, help="folder with Mistral's tokenizer.model")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=9, help="after which a part is given up")
    options = parser.parse_args()
    import torch

    if options.size == "7b" and not torch.cuda.is_available():
        raise BadInput("there is no GPU, so nothing is measured", remedy="run it where there is one")
    options.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, (name, part) in enumerate(PARTS.items(), 1):
        file = options.output / f"{number}_{name}.json"
        if options.part not in (None, number):
            continue
        if file.is_file() and "traceback" not in json.loads(file.read_text(encoding="utf-8")):
            print(f"{name}: has run, {file}", flush=True)
            continue
        failed += not one(name, part, options, file)
    return 1 if failed else 0


def one(name: str, part: Callable, options, file: Path) -> bool:
    """Run a part and write what came of it; whether it went well."""
    begun, result = time.time(), {}
    try:
        result = {"result": part(options)}
    except Exception:  # whatever it was, the other parts may still say something
        result = {"traceback": traceback.format_exc()}
    result |= {"part": name, "size": options.size, "seconds": round(time.time() - begun, 1), **made_with()}
    write_json(file, result)
    print(f"{name}: {'failed' if 'traceback' in result else 'done'}, {file}", flush=True)
    return "traceback" not in result


def made_with() -> dict:
    """Device, versions and commit."""
    import torch

    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HOME)
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **versions("torch", "transformers", "trl", "peft")},
        "commit": git.stdout.strip() or None,
    }


if __name__ == "__main__":
    run_verb(main)
