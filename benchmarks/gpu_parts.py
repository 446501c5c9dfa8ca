"""What `make gpu` has to show beside training's speed, each by its name; right or wrong on small models.

    python benchmarks/gpu_parts.py resume cache --size tiny

Each ends in a line `RESULT {json}`; one that finds something wrong raises. Where a library is absent it says so.
"""

import importlib.util
import json
import math
import sys
import tempfile
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_speeds import attention, environment, evaluation, selection, tower
from benchmarks.train_gpu import SIZES
from benchmarks.training_arms import make_processor, model_config, random_model, read_tokenizer
from llava_mistral.ground.command_line import VerbParser, run_verb
from tests.support.training_runs import INSTRUCT, LORA, interrupt, train

# At 7B's widths of a head, so that a GPU takes the kernels that it would take there.
SMALL = {
    "vision": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2},
    "side": (112, 14),
    "text": {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8},
    "kv_heads": 2,
}
# 2 x 8 samples are seen twice, in eight steps; equal bits on a GPU need the last flag (docs/training/saving.md).
FLAGS = {"bf16": "True", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "learning_rate": "1e-3"}
FLAGS |= {**INSTRUCT, "vision_cache": "off", "full_determinism": "True"}


class Bench:
    """A checkpoint of random weights and rows with pictures, in a folder, and training runs over them."""

    def __init__(self, folder: Path, size: str):
        import torch

        self.folder, self.size, self.cuda = folder, size, torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")

    @cached_property
    def stage0(self) -> Path:
        from modeling_llava_mistral import LlavaMistralForConditionalGeneration
        from processing import LlavaMistralProcessor

        folder, tokenizer = self.folder / "stage0", read_tokenizer(None)
        shapes = SIZES["tiny"] if self.size == "tiny" else SMALL
        model = random_model(LlavaMistralForConditionalGeneration, model_config(shapes, tokenizer), self.device)
        model.save_pretrained(folder)
        make_processor(LlavaMistralProcessor, shapes, tokenizer, "lora").save_pretrained(folder)
        return folder

    @cached_property
    def rows(self) -> Path:
        from tests.support.tiny_components import save_rows

        return save_rows(self.folder / "rows")

    def train(self, name: str, cpu: bool = False, code: int = 0, **flags) -> Path:
        """Stage 2 into the folder `name`, on the GPU where there is one."""
        flags = FLAGS | {"use_cpu": str(cpu or not self.cuda)} | flags
        train("finetune", self.stage0, self.rows, self.folder / name, code, **flags)
        return self.folder / name


def losses(folder: Path) -> list[float]:
    return [loss for _, loss in json.loads((folder / "run.json").read_text(encoding="utf-8"))["loss_curve"]]


def same_run(one: Path, other: Path) -> dict:
    """Two runs of which every loss and every weight must be the same bits.

    Raises:
        AssertionError: they are not.
    """
    from safetensors.torch import load_file

    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    apart = [name for name, weight in first.items() if not weight.equal(second[name])]
    if apart or losses(one) != losses(other):
        raise AssertionError(f"{len(apart)} of {len(first)} weights differ; losses {losses(one)}, {losses(other)}")
    return {"equal": True, "weights": len(first), "losses": losses(one)}


def near(found: list[float], expected: list[float], bound: float) -> dict:
    """Loss curves that must agree to `bound`, as shares.

    Raises:
        AssertionError: they do not.
    """
    gaps = [abs(one - other) / other for one, other in zip(found, expected, strict=True)]
    if not all(map(math.isfinite, found)) or max(gaps) > bound:
        raise AssertionError(f"losses {found} are not within {bound:.0%} of {expected}")
    return {"losses": found, "expected": expected, "largest_gap": max(gaps), "bound": bound}


def resume(bench: Bench) -> dict:
    """A run that is cut off at a checkpoint goes on to the same bits."""
    schedule = {"save_strategy": "steps", "save_steps": 3}
    whole = bench.train("whole", **schedule)
    with mock.patch("transformers.TrainerCallback.on_save", interrupt):
        bench.train("cut", code=130, **schedule)
    return same_run(whole, bench.train("cut", **schedule))


def cache(bench: Bench) -> dict:
    """Stored features of pictures give the bits of a run that reads them again."""
    return same_run(bench.train("read"), bench.train("stored", vision_cache=bench.folder / "cache"))


def lora(bench: Bench) -> dict:
    """LoRA in bfloat16 on this device follows float32 on the CPU."""
    device = losses(bench.train("lora", **LORA, lora_dropout=0))
    return near(device, losses(bench.train("float32", cpu=True, **LORA, lora_dropout=0, bf16="False")), 0.05)


def qlora(bench: Bench) -> dict:
    """LoRA over 4-bit weights learns, from a loss that is near that of the whole weights."""
    if not bench.cuda or importlib.util.find_spec("bitsandbytes") is None:
        return {"left_out": "4-bit weights need a GPU and bitsandbytes: pip install '.[qlora]'"}
    found = losses(bench.train("qlora", **LORA, lora_dropout=0, load_in_4bit="True"))
    return near(found, losses(bench.train("lora", **LORA, lora_dropout=0)), 0.25)


def full_bfloat16(bench: Bench) -> dict:
    """Weights and gradients in bfloat16, AdamW in 8 bits with stochastic rounding: near float32."""
    if importlib.util.find_spec("torchao") is None:
        return {"left_out": "it needs torchao: pip install '.[eight_bit]'"}
    found = losses(bench.train("small", trained_dtype="bfloat16", full_determinism="False"))
    return near(found, losses(bench.train("whole")), 0.05)


def generation(bench: Bench) -> dict:
    """Answers to pictures, token for token those of the CPU in float32, and in bfloat16 logits near them."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(bench.stage0, dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(bench.stage0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    answers, logits = {}, {}
    for device, dtype in (("cpu", torch.float32), (bench.device, torch.float32), (bench.device, torch.bfloat16)):
        model.to(device, dtype)
        for index, colour in enumerate(("red", "blue", "grey")):
            content = [{"type": "image", "image": Image.new("RGB", (64, 48), colour)}, {"type": "text", "text": "Hi?"}]
            chat = [{"role": "user", "content": content}]
            inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
            inputs = inputs.to(device, dtype)
            with torch.inference_mode():
                logits.setdefault(dtype, []).append(model(**inputs).logits.float().cpu())
                ids = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
            answers.setdefault((index, dtype), []).append(ids.tolist())
    exact = [found for (_, dtype), found in answers.items() if dtype == torch.float32]
    if any(one != other for one, other in exact):
        raise AssertionError(f"answers differ from the CPU's: {exact}")
    wide, narrow = torch.cat(logits[torch.float32][:3], 1), torch.cat(logits[torch.bfloat16], 1)
    error = float((narrow - wide).norm() / wide.norm())
    if error > 0.05:
        raise AssertionError(f"logits in bfloat16 are off by {error:.1%}")
    return {"equal": True, "answers": len(exact), "bfloat16_error": error}


def compiled(bench: Bench) -> dict:
    """Compiled layers give the losses of those that are not, in at most three graphs and with none broken."""
    from torch._dynamo.utils import counters

    from tests.support.varlen_kernels import varlen_on_cpu

    backend = {} if bench.cuda else {"torch_compile_backend": "aot_eager"}
    flags = {"full_determinism": "False"}
    with nullcontext() if bench.cuda else varlen_on_cpu():
        plain = losses(bench.train("plain", **flags))
        counters.clear()
        found = near(losses(bench.train("compiled", torch_compile="True", **backend, **flags)), plain, 0.02)
    breaks, graphs = dict(counters["graph_break"]), counters["stats"]["unique_graphs"]
    if breaks or graphs > 3:
        raise AssertionError(f"{graphs} graphs, broken at {breaks}")
    return found | {"graphs": graphs}


RIGHT = (attention, resume, cache, lora, qlora, full_bfloat16, generation, compiled)
PARTS = {part.__name__: part for part in (environment, *RIGHT, tower, evaluation, selection)}


def main() -> None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="+", choices=PARTS)
    parser.add_argument("--size", choices=["7b", "tiny"], default="7b", help="tiny: a rehearsal, on a CPU too")
    options = parser.parse_args()
    for name in options.part:
        with tempfile.TemporaryDirectory() as folder:
            print("RESULT " + json.dumps(PARTS[name](Bench(Path(folder), options.size))), flush=True)


if __name__ == "__main__":
    run_verb(main)
