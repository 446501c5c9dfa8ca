"""What a recipe asks to be shown, checked before anything heavy is imported."""

import importlib.util

from llava_mistral.ground.bad_input import BadInput

# Module that each name of `report_to` needs; where it is not the name itself.
MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "azure_ml": ("azureml",), "flyte": ("flytekit",)}
EXTRAS = {"tensorboard": ".[reports]"}


def check_reports(values: dict, file: str | None) -> None:
    """Refuse a report that nobody here can write, and an evaluation that lacks its data or its time.

    Raises:
        BadInput: names the key.
    """
    names = values.get("report_to") or []
    for name in [names] if isinstance(names, str) else names:
        modules = MODULES.get(name, (name,))
        if name not in ("none", "all") and not any(importlib.util.find_spec(module) for module in modules):
            raise BadInput(
                f"{name!r} is not installed",
                remedy=f"pip install '{EXTRAS.get(name, name)}', or use --report_to none",
                file=file,
                field="report_to",
            )
    _check_evaluation(values, file)


def _check_evaluation(values: dict, file: str | None) -> None:
    held_out = values.get("eval_dataset")
    never = str(values.get("eval_strategy", "no")) in ("no", "False")  # YAML reads a bare `no` as false
    if held_out and never:
        remedy = "add --eval_strategy epoch, or steps with --eval_steps N"
        raise BadInput("is never evaluated", remedy=remedy, file=file, field="eval_dataset")
    if not held_out and not never:
        remedy = "add --eval_dataset PATH_OR_ID"
        raise BadInput("there is no data to evaluate on", remedy=remedy, file=file, field="eval_strategy")
    idle = [key for key in ("eval_split", "sample_answers") if key in values and not held_out]
    if idle:
        raise BadInput("has no effect without --eval_dataset", remedy="leave it out", file=file, field=idle[0])
