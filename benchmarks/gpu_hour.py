"""The first hour on a GPU in one command, part by part; each result is kept as soon as it is there.

    python benchmarks/gpu_hour.py --scienceqa FOLDER --tokenizer FOLDER
    python benchmarks/gpu_hour.py --part 2
    python benchmarks/gpu_hour.py --size tiny --output outputs/gpu

A part that has a result is not run again; one that fails leaves its traceback as its result, is run again the next
time, and the parts after it are run. Each takes at most nine minutes. `--size tiny` runs on a CPU, in the tests, too.
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


def script(name: str, *words: str) -> Callable:
    """A part that is a program of its own, since a fault of CUDA ends what the process may do: its RESULT line."""

    def part(options) -> dict:
        arguments = [word.format(size=options.size) for word in words]
        if name == "train_gpu":
            arguments += ["--output", str(options.output / f"train_gpu_{words[1]}.json")]
            if options.scienceqa:
                arguments += ["--scienceqa", str(options.scienceqa), "--tokenizer", str(options.tokenizer)]
        command = [sys.executable, str(HOME / "benchmarks" / f"{name}.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HOME, timeout=options.minutes * 60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return json.loads(done.stdout.rpartition("RESULT ")[2])

    return part


def small(name: str) -> Callable:
    """A part of `gpu_parts.py`."""
    return script("gpu_parts", name, "--size", "{size}")


def trained(kind: str) -> Callable:
    """A kind of training, against stock TRL."""
    return script("train_gpu", "--kind", kind, "--size", "{size}", "--quick")


PARTS: dict[str, Callable] = {
    **{name: small(name) for name in ("environment", "attention", "resume", "cache", "lora", "qlora")},
    **{name: small(name) for name in ("full_bfloat16", "generation", "compiled")},
    **{f"train_{kind}": trained(kind) for kind in ("stage1", "lora", "full")},
    **{name: small(name) for name in ("tower", "evaluation")},
    "backbones": script("backbones_gpu", "--size", "{size}", "--rounds", "3"),
    "selection": small("selection"),
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
        if file.is_file() and has_run(json.loads(file.read_text(encoding="utf-8"))):
            print(f"{name}: has run, {file}", flush=True)
            continue
        failed += not one(name, part, options, file)
    return 1 if failed else 0


def has_run(result: dict) -> bool:
    """Neither failed, nor left out for want of a library."""
    return "traceback" not in result and "left_out" not in result["result"]


def one(name: str, part: Callable, options, file: Path) -> bool:
    """Run a part and write what came of it; whether it went well."""
    begun, result = time.time(), {}
    try:
        result = {"result": part(options)}
    except Exception:  # whatever it was, the other parts may still say something
        result = {"traceback": traceback.format_exc()}
    result |= {"part": name, "size": options.size, "seconds": round(time.time() - begun, 1), **made_with()}
    write_json(file, result)
    done = "failed" if "traceback" in result else "done" if has_run(result) else "left out"
    print(f"{name}: {done}, {file}", flush=True)
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
