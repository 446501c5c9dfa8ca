"""The plan counts what the model and its data are, and refuses what cannot fit, with the smallest change that does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.recipe_files import RECIPES
from llava_mistral.training.plan.gpus import GPUS, fits, fitting_changes
from llava_mistral.training.plan.memory import memory_of
from llava_mistral.training.plan.workload import (
    Batch,
    Run,
    Sample,
    largest_batch,
    padding,
    run_of,
    steps_of,
)
from tests.support.recipe_sizes import LORA, PROJECTOR, TOWER, WHOLE, config_of
from tests.support.running import parsed, recipe_of, run_apart, run_here
from tests.support.tiny_plugin import tiny_config
from tests.support.training_runs import QUICK, train

RUN = Run("finetune", 4, 8, 15.0, 0, "adamw_torch_fused", True, True)
QUESTIONS = [Sample(tokens=700, answer=3, features=576, tiles=1), Sample(tokens=250, answer=3, features=0, tiles=0)]


def largest(run: Run) -> Batch:
    return largest_batch(QUESTIONS, run)


@pytest.mark.parametrize("kind", ["mistral", "llama", "anyres", "linear"])
def test_planned_parameters_are_those_of_the_model(kind):
    import torch

    from llava_mistral.training.lora import add_lora
    from llava_mistral.training.plan.sizes import sizes_of
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.stages import set_trainable
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    config = tiny_config(kind)
    with torch.device("meta"):
        model = LlavaMistralForConditionalGeneration(config)
    for stage in ("pretrain", "finetune"):
        assert sizes_of(config).counts(stage) == set_trainable(model, stage)
    with torch.device("meta"):
        assert sizes_of(config, 8).counts("finetune") == add_lora(model, StageArguments(lora_r=8), 0)[1]


@pytest.mark.parametrize("text", ["mistral", "llama"])
def test_the_7b_models_are_counted_from_their_configuration_alone(text, tmp_path):
    from llava_mistral.training.plan.sizes import sizes_of

    config = config_of(tmp_path, text)
    assert sizes_of(config).counts("pretrain") == {"trainable": PROJECTOR, "frozen": WHOLE[text] - PROJECTOR}
    assert sizes_of(config).counts("finetune") == {"trainable": WHOLE[text] - TOWER, "frozen": TOWER}
    lora = {"trainable": LORA[text] + PROJECTOR, "frozen": WHOLE[text] - PROJECTOR}
    assert sizes_of(config, 128).counts("finetune") == lora


@pytest.mark.parametrize("text", ["mistral", "llama"])
def test_the_full_fine_tune_needs_what_its_recipe_says_and_fits_one_gpu_in_16_bits(text, tmp_path):
    """116 and 108 GB of weights, gradients and moments in the text model and projector; the tower is beside them."""
    config = config_of(tmp_path, text)
    recipe = RECIPES / text / "finetune.yaml"
    run = run_of(*parsed(recipe, "--use_cpu"))
    memory = memory_of(config, run, largest(run))
    states = memory.weights + memory.gradients + memory.optimizer - 4 * TOWER
    assert f"{states / 1e9:.0f} GB with {'Mistral' if text == 'mistral' else 'LLaMA'}" in recipe.read_text()
    row = "--per_device_train_batch_size 32 --gradient_accumulation_steps 1 --row_tokens 1000000"
    for gpu in (GPUS["A100-80GB"], GPUS["H100"]):
        assert fits(config, run, largest, gpu) is False
        changes = fitting_changes(config, run, lambda other: largest_batch(QUESTIONS * 16, other), gpu)
        said = [change.flags for change in changes]
        if text == "llama":  # a row of the whole step holds no old gradients, and 8 bits are then enough
            assert said == [f"{row} --optim adamw_bnb_8bit"]
        else:
            assert said == ["--trained_dtype bfloat16 --optim adamw_torch_8bit"]
    for name in ("pretrain", "finetune_lora", "finetune_qlora"):
        other = run_of(*parsed(RECIPES / text / f"{name}.yaml", "--use_cpu"))
        assert fits(config, other, largest, GPUS["A100-80GB"]), name


@pytest.mark.parametrize(
    ("run", "gigabytes", "said"),
    [
        (replace(RUN, checkpointing=False, lora_r=128), 50, "--gradient_checkpointing True"),
        (
            replace(RUN, lora_r=128, batch=32, accumulation=1),
            45,
            "--per_device_train_batch_size 16 --gradient_accumulation_steps 2",
        ),
        (RUN, 100, "--optim adamw_bnb_8bit"),
        (RUN, 50, "--trained_dtype bfloat16 --optim adamw_torch_8bit"),
        (RUN, 45, "--use_peft True (LoRA)"),
        (RUN, 20, "--use_peft True --load_in_4bit True (QLoRA)"),
        (replace(RUN, lora_r=128), 20, "--use_peft True --load_in_4bit True (QLoRA)"),
        (replace(RUN, stage="pretrain", batch=1), 25, "FSDP over 2 GPUs"),
    ],
)
def test_the_smallest_change_that_fits_is_named(run, gigabytes, said, tmp_path):
    config = config_of(tmp_path, "mistral")
    gpu = replace(GPUS["H100"], memory=gigabytes * 1e9)
    assert fits(config, run, largest, gpu) is False
    change = next(fitting_changes(config, run, largest, gpu))
    assert change.flags == said
    assert change.run.world > 1 or change.run.step_samples == run.step_samples
    assert fits(config, change.run, largest, gpu)


def test_what_is_not_known_is_not_guessed(tmp_path):
    config = config_of(tmp_path, "mistral")
    for run in (replace(RUN, optim="lomo"), replace(RUN, deepspeed=True)):
        assert memory_of(config, run, largest(run)) is None and fits(config, run, largest, GPUS["H100"]) is None


def test_packed_batches_have_the_sum_of_their_lengths_and_padded_ones_the_longest():
    pair = replace(RUN, batch=2)
    assert largest_batch(QUESTIONS, pair).tokens == 1400 and padding(QUESTIONS, pair) == 1400 / 950
    packed = replace(pair, packed=True)
    assert largest_batch(QUESTIONS, packed).tokens == 950 and padding(QUESTIONS, packed) == 1


@pytest.mark.parametrize("kind", ["stage 1", "stage 2", "LoRA", "checkpointing", "LoRA, checkpointing"])
def test_planned_operations_are_those_that_torch_counts(kind):
    """Eager attention, whose products the counter knows; on a CPU the head is applied to every token."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from trl.trainer.utils import add_fused_lm_head

    from llava_mistral.training.lora import add_lora
    from llava_mistral.training.plan.flops import Work, model_flops
    from llava_mistral.training.plan.run_plan import repeated_flops
    from llava_mistral.training.recipe import StageArguments
    from llava_mistral.training.stages import set_trainable
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    wide = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "sliding_window": None}
    config = tiny_config("mistral", **wide)
    config._attn_implementation = "eager"
    run = replace(RUN, stage="pretrain" if kind == "stage 1" else "finetune", lora_r=8 if "LoRA" in kind else None)
    run = replace(run, checkpointing="checkpointing" in kind)
    model = LlavaMistralForConditionalGeneration(config).train()
    set_trainable(model, run.stage)
    add_fused_lm_head(model)
    if run.lora_r:
        model, _ = add_lora(model, StageArguments(lora_r=8, lora_dropout=0.0), 0)
    if run.checkpointing:
        model.gradient_checkpointing_enable()
    rows, length, features = 2, 80, config.image_seq_length
    ids = torch.randint(0, 290, (rows, length))
    ids[:, :features] = config.image_token_id
    pixels = torch.randn(rows, 3, config.vision_config.image_size, config.vision_config.image_size)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, pixel_values=pixels, labels=ids, fused_lm_head=True).loss.backward()
    work = Work(rows * length, rows * length**2, rows * (length - 1), rows, rows * features)
    counted = counter.get_total_flops()
    planned = model_flops(config, work, run.stage, run.lora_r) + repeated_flops(config, run, work, config.text_config)
    assert planned == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("ratio", ["pad", "anyres"])
def test_measured_lengths_are_those_of_the_batches(ratio, vision_folder, mistral_folder, rows_file, tmp_path):
    from llava_mistral.commands.build import main
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.plan.checkpoint import configuration, worded_processor
    from llava_mistral.training.plan.workload import measure

    parts = ("--vision", vision_folder, "--llm", mistral_folder, "--image_aspect_ratio", ratio)
    run_here(main, *parts, "--output", tmp_path / "stage0")
    stage = recipe_of(stage="pretrain", model_name_or_path=tmp_path / "stage0").stage
    config, processor = configuration(stage), worded_processor(stage)
    rows, collator = read_rows(rows_file), AnswerCollator(processor)
    samples = measure(rows, processor, config)
    assert len(samples) == len(rows)
    for sample, row in zip(samples, rows, strict=True):
        batch = collator([row])
        assert sample.tokens == batch["input_ids"].shape[1]
        assert sample.answer == int((batch["labels"] != -100).sum())
        assert sample.features == int((batch["input_ids"] == processor.image_token_id).sum())
        assert sample.tiles == batch["pixel_values"].flatten(0, -4).shape[0]


def test_planned_steps_and_parameters_are_those_of_the_run(stage0, rows_file, tmp_path):
    recipe = recipe_of(**{name.removeprefix("--"): value for name, value in QUICK.items()}, stage="pretrain")
    train("pretrain", stage0, rows_file, tmp_path / "out")
    done = json.loads((tmp_path / "out" / "run.json").read_text())
    assert steps_of(8, run_of(recipe.stage, recipe.config))[1] == done["steps"]
    planned = train("pretrain", stage0, rows_file, tmp_path / "new", plan="True")
    assert json.loads(planned.stdout.split("PLAN ")[1])["parameters"] == done["parameters"]
    assert not (tmp_path / "new").exists()


def test_a_plan_needs_no_weights_and_no_gpu(stage0, rows_file, tmp_path):
    """The folder of the checkpoint is there without its weights, and bf16, the default, is no hindrance on a CPU."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in Path(stage0).iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).symlink_to(file)
    given = {
        "--stage": "pretrain",
        "--model_name_or_path": bare,
        "--dataset": rows_file,
        "--output_dir": tmp_path / "o",
    }
    words = ["--plan", *(word for pair in given.items() for word in pair)]
    lines = run_apart("train_sft.py", *words).stdout.splitlines()
    assert any(line.startswith("on 1 H200") and "fits" in line for line in lines)


@pytest.mark.parametrize(("gpu", "code"), [("H200", 0), ("H100", 2)])
def test_a_plan_that_fits_nowhere_exits_with_2(gpu, code, stage0, rows_file, tmp_path, monkeypatch):
    """A full fine-tune of 7B, whose peak is planned from the configuration in the folder."""
    from llava_mistral.training.plan import printed

    config = config_of(tmp_path, "mistral")
    monkeypatch.setattr(printed, "configuration", lambda stage: config)
    flags = {"plan": "True", "plan_gpu": gpu, "gradient_checkpointing": "True", "bf16": "True"}
    done = train("finetune", stage0, rows_file, tmp_path / "out", code=code, **flags)
    assert ("does not fit; use --" in done.stdout) == (code == 2)


def test_a_run_that_the_gpu_cannot_hold_is_refused_unless_forced(stage0, rows_file, tmp_path, monkeypatch):
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.plan import fitting
    from llava_mistral.training.plan.checkpoint import worded_processor

    recipe = recipe_of(stage="finetune", model_name_or_path=stage0)
    stage, config = recipe.stage, replace(recipe.config, use_cpu=True)
    config.use_cpu = False  # as on the machine of the GPU that is stood in
    rows, small = read_rows(rows_file), replace(GPUS["H100"], memory=1e3)
    processor = worded_processor(stage)
    monkeypatch.setattr(fitting, "present_gpu", lambda: small)
    with pytest.raises(BadInput, match="the run needs .* GB and H100 has .* GB free for it; .* --force_fit"):
        fitting.check_fit(stage, config, rows, processor)
    fitting.check_fit(replace(stage, force_fit=True), config, rows, processor)
    monkeypatch.setattr(fitting, "present_gpu", lambda: replace(small, memory=1e12))
    fitting.check_fit(stage, config, rows, processor)


def test_on_a_cpu_too_little_memory_is_a_warning(stage0, rows_file, capsys, monkeypatch):
    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.plan import fitting
    from llava_mistral.training.plan.checkpoint import worded_processor

    monkeypatch.setattr(fitting, "free_ram", lambda: 1e3)
    recipe = recipe_of(stage="finetune", model_name_or_path=stage0)
    fitting.check_fit(recipe.stage, recipe.config, read_rows(rows_file), worded_processor(recipe.stage))
    assert "warning: the run needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("plan_gpu", "T4", "field plan_gpu: invalid choice: 'T4' (choose from 'A100-80GB', 'H100', 'H200')"),
        ("plan_gpus", "0", "field plan_gpus: 0 is out of range; give a positive number"),
    ],
)
def test_a_plan_for_nothing_known_is_one_line(flag, value, said, stage0, rows_file, tmp_path):
    assert said in train("finetune", stage0, rows_file, tmp_path / "out", code=2, **{flag: value}).error
