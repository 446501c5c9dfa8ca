"""What `train_gpu.py` compares: our trainer and TRL's over stock Llava, on the same rows, from the same shapes."""

import io
import json
import random
from pathlib import Path

TEMPLATES = Path(__file__).parents[1] / "processing" / "chat_templates"


def ours(kind: str, arm, size: dict, tokenizer, rows, config, device, peak: float):
    """What `llava-mistral train` builds; with `arm.decided` as the plan decides, else in stock's micro-batches."""
    from llava_mistral.training.loading import make_collator, prepare_model
    from llava_mistral.training.plan.fitting import check_fit
    from llava_mistral.training.plan.printed import ANY
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.throughput import Meter
    from llava_mistral.training.trainer import StageTrainer
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration
    from processing import LlavaMistralProcessor

    arguments = StageArguments(
        stage="pretrain" if kind == "stage1" else "finetune",
        use_peft=kind == "lora",
        vision_cache="off",
        model_name_or_path=config.output_dir,
        trained_dtype="bfloat16" if arm.bfloat16 else "float32",
        row_tokens=StageArguments.row_tokens if arm.decided else ANY,
    )
    shapes, processor = model_config(size, tokenizer), make_processor(LlavaMistralProcessor, size, tokenizer, kind)
    if arm.decided:
        shapes.save_pretrained(config.output_dir)
        check_fit(arguments, config, rows, processor, given=())
    model = random_model(LlavaMistralForConditionalGeneration, shapes, device)
    model, _ = prepare_model(model, arguments, config)
    return StageTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=processor,
        data_collator=make_collator(arguments, config, rows, model, processor),
        row_tokens=arguments.row_tokens,
        mm_projector_lr=arguments.projector_lr,
        meter=Meter(model.config, arguments.stage, arguments.lora_r if arguments.use_peft else None, peak),
    )


def stock(kind: str, arm, size: dict, tokenizer, rows, config, device, peak: float):
    """TRL's trainer, TRL's collator and PEFT over transformers' Llava; the meter beside it counts and does no more."""
    import torch
    from peft import LoraConfig
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    from llava_mistral.training.lora import PROJECTOR, TARGETS
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.reporting import ReportingTrainer
    from llava_mistral.training.throughput import Meter

    arguments, shapes = StageArguments(), model_config(size, tokenizer)
    names = ("vision_config", "text_config", "image_token_id", "vision_feature_layer")
    values = {name: getattr(shapes, name) for name in names}
    model = random_model(LlavaForConditionalGeneration, LlavaConfig(**values), device)
    for name, weight in model.named_parameters():
        trained = (PROJECTOR in name and kind != "lora") or (kind == "full" and "vision_tower" not in name)
        weight.requires_grad_(trained)
        if not trained and PROJECTOR not in name:
            weight.data = weight.data.to(torch.bfloat16)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=TARGETS,
        modules_to_save=[PROJECTOR],
    )
    return ReportingTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=make_processor(LlavaProcessor, size, tokenizer, kind),
        peft_config=lora if kind == "lora" else None,
        meter=Meter(
            shapes,
            "pretrain" if kind == "stage1" else "finetune",
            arguments.lora_r if kind == "lora" else None,
            peak,
        ),
    )


def random_model(kind, config, device):
    """A model of random bfloat16 numbers in float32, made where it will train, as a published one is once loaded."""
    import torch

    torch.manual_seed(0)
    with device:
        model = kind(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    return model


def model_config(size: dict, tokenizer):
    """A `LlavaMistralConfig` of that size for that vocabulary."""
    from modeling_llava_mistral import LlavaMistralConfig

    side, patch = size["side"]
    text = {"model_type": "mistral", "vocab_size": -(-len(tokenizer) // 64) * 64, "sliding_window": None}
    text |= {"num_key_value_heads": size["kv_heads"], "max_position_embeddings": 32768, "rope_theta": 1e6}
    vision = {"model_type": "clip_vision_model", "image_size": side, "patch_size": patch}
    return LlavaMistralConfig(
        vision_config={**vision, **size["vision"]},
        text_config={**text, **size["text"]},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )


def make_processor(processor, size: dict, tokenizer, kind: str):
    """A processor of that class with the template of the stage."""
    from transformers import CLIPImageProcessorPil

    side, patch = size["side"]
    template = "plain" if kind == "stage1" else "mistral_instruct"
    return processor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_convert_rgb=True
        ),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        chat_template=(TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8"),
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def read_tokenizer(folder: Path | None):
    """Mistral's tokenizer with the image and padding tokens that `llava-mistral build` adds, or a tiny one."""
    from transformers import AutoTokenizer, LlamaTokenizer

    if folder is None:
        from tests.support.tiny_components import tiny_tokenizer

        tokenizer = tiny_tokenizer()
    elif (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    else:
        tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def texts(scienceqa: Path | None, stage: str) -> list[tuple[str, str, bool]]:
    """Question, answer and whether there is a picture: ScienceQA's training questions, or captions for stage 1."""
    if scienceqa is None:
        rng = random.Random(0)
        words = ("Which", "digit", "is", "written", "the", "option", "letter", "leaf", "shows", "day")
        questions = [" ".join(rng.choices(words, k=rng.randint(3, 30))) for _ in range(64)]
        return [
            (question, "The answer is B.", stage == "pretrain" or index % 2 == 0)
            for index, question in enumerate(questions)
        ]
    if stage == "pretrain":
        captions = json.loads((scienceqa / "captions.json").read_text(encoding="utf-8"))["captions"]
        return [("", caption, True) for caption in captions.values()]
    from llava_mistral.data.scienceqa import answer_text, question_text, read_problems

    problems = [p for p in read_problems(scienceqa / "problems_head.json") if p.split == "train"]
    return [(question_text(problem), answer_text(problem, "letter"), problem.has_image) for problem in problems]


def make_rows(stage: str, specs: list[tuple[str, str, bool]], count: int, side: int):
    """`count` training rows, drawn from `given`; pictures of noise, encoded, so that decoding them costs its time."""
    from datasets import Dataset
    from PIL import Image

    from llava_mistral.data.conversations import row_features

    rng, pictures = random.Random(0), []
    for _ in range(8):
        buffer = io.BytesIO()
        Image.frombytes("RGB", (side, side), rng.randbytes(3 * side**2)).save(buffer, format="JPEG")
        pictures.append({"bytes": buffer.getvalue(), "path": None})
    chosen = rng.choices(specs, k=count)
    columns = {
        "id": [str(index) for index in range(count)],
        "images": [[pictures[index % 8]] if pictured else [] for index, (*_, pictured) in enumerate(chosen)],
        "prompt": [[{"role": "user", "content": question}] for question, *_ in chosen],
        "completion": [[{"role": "assistant", "content": answer}] for _, answer, _ in chosen],
    }
    return Dataset.from_dict(columns, features=row_features())
