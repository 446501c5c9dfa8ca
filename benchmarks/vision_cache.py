"""Time of a whole run of several epochs with the features of its pictures stored, against the same run without.

    python benchmarks/vision_cache.py --quick
    python benchmarks/vision_cache.py --epochs 15

Both runs are `training`'s own, LoRA on Mistral, and must have equal losses, bit for bit; so must a third that finds
every picture stored. The tower costs per picture about what the text model costs, as CLIP's ViT-L does not beside 7B:
`shares` has the FLOPs of a forward of either, so that the gain of other pairs can be worked out from `run`.
`run` is the time without / with an empty store, filling it included; `hit` is without / with a full one. Both are
medians over the rounds of the processor's time, which other work on the machine does not lengthen, and in which a run
without a GPU spends itself; above 1 the store is faster. `wall` has the same by the clock.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.result_files import result_file
from llava_mistral.evaluation.results import versions
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.strict_json import write_json

# A ninth of the patches of ViT-L/14-336, and a text model of the same width and depth.
VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "image_size": 128, "patch_size": 16}
TEXT = {"hidden_size": 256, "intermediate_size": 896, "num_attention_heads": 4, "num_key_value_heads": 2}
LAYERS, BATCH = 6, 8
PHOTO = (480, 360)  # pixels, as ScienceQA's are on the whole
QUESTION = "Which of these is it and why do you think so when you look at the picture"


def main() -> int | None:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pictures, epochs and rounds, under a minute")
    parser.add_argument("--epochs", type=int, help="passes over the pictures (default 5 with --quick, else 15)")
    parser.add_argument("--rounds", type=int, help="runs of each way (default 1 with --quick, else 3)")
    options = parser.parse_args()
    options.epochs = options.epochs or (5 if options.quick else 15)
    options.rounds = options.rounds or (1 if options.quick else 3)
    if options.epochs < 2 or options.rounds < 1:
        parser.error("nothing is read twice in less than two epochs and one round; give --epochs 2 or more")
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, Path(scratch))
    write_json(result_file("vision_cache.json", options.quick), result)
    print("RESULT " + json.dumps({name: result[name] for name in ("run", "hit")}))
    return 0 if result["same_losses"] else 1


def measure(options: argparse.Namespace, scratch: Path) -> dict:
    """Return ratios, medians, and what they were measured on."""
    import torch

    pictures = 24 if options.quick else 64
    rows = save_rows(scratch, pictures)
    ways = {"off": [], "filling": [], "filled": []}
    losses = set()
    train(scratch, rows, None, 1)  # what is compiled or allocated once is nobody's time
    for number in range(options.rounds):
        for way, seconds in ways.items():
            store = None if way == "off" else scratch / f"store{number}"
            curve, clocks = train(scratch, rows, store, options.epochs)
            losses.add(curve)
            seconds.append(clocks)
            print(f"{way}: {clocks[0]:.2f} s, {clocks[1]:.2f} s of the processor", flush=True)
    stored = sum(file.stat().st_size for file in (scratch / "store0").rglob("*.safetensors"))
    wall, cpu = ({way: [pair[clock] for pair in times] for way, times in ways.items()} for clock in (0, 1))
    return {
        "run": ratio(cpu["off"], cpu["filling"]),
        "hit": ratio(cpu["off"], cpu["filled"]),
        "wall": {"run": ratio(wall["off"], wall["filling"]), "hit": ratio(wall["off"], wall["filled"])},
        "same_losses": len(losses) == 1,
        "seconds": {way: statistics.median(times) for way, times in cpu.items()},
        "wall_seconds": {way: statistics.median(times) for way, times in wall.items()},
        "shares": shares(),
        "stored_mb": stored / 2**20,
        "model": {"vision": VISION, "text": TEXT, "layers": LAYERS},
        "pictures": {"count": pictures, "pixels": PHOTO, "batch": BATCH},
        "epochs": options.epochs,
        "quick": options.quick,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **versions("torch", "transformers", "trl", "safetensors")},
    }


def ratio(without: list[float], stored: list[float]) -> float:
    """The median of each round's own: a machine that slows down slows both sides of a round."""
    return round(statistics.median(theirs / ours for theirs, ours in zip(without, stored, strict=True)), 3)


def save_rows(folder: Path, count: int):
    """Rows of one question each about photographs of noise, which no two share; JPEG files, as data sets have them."""
    from PIL import Image

    from llava_mistral.data.conversations import read_rows

    records = []
    for index in range(count):
        noise = Image.effect_noise((PHOTO[0] // 8, PHOTO[1] // 8), 60 + index).resize(PHOTO).convert("RGB")
        noise.save(folder / f"{index}.jpg", quality=90)
        question = QUESTION[: 40 + index % 30]
        turns = [{"from": "human", "value": f"<image>\n{question}?"}, {"from": "gpt", "value": "ABCD"[index % 4]}]
        records.append({"id": str(index), "image": f"{index}.jpg", "conversations": turns})
    (folder / "rows.json").write_text(json.dumps(records))
    return read_rows(folder / "rows.json", image_folder=folder)


def train(scratch: Path, rows, store: Path | None, epochs: int) -> tuple[tuple, tuple]:
    """Train by LoRA from the same weights in the same order; return losses, and seconds by the clock and the CPU."""
    from trl import SFTConfig

    from llava_mistral.data.sources import undecoded
    from llava_mistral.training.loading import make_collator, prepare_model
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.trainer import StageTrainer

    model, processor = fresh()
    stage = StageArguments(
        stage="finetune",
        model_name_or_path="random",
        use_peft=True,
        lora_r=8,
        lora_alpha=16,
        packed=False,
        vision_cache=str(store or "off"),
    )
    config = SFTConfig(
        output_dir=str(scratch / "out"),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        max_length=None,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    model, _ = prepare_model(model, stage, config)
    begun = time.perf_counter(), time.process_time()  # the hash of the tower's weights is the store's to pay
    collator = make_collator(stage, config, rows, model, processor)
    trainer = StageTrainer(
        model=model,
        args=config,
        train_dataset=undecoded(rows),
        processing_class=processor,
        data_collator=collator,
    )
    trainer.train()
    seconds = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), seconds


def fresh() -> tuple:
    """Return a model of the same random weights each time, and its processor."""
    import torch
    from transformers import CLIPImageProcessorPil

    from llava_mistral.miniature.tokenizer import train_tokenizer
    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    tokenizer = train_tokenizer([QUESTION + "? A B C D [INST] [/INST]"] * 8, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    side = VISION["image_size"]
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    template = Path(__file__).parents[1] / "processing" / "chat_templates" / "mistral_instruct.jinja"
    processor = LlavaMistralProcessor(
        image_processor, tokenizer, patch_size=VISION["patch_size"], chat_template=template.read_text(encoding="utf-8")
    )
    torch.manual_seed(0)
    config = LlavaMistralConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "num_hidden_layers": LAYERS},
        text_config={"model_type": "mistral", "vocab_size": len(tokenizer), **TEXT, "num_hidden_layers": LAYERS},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return LlavaMistralForConditionalGeneration(config), processor


def shares() -> dict[str, float]:
    """FLOPs of a forward per picture: the tower's, and the text model's over the picture's tokens; by the counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, _ = fresh()
    counts = {}
    tokens = (VISION["image_size"] // VISION["patch_size"]) ** 2
    inputs = {
        "tower": lambda: model.model.vision_tower(torch.zeros(1, 3, *[VISION["image_size"]] * 2)),
        "text": lambda: model.model.language_model(torch.zeros(1, tokens, dtype=torch.long)),
    }
    for name, run in inputs.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
        counts[name] = counter.get_total_flops() / 1e9
    return {f"{name}_gflop": round(count, 3) for name, count in counts.items()}


if __name__ == "__main__":
    run_verb(main)
