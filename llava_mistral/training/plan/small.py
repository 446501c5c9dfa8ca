"""What the recipes `small/…` take on a free notebook GPU and on a laptop: the table of docs/training/plan.md.

python -m llava_mistral.training.plan.small
"""

from dataclasses import replace
from typing import Any

# Tokens of the words of a sample, and those of its answer: assumptions. Captions as in `published`; a question of
# ScienceQA with its choices, in SmolLM2's chat.
WORDS = {"pretrain": (30, 25), "finetune": (108, 2)}
ROWS = {"pretrain": 558_128, "finetune": 1000}
SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TOWERS = {
    "CLIP ViT-B/32": {"model_type": "clip_vision_model", **BASE, "image_size": 224, "patch_size": 32},
    "SigLIP-B/16": {"model_type": "siglip_vision_model", **BASE, "image_size": 224, "patch_size": 16},
}
# Peak float32 FLOP/s: NVIDIA's data sheet; 8 cores x 3 GHz x two fused multiply-adds of 8 numbers a cycle.
PEAKS = {"a T4": 8.1e12, "8 cores with AVX2, 3 GHz": 8 * 3e9 * 32}


def planned(stage: str, tower: str) -> dict[str, Any]:
    """Image tokens, tokens of the whole run, bytes at the peak on a GPU and on a CPU, and hours by device."""
    from llava_mistral.ground.recipe_files import read_yaml, recipe_file
    from llava_mistral.training.plan.gpus import Gpu
    from llava_mistral.training.plan.run_plan import plan
    from llava_mistral.training.plan.workload import Run, Sample
    from modeling_llava_mistral import LlavaMistralConfig

    vision = TOWERS[tower]
    patches = "full" if "siglip" in vision["model_type"] else "default"  # SigLIP has no class token
    sizes = {"vision_config": vision, "text_config": SMOLLM2, "vision_feature_select_strategy": patches}
    config = LlavaMistralConfig(**sizes, image_token_id=SMOLLM2["vocab_size"] - 1)
    recipe = read_yaml(recipe_file(f"small/{stage}"))
    names = {"batch": "per_device_train_batch_size", "accumulation": "gradient_accumulation_steps", "optim": "optim"}
    names |= {"bf16": "bf16", "checkpointing": "gradient_checkpointing"}
    values = {field: recipe[name] for field, name in names.items()}
    steps = {"epochs": recipe.get("num_train_epochs", 1), "max_steps": recipe.get("max_steps", 0)}
    run = Run(stage, **values, **steps, packed=True, reads_once=True)
    features = (vision["image_size"] // vision["patch_size"]) ** 2
    words, answer = WORDS[stage]
    samples = [Sample(features + words, answer, features, 1)] * 1000
    gpus = [Gpu(name, 16e9, peak) for name, peak in PEAKS.items()]
    made, on_cpu = (plan(config, one, samples, ROWS[stage], gpus) for one in (run, replace(run, cuda=False)))
    return {
        "image tokens": features,
        "tokens": made.tokens["run"],
        "GPU": made.memory.peak,
        "CPU": on_cpu.memory.peak,
        "hours": {name: on.hours for name, on in made.on.items()},
    }


def as_markdown() -> str:
    """The table."""
    lines = ["| recipe | tower | image tokens | tokens of the run | peak on a GPU | peak on a CPU |"]
    lines[0] += "".join(f" hours, {name} |" for name in PEAKS)
    lines.append("|---" * (6 + len(PEAKS)) + "|")
    for stage in WORDS:
        for tower in TOWERS:
            made = planned(stage, tower)
            cells = [f"`small/{stage}`", tower, str(made["image tokens"]), f"{made['tokens'] / 1e6:,.2f} million"]
            cells += [f"{made[place] / 1e9:.1f} GB" for place in ("GPU", "CPU")]
            cells += [f"{hours:.2f}" for hours in made["hours"].values()]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_markdown())
