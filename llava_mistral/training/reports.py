"""Check a recipe's reporting settings before data or weights are read."""

import importlib.util
from typing import Any

from llava_mistral.ground.bad_input import BadInput

# Module that each name of `report_to` needs; where it is not the name itself.
MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "azure_ml": ("azureml",), "flyte": ("flytekit",)}
EXTRAS = {"tensorboard": ".[reports]"}


def check_reports(recipe: Any) -> None:
    """Refuse a report whose library is missing, and an evaluation without data or schedule.

    Args:
        recipe: a `Recipe`.

    Raises:
        BadInput: names the key.
    """
    names = recipe.given.get("report_to") or []
    for name in [names] if isinstance(names, str) else names:
        modules = MODULES.get(name, (name,))
        if name not in ("none", "all") and not any(importlib.util.find_spec(module) for module in modules):
            remedy = f"pip install '{EXTRAS.get(name, name)}', or use --report_to none"
            raise BadInput(f"{name!r} is not installed", remedy=remedy, **recipe.place("report_to"))
    key = "held_out" if recipe.stage.held_out else "eval_dataset"
    held_out, never = getattr(recipe.stage, key), recipe.given.get("eval_strategy", "no") == "no"
    if held_out and never:
        remedy = "add --eval_strategy epoch, or steps with --eval_steps N"
        raise BadInput("is never evaluated", remedy=remedy, **recipe.place(key))
    if not held_out and not never:
        remedy = "add --eval_dataset PATH_OR_ID, or --held_out 0.02"
        raise BadInput("there is no data to evaluate on", remedy=remedy, **recipe.place("eval_strategy"))
