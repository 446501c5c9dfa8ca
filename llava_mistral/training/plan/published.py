"""Hours that others have published, beside those of the plan: where the plan's shares of a GPU's peak come from."""

from dataclasses import dataclass
from typing import Any

# Tokens of a sample (576 of them a picture), answer tokens and the share without a picture are assumptions:
# no page states them. LLaVA's stage 2 has 665,298 samples, of which 40,688 are text alone.
STAGE_1, STAGE_2 = (606, 25), (816, 200)
TEXT_ALONE = 40_688 / 665_298


@dataclass(frozen=True)
class Published:
    """A run on 8 A100 whose hours its authors give.

    Args:
        model: `7B` or `13B`, on LLaMA's shapes with CLIP ViT-L/14-336.
        stage: `pretrain` or `finetune`.
        rows: samples of its one epoch.
        hours: as published.
        source: where.
    """

    model: str
    stage: str
    rows: int
    hours: float
    source: str


README = "haotian-liu/LLaVA, README"
PUBLISHED = (
    Published("7B", "pretrain", 558_128, 3.5, README),
    Published("13B", "pretrain", 558_128, 5.5, README),
    Published("7B", "finetune", 665_298, 10, README),
    Published("13B", "finetune", 665_298, 20, README),
)
SHAPES = {"7B": (4096, 11008, 32, 32), "13B": (5120, 13824, 40, 40)}  # hidden, intermediate, layers, heads


def planned(run: Published) -> tuple[float, float]:
    """Hours of the plan, and the share of the peak that the published hours mean."""
    from llava_mistral.training.plan.gpus import GPUS, utilisation
    from llava_mistral.training.plan.run_plan import run_flops
    from llava_mistral.training.plan.workload import Run, Sample

    batch, (tokens, answer) = (32, STAGE_1) if run.stage == "pretrain" else (16, STAGE_2)
    alone = 0 if run.stage == "pretrain" else round(1000 * TEXT_ALONE)
    samples = [Sample(tokens, answer, 576, 1)] * (1000 - alone) + [Sample(tokens, answer, 0, 0)] * alone
    published = Run(run.stage, batch, 1, 1, 0, "adamw_torch", bf16=True, checkpointing=True, world=8, packed=True)
    executed = run_flops(config_of(run.model), published, samples, run.rows, run.rows)[1]
    seconds = executed / (GPUS["A100-80GB"].flops * published.world)  # at the whole peak
    return seconds / utilisation(published) / 3600, seconds / 3600 / run.hours


def config_of(model: str) -> Any:
    """LLaVA-1.5 in one of its two sizes."""
    from modeling_llava_mistral import LlavaMistralConfig

    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text = dict(zip(names, SHAPES[model], strict=True)) | {"num_key_value_heads": SHAPES[model][3]}
    vision = dict(zip(names, (1024, 4096, 24, 16), strict=True)) | {"image_size": 336, "patch_size": 14}
    return LlavaMistralConfig(
        vision_config={"model_type": "clip_vision_model", **vision},
        text_config={"model_type": "llama", "vocab_size": 32000, **text},
        image_token_id=31999,
    )


def as_markdown() -> str:
    """The table of docs/training/plan.md."""
    lines = ["| run on 8 A100 | plan, hours | published, hours | plan / published | source |", "|---|---|---|---|---|"]
    for run in PUBLISHED:
        hours, _ = planned(run)
        name = f"LLaVA-1.5 {run.model}, stage {1 if run.stage == 'pretrain' else 2}"
        lines.append(f"| {name} | {hours:.1f} | {run.hours:g} | {hours / run.hours:.2f} | {run.source} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_markdown())
