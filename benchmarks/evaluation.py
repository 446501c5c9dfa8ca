"""Questions per second of the evaluator against one-by-one `generate`, on the same checkpoint, with the same answers.

    python benchmarks/evaluation.py --quick
    python benchmarks/evaluation.py --model checkpoints/finetune --dataset ScienceQA

Without a checkpoint a tiny one of random weights is used, without a data set questions about pictures of noise.
"""

import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.result_files import result_file
from llava_mistral.evaluation.results import versions
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.strict_json import write_json


def main() -> int | None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a checkpoint folder or a Hub id")
    parser.add_argument("--dataset", help="a ScienceQA folder, a `datasets` folder or a Hub id")
    parser.add_argument("--quick", action="store_true", help="fewer questions and rounds, under a minute")
    parser.add_argument("--batch_size", type=int, default=32, help="questions in a batch")
    parser.add_argument("--max_new_tokens", type=int, default=16, help="longest answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, Path(scratch))
    write_json(result_file("evaluation.json", options.quick), result)
    print("RESULT " + json.dumps({"speedup": round(result["speedup"], 2)}))
    return 0 if result["same_answers"] else 1


def measure(options, scratch: Path) -> dict:
    """Return the medians of both ways to ask, their ratio, and whether every answer was the same."""
    import torch

    from llava_mistral.data.scienceqa import read_problems
    from llava_mistral.evaluation.asking import Checkpoint
    from llava_mistral.evaluation.journal import AnswerSettings
    from llava_mistral.evaluation.prediction import batch_answers

    count, rounds = (96, 2) if options.quick else (480, 5)
    name = options.model or str(tiny_checkpoint(scratch / "tiny"))
    problems = read_problems(options.dataset, split="test")[:count] if options.dataset else noise_problems(count)
    checkpoint = Checkpoint(name)
    settings = AnswerSettings(max_new_tokens=options.max_new_tokens, batch_size=options.batch_size)
    likelihood = AnswerSettings(scoring="likelihood", batch_size=options.batch_size)

    def batched(settings: AnswerSettings) -> dict[str, str | None]:
        return {
            answer.pid: answer.output for batch in batch_answers(checkpoint, problems, settings) for answer in batch
        }

    one_by_one(checkpoint, problems[:2], options.max_new_tokens)
    ways = {
        "one_by_one": lambda: one_by_one(checkpoint, problems, options.max_new_tokens),
        "batched": lambda: batched(settings),
        "likelihood": lambda: batched(likelihood),
    }
    seconds, answers = time_ways(ways, rounds)
    speed = {way: len(problems) / statistics.median(times) for way, times in seconds.items()}
    return {
        "questions": len(problems),
        "rounds": rounds,
        "questions_per_second": speed,
        "speedup": speed["batched"] / speed["one_by_one"],
        "speedup_likelihood": speed["likelihood"] / speed["one_by_one"],
        "same_answers": answers["one_by_one"] == answers["batched"],
        "batch_size": options.batch_size,
        "max_new_tokens": options.max_new_tokens,
        "model": options.model or "tests/tiny_llava.py",
        "device": checkpoint.device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": versions("torch", "transformers"),
    }


def time_ways(ways: dict[str, Callable[[], dict]], rounds: int) -> tuple[dict[str, list[float]], dict[str, dict]]:
    """Run the ways in turn, so that a machine that slows down slows all of them; return seconds and last answers."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    answers = {}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            answers[way] = run()
            seconds[way].append(time.perf_counter() - start)
    return seconds, answers


def one_by_one(checkpoint, problems, max_new_tokens: int) -> dict[str, str]:
    """Return the answers of the library's own loop: template, tensors, `generate`, a question at a time."""
    import torch

    from llava_mistral.evaluation.asking import pictures_of

    answers = {}
    for problem in problems:
        images = pictures_of(problem, "real") or None
        inputs = checkpoint.processor(
            text=checkpoint.prompt(problem), images=images, add_special_tokens=False, return_tensors="pt"
        ).to(checkpoint.device, checkpoint.model.dtype)
        pad = checkpoint.processor.tokenizer.pad_token_id
        with torch.inference_mode():
            ids = checkpoint.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=pad)
        written = ids[0, inputs["input_ids"].shape[1] :]
        answers[problem.pid] = checkpoint.processor.decode(written, skip_special_tokens=True).strip()
    return answers


def tiny_checkpoint(folder: Path) -> Path:
    from tests.support.tiny_llava import save_tiny_llava

    return save_tiny_llava(folder)


def noise_problems(count: int) -> list:
    """Return questions of 10 to 60 words, half of them with a picture of noise."""
    from PIL import Image

    from llava_mistral.data.scienceqa import Problem
    from tests.support.tiny_llava import WORDS

    rng, problems = random.Random(0), []
    for index in range(count):
        words = " ".join(rng.choice(WORDS.split()) for _ in range(rng.randint(10, 60)))
        image = Image.frombytes("L", (16, 16), rng.randbytes(256)).convert("RGB") if index % 2 else None
        choices = ("one", "two", "three", "four")
        problems.append(Problem(str(index), words, choices, 0, hint="", image=image, has_image=index % 2 == 1))
    return problems


if __name__ == "__main__":
    run_verb(main)
