"""Parts of `make gpu` that measure the device, attention's kernel, the tower, the evaluator and the selection."""

import time
from argparse import Namespace
from typing import Any

from benchmarks.train_gpu import SIZES
from benchmarks.training_arms import make_processor, model_config, random_model, read_tokenizer


def environment(bench: Any) -> dict:
    """What is installed, and that the device multiplies."""
    import torch

    from llava_mistral.training.machine import hardware, vendor_peak
    from llava_mistral.training.throughput import measured_peak

    return {
        "hardware": hardware(),
        "measured_peak_flops": measured_peak(bench.device, size=8192 if bench.cuda else 64),
        "vendor_peak_flops": vendor_peak(torch.cuda.get_device_name()) if bench.cuda else None,
    }


def attention(bench: Any) -> dict:
    """Packed rows give the outputs and the gradients of the samples one by one, in bfloat16, on this device."""
    import torch

    from llava_mistral.training.attention import per_sample_attention

    torch.manual_seed(0)
    lengths, worst = (300, 70, 190), {}
    module = Namespace(num_key_value_groups=4, is_causal=True, training=True)  # what attention asks of its caller
    for window in (None, 64):
        shapes = [(1, heads, sum(lengths), 64) for heads in (8, 2, 2)]
        states = [torch.randn(*shape, device=bench.device, dtype=torch.bfloat16).requires_grad_() for shape in shapes]
        borders = torch.tensor([0, *lengths], device=bench.device).cumsum(0).to(torch.int32)
        names = {"cu_seq_lens_q": borders, "max_length_q": max(lengths), "sliding_window": window}
        output, _ = per_sample_attention(module, *states, None, **names)
        actual = torch.autograd.grad(output.float().square().sum(), states)
        exact = [one.detach().float().requires_grad_() for one in states]
        expected, _ = per_sample_attention(module, *exact, None, **names)
        exact_gradients = torch.autograd.grad(expected.square().sum(), exact)
        pairs = [(output, expected), *zip(actual, exact_gradients, strict=True)]
        errors = [float((one.float() - other).detach().norm() / other.detach().norm()) for one, other in pairs]
        worst[f"window {window}"] = dict(zip(("output", "query", "key", "value"), errors, strict=True))
        if max(errors) > 0.02:
            raise AssertionError(f"attention of packed rows is off by {errors}")
    return {"kernel": bench.cuda, "relative_errors": worst}


def tower(bench: Any) -> dict:
    """Pictures per second that the tower reads one by one and in batches, and whether bits depend on the slot."""
    import torch
    from transformers import MODEL_MAPPING

    from llava_mistral.training.tower_slots import select_features, slots_are_alike

    config = model_config(SIZES[bench.size], read_tokenizer(None))
    one = random_model(lambda shapes: MODEL_MAPPING[type(shapes)](shapes), config.vision_config, bench.device).eval()
    pictures = torch.randn(64 if bench.cuda else 8, 3, *[config.vision_config.image_size] * 2, device=bench.device)
    rates, alike = {}, {}
    with torch.no_grad(), torch.autocast(bench.device.type, torch.bfloat16):
        for size in (1, 4, 8, 16, 64)[: 5 if bench.cuda else 2]:
            seconds = []
            for _ in range(4):
                begun = time.perf_counter()
                for part in pictures.split(size):
                    select_features(one, part, config)
                if bench.cuda:
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - begun)
            rates[size] = len(pictures) / min(seconds[1:])
            alike[size] = slots_are_alike(one, config, size)
    return {"pictures_per_second": rates, "slots_are_alike": alike}


def evaluation(bench: Any) -> dict:
    """Questions per second of the evaluator, batched and one by one, with the same answers."""
    import torch

    from benchmarks.evaluation import measure
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    shapes, tokenizer = SIZES[bench.size], read_tokenizer(None)
    model = random_model(LlavaMistralForConditionalGeneration, model_config(shapes, tokenizer), bench.device)
    model.to(torch.bfloat16 if bench.cuda else torch.float32).save_pretrained(bench.folder / "asked")
    make_processor(LlavaMistralProcessor, shapes, tokenizer, "full").save_pretrained(bench.folder / "asked")
    del model
    if bench.cuda:
        torch.cuda.empty_cache()
    given = {"model": str(bench.folder / "asked"), "dataset": None, "quick": True, "batch_size": 32}
    found = measure(Namespace(**given, max_new_tokens=8), bench.folder)
    return {name: found[name] for name in ("questions_per_second", "speedup", "speedup_likelihood", "same_answers")}


def selection(bench: Any) -> dict:
    """Farthest-first selection against the plain greedy, with the same picks."""
    from benchmarks.selection import against_plain

    sizes = (12_726, 1024, "float32", 1000) if bench.size == "7b" else (600, 32, "float32", 20)
    return against_plain(bench.folder, *sizes, repeats=1, seed=1)
