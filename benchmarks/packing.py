"""Training without padding against TRL's own collator: the same model, the same questions, the same process.

    python benchmarks/packing.py --quick
    python benchmarks/packing.py --scienceqa FOLDER --tokenizer tokenizer.model

Random batches of 32 ScienceQA training questions, worded as for training, tokenized by Mistral's own tokenizer, with
576 image tokens for a picture. A step is the trainer's `training_step` on collated batches: forward, TRL's fused head,
backward. `theirs` is TRL's `DataCollatorForVisionLanguageModeling` with the library's sdpa, `ours` what the trainer
makes of the same settings: rows of at most 4,096 tokens, dealt by `StepSampler`, attention per sample. `all` and
`image` (questions with a picture) are the medians over the rounds of their seconds / ours; above 1 we are faster.
`runs` has them for 32 samples at once, which the two are of, and for 8 micro-batches of 4, as the recipes have it;
`processor_ratio` is of processor seconds, on which other work on the machine weighs less.

The model is small, for two cores must train it. Its text model has nearly all of the work, as a large one's has; the
vocabulary is folded to 2,048, for on a CPU the head is computed at every token and would be the largest part of it.
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
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.result_files import result_file
from llava_mistral.evaluation.results import versions
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.strict_json import write_json

HOME = Path(__file__).parents[1]
BATCH, VOCABULARY, IMAGE_TOKEN = 32, 2048, 2047
ROW_TOKENS = 4096
MISTRAL_IMAGE = 32001  # the id the image token gets behind Mistral's 32,000 and the padding token
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {"hidden_size": 256, "intermediate_size": 896, "num_attention_heads": 4, "num_key_value_heads": 2}
QUICK_TEXT = {"hidden_size": 64, "intermediate_size": 224, "num_attention_heads": 2, "num_key_value_heads": 1}
SHARED = HOME.parent / "shared"


def main() -> int:
    parser = VerbParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer rounds, under a minute")
    parser.add_argument(
        "--rounds", type=int, help="batches of each kind, each trained both ways (3 with --quick, else 9)"
    )
    parser.add_argument("--scienceqa", metavar="FOLDER", default=SHARED / "scienceqa", help="with problems_head.json")
    parser.add_argument("--tokenizer", metavar="FILE", default=SHARED / "mistral_tokenizer" / "tokenizer.model")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 3 if options.quick else 9
    if options.rounds < 3:
        parser.error(f"--rounds {options.rounds} is too few for a median; give 3 or more")
    for path in (Path(options.scienceqa) / "problems_head.json", Path(options.tokenizer)):
        if not path.is_file():
            parser.error(f"{path} does not exist; give --scienceqa and --tokenizer")
    result = measure(options)
    write_json(result_file("packing.json", options.quick), result)
    print("RESULT " + json.dumps({name: result[name] for name in ("all", "image")}))
    return 0


def measure(options) -> dict:
    import torch

    text = {**(QUICK_TEXT if options.quick else TEXT), "num_hidden_layers": 2}
    with tempfile.TemporaryDirectory() as folder:
        trainer, collators = prepared(options, text, folder)
        rows = training_rows(Path(options.scienceqa))
        kinds = {"all": rows, "image": [row for row in rows if row["images"]]}
        draw = random.Random(0)
        runs = {
            f"{name}, {BATCH // micro} x {micro}": compare(trainer, collators, kind, micro, options.rounds, draw)
            for micro in ((BATCH,) if options.quick else (BATCH, 4))
            for name, kind in kinds.items()
        }
    return {
        **{name: runs[f"{name}, 1 x {BATCH}"]["ratio"] for name in kinds},
        "runs": runs,
        "questions": {name: len(kind) for name, kind in kinds.items()},
        "model": {"vision": VISION, "text": text, "vocabulary": VOCABULARY, "precision": "float32"},
        "parameters": {
            "text": sum(weight.numel() for weight in trainer.model.model.language_model.parameters()),
            "vision": sum(weight.numel() for weight in trainer.model.model.vision_tower.parameters()),
        },
        "image_tokens": trainer.model.config.image_seq_length,
        "batch": BATCH,
        "quick": options.quick,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **versions("torch", "transformers", "trl")},
    }


def prepared(options, text: dict, folder: str) -> tuple:
    """Return the verb's trainer around the small model, and the two collators."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.packing import PackedCollator
    from llava_mistral.training.stages import set_trainable
    from llava_mistral.training.trainer import StageTrainer
    from modeling_llava_mistral import LlavaMistralConfig, LlavaMistralForConditionalGeneration

    torch.manual_seed(0)
    text = {"model_type": "mistral", "vocab_size": VOCABULARY, "sliding_window": None, **text}
    vision = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
    config = LlavaMistralConfig(vision_config={**vision, **VISION}, text_config=text, image_token_id=IMAGE_TOKEN)
    model = LlavaMistralForConditionalGeneration(config)
    set_trainable(model, "finetune")
    processor = mistral_processor(options.tokenizer)
    theirs = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    ours = PackedCollator(AnswerCollator(processor))
    quiet = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    trainer = StageTrainer(
        model=model,
        args=SFTConfig(folder, max_length=None, remove_unused_columns=False, **quiet),
        train_dataset=Dataset.from_list([{"images": [], "prompt": [], "completion": []}]),
        processing_class=processor,
        data_collator=ours,
        row_tokens=ROW_TOKENS,
    )
    model.train()
    return trainer, {"theirs": theirs, "ours": ours}


def mistral_processor(tokenizer_file: Path):
    """Mistral's own tokenizer with an image and a padding token, CLIP's pictures of 336 pixels."""
    from transformers import CLIPImageProcessorPil, LlamaTokenizer

    from processing import LlavaMistralProcessor

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").symlink_to(Path(tokenizer_file).resolve())
        tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<image>"]})
    side = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    template = HOME / "processing" / "chat_templates" / "mistral_instruct.jinja"
    assert tokenizer.convert_tokens_to_ids("<image>") == MISTRAL_IMAGE
    return LlavaMistralProcessor(
        image_processor=CLIPImageProcessorPil(**side),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template.read_text(encoding="utf-8"),
    )


def training_rows(folder: Path) -> list[dict]:
    """The training questions at hand, as training words them; a grey picture stands for each of theirs."""
    from PIL import Image

    from llava_mistral.data.scienceqa import answer_text, question_text, read_problems

    picture = Image.new("RGB", (336, 336), (128, 128, 128))
    return [
        {
            "id": problem.pid,
            "images": [picture] if problem.has_image else [],
            "prompt": [{"role": "user", "content": question_text(problem)}],
            "completion": [{"role": "assistant", "content": answer_text(problem)}],
        }
        for problem in read_problems(folder / "problems_head.json")
        if problem.split == "train"
    ]


def compare(trainer, collators: dict[str, Callable], rows: list[dict], micro: int, rounds: int, draw) -> dict:
    """Train both ways in turn, the first of a round being the second of the next; return medians and ratios.

    The ratio is the median of each round's own: a machine that slows down slows both sides of a round.
    """
    from llava_mistral.training.attention import PER_SAMPLE

    attention, sides = {"theirs": "sdpa", "ours": PER_SAMPLE}, ("theirs", "ours")
    times = {side: [] for side in sides}
    for index in range(rounds + 1):
        drawn = draw.sample(rows, BATCH)
        batches = {"theirs": [drawn[start : start + micro] for start in range(0, BATCH, micro)]}
        batches["ours"] = dealt(drawn, micro)
        for side in sides if index % 2 else sides[::-1]:
            step = [folded(collators[side]([dict(row) for row in batch])) for batch in batches[side]]
            trainer.model.set_attn_implementation({"text_config": attention[side]})
            seconds = train(trainer, step)
            if index:  # the first warms up
                times[side].append((*seconds, sum(batch["input_ids"].numel() for batch in step), len(step)))
    wall, processor, tokens, _ = (
        [theirs / own for own, theirs in zip(*pair, strict=True)]
        for pair in zip(zip(*times["ours"], strict=True), zip(*times["theirs"], strict=True), strict=True)
    )
    low, middle, high = statistics.quantiles(wall, n=4)
    run = {
        "ratio": round(middle, 3),
        "ratio_quartiles": [round(low, 3), round(high, 3)],
        "processor_ratio": round(statistics.median(processor), 3),
        "tokens_ratio": round(statistics.median(tokens), 3),
        **{
            f"{side}_samples_per_second": round(BATCH / statistics.median(one[0] for one in times[side]), 3)
            for side in sides
        },
        "our_rows": statistics.median(one[3] for one in times["ours"]),
    }
    print(run, flush=True)
    return run


def dealt(samples: list[dict], micro: int) -> list[list[dict]]:
    """The micro-batches that the trainer makes of one step."""
    from datasets import Dataset

    from llava_mistral.training.packing import StepSampler, estimated_lengths, rows_of_a_step

    words = [{**row, "images": [0] * len(row["images"])} for row in samples]
    lengths = estimated_lengths(Dataset.from_list(words), image_tokens=576)
    one_epoch = {"max_steps": -1, "num_train_epochs": 1, "seed": 42, "data_seed": None, "world_size": 1}
    args = SimpleNamespace(per_device_train_batch_size=micro, gradient_accumulation_steps=BATCH // micro, **one_epoch)
    size, count = rows_of_a_step(lengths, args, ROW_TOKENS)
    order = [samples[index] for index in StepSampler(lengths, size, count)]
    return [order[start : start + size] for start in range(0, BATCH, size)]


def folded(batch: dict) -> dict:
    """The batch in the model's small vocabulary."""
    import torch

    batch = dict(batch)
    images = batch["input_ids"] == MISTRAL_IMAGE
    words = batch["input_ids"] % IMAGE_TOKEN
    labels = batch["labels"]
    batch["input_ids"] = torch.where(images, IMAGE_TOKEN, words)
    batch["labels"] = torch.where(labels == -100, labels, labels % IMAGE_TOKEN)
    return batch


def train(trainer, batches: list[dict]) -> tuple[float, float]:
    """Seconds, and processor seconds, of the forward and backward passes of one optimizer step."""
    items = sum((batch["labels"] != -100).sum() for batch in batches)
    begun, begun_processor = time.perf_counter(), time.process_time()
    for batch in batches:
        trainer.training_step(trainer.model, batch, items)
    seconds = time.perf_counter() - begun, time.process_time() - begun_processor
    trainer.model.zero_grad()
    return seconds


if __name__ == "__main__":
    run_verb(main)
