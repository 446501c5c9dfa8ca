"""Stage 2 by LoRA: low-rank steps on the text model's linear layers, beside a projector that is trained in full.

The adapter always carries the projector, and with tiles (anyres) the newline that stands among its outputs. Where it
did not (haotian-liu/LLaVA issues 784 and 1592), an adapter was put onto a base whose projector it had never been
trained with, and answered nonsense without an error.

Sources: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; scripts/v1_5/finetune_lora.sh in
haotian-liu/LLaVA.
"""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llava_mistral.training.stages import numbers_in

PROJECTOR = "multi_modal_projector"
NEWLINE = "image_newline"  # a parameter of the model itself: PEFT has no wrapper for it, but loads it with an adapter
# The seven matrices of each text layer; the vision tower's attention has `q_proj` and the like, too, and stays frozen.
TARGETS = r".*\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"


def add_lora(model: torch.nn.Module, stage, seed: int, bf16: bool = False) -> tuple[PeftModel, dict[str, int]]:
    """Wrap `model` so that LoRA on its text model, its projector and the newline are trained, and nothing else.

    Args:
        stage: a `StageArguments` with `lora_r`, `lora_alpha`, `lora_dropout`.
        seed: of the random half of the low-rank matrices. The Trainer seeds too late for them.
        bf16: it trains under autocast to bfloat16.

    Returns:
        the wrapped model, and parameter counts `{"trainable": …, "frozen": …}`. The projector as it was before, which
        PEFT keeps beside the trained one, is counted in neither.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=stage.lora_r,
        lora_alpha=stage.lora_alpha,
        lora_dropout=stage.lora_dropout,
        target_modules=TARGETS,
        modules_to_save=[PROJECTOR],
        base_model_name_or_path=stage.model_name_or_path,
        revision=stage.model_revision,
    )
    torch.manual_seed(seed)
    model = get_peft_model(model, config)
    for _, newline in _newline(model):
        newline.requires_grad_(True)
    for module in model.modules():
        # PEFT would copy every input to float32, which autocast then rounds back: the same bits, twice the traffic.
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = not bf16
    counts = {"trainable": 0, "frozen": 0}
    for name, weight in model.named_parameters():
        if f"{PROJECTOR}.original_module." not in name:
            counts["trainable" if weight.requires_grad else "frozen"] += numbers_in(weight)
    return model, counts


def save_adapter(model: PeftModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Save the adapter into `folder`; what is written is read again before it counts.

    Args:
        weights: all of the model's, where they are spread over processes; None: its own.

    Raises:
        RuntimeError: a weight of the projector is not in the file.
    """
    # Whether the vocabulary grew PEFT would find out by asking the Hub for the base; it never grows in training.
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
    add_newline(model, folder, weights)
    check_projector(model, folder / "adapter_model.safetensors", weights)


def add_newline(model: PeftModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Add the newline of tiles, where `model` has one, to the adapter that is saved in `folder`."""
    if not (newlines := _newline(model)):
        return
    file = folder / "adapter_model.safetensors"
    saved = load_file(file)
    for name, newline in newlines:
        saved[name] = (newline if weights is None else weights[name]).detach().cpu().contiguous()
    save_file(saved, file, {"format": "pt"})


def _newline(model: PeftModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if name.endswith(f".{NEWLINE}")]


def check_projector(model: PeftModel, file: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Refuse an adapter file that does not hold the projector in the model, or in `weights`, bit for bit."""
    weights = model.state_dict() if weights is None else weights
    wrapper = dict(model.named_modules())[_projector_name(model)]
    with safe_open(file, "pt") as saved:
        names = set(saved.keys())
        for name in wrapper.modules_to_save[model.active_adapter].state_dict():
            weight = weights[f"{_projector_name(model)}.modules_to_save.{model.active_adapter}.{name}"]
            key = f"{_projector_name(model)}.{name}"
            if key not in names or not torch.equal(saved.get_tensor(key), weight.cpu()):
                raise RuntimeError(f"{file.name} lacks {key}: without its projector an adapter is worthless")
        for name, _ in _newline(model):
            if name not in names or not torch.equal(saved.get_tensor(name), weights[name].cpu()):
                raise RuntimeError(f"{file.name} lacks {name}, which was trained with the projector")


def _projector_name(model: PeftModel) -> str:
    return next(name for name, _ in model.named_modules() if name.endswith(f".{PROJECTOR}"))
