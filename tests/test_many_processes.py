"""Several processes are one run: losses and checkpoint of a single process, whatever pictures each one gets."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from tests.support.running import HOME, Done, run_apart, run_here
from tests.support.tiny_components import save_rows
from tests.support.training_runs import QUICK, losses, train

CONFIGS = HOME / "llava_mistral" / "recipes" / "accelerate"
LORA = {"use_peft": "True", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0}  # each process drops others


def launch_environment(config: Path, *flags: str) -> dict[str, str]:
    """What `accelerate launch --config_file config flags` adds to the environment of its processes."""
    from accelerate.commands import launch

    arguments = launch.launch_command_parser().parse_args(["--config_file", str(config), *flags, "train_sft.py"])
    with mock.patch.dict(os.environ):
        arguments, defaults, _ = launch._validate_launch_command(arguments)
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
            environment = launch.prepare_deepspeed_cmd_env(arguments)[1]
        else:
            environment = launch.prepare_multi_gpu_env(arguments)
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}


def launch(config: str, *arguments: object, processes: int = 2, seconds: int = 240) -> Done:
    """Run `train_sft.py arguments` in `processes` processes by the recipe accelerate/`config`, in full precision.

    accelerate itself starts processes without GPUs through MPI only; so its parser reads the shipped configuration,
    and torch's own launcher, which it uses on GPUs, gets the environment that it makes of it.

    A run that takes longer than `seconds` hangs, and fails the test.
    """
    environment = launch_environment(
        CONFIGS / f"{config}.yaml", "--num_processes", str(processes), "--mixed_precision", "no"
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "train_sft.py"]
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        cwd=HOME,
        env={**os.environ, **environment, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def train_together(config, stage, model, dataset, output, seconds: int = 240, **flags):
    given = {"--stage": stage, "--model_name_or_path": model, "--dataset": dataset, "--output_dir": output}
    given |= QUICK | {f"--{name}": value for name, value in flags.items()}
    return launch(config, *[word for pair in given.items() for word in pair], seconds=seconds)


def agree(one, together) -> None:
    """Losses to 1e-4, and the same weights, in a folder that opens strictly."""
    import torch
    from safetensors.torch import load_file

    torch.testing.assert_close(losses(together), losses(one), rtol=1e-4, atol=0)
    file = "adapter_model.safetensors" if (one / "adapter_config.json").is_file() else "model.safetensors"
    first, second = load_file(one / file), load_file(together / file)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-3, atol=1e-4, msg=lambda said, name=name: name + said)
    assert {path.name for path in one.iterdir()} == {path.name for path in together.iterdir()}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Four rows with a picture and twelve without."""
    file = save_rows(tmp_path_factory.mktemp("mixed") / "rows", 4)
    turns = [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "four"}]
    blind = [{"id": f"text-{index}", "conversations": turns} for index in range(12)]
    file.write_text(json.dumps(json.loads(file.read_text()) + blind))
    return file


def test_weights_in_shares_train_as_one_where_one_process_has_pictures_and_another_none(stage0, mixed, tmp_path):
    """FSDP2; the batches of one row each, so that most steps have pictures in one process or in none."""
    cache = {"vision_cache": tmp_path / "store"}
    train("finetune", stage0, mixed, tmp_path / "one", per_device_train_batch_size=2, vision_cache="off")
    done = train_together("fsdp2", "finetune", stage0, mixed, tmp_path / "two", per_device_train_batch_size=1, **cache)
    assert done.code == 0, done.stderr
    agree(tmp_path / "one", tmp_path / "two")
    assert len(list((tmp_path / "store").rglob("*.safetensors"))) == 4
    assert done.stdout.count("finetune, 16 steps") == 1, "one process speaks"
    one, two = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two"))
    assert two["hardware"]["processes"] == 2 and one["hardware"]["processes"] == 1
    for count in ("prompt", "answer", "longest"):
        assert two["tokens"][count] == one["tokens"][count], "of all processes"


def test_bad_input_is_one_line_and_exit_code_2_in_every_process(stage0, mixed, tmp_path):
    template = HOME / "processing" / "chat_templates" / "plain.jinja"
    done = train_together("ddp", "finetune", stage0, mixed, tmp_path / "out", chat_template=template)
    assert done.code != 0 and not (tmp_path / "out").exists()
    assert len(re.findall("the chat template drops the question; use", done.stderr)) == 1
    assert set(re.findall(r"exitcode  : (-?\d+)", done.stderr)) <= {"2", "-15"}, "refused, or ended by the launcher"
    assert "2" in re.findall(r"exitcode  : (-?\d+)", done.stderr)


def test_a_process_that_alone_meets_a_fault_says_so(tmp_path):
    """After it has waited for the first one to say the same."""
    code = "from llava_mistral.ground import command_line as c; c.ALONE = 1\n"
    code += "from llava_mistral.ground.bad_input import BadInput\n"
    code += "def main(): raise BadInput('broken', remedy='mend it')\n"
    begun = time.monotonic()
    assert run_apart("-c", code + "c.run_verb(main)", code=2, LOCAL_RANK="1").error == "-c: broken; mend it"
    assert time.monotonic() - begun >= 1
    assert run_apart("-c", code + "c.run_verb(main)", code=2, LOCAL_RANK="0").error == "-c: broken; mend it"


@pytest.mark.parametrize("config", ["ddp", "fsdp2", "zero2", "zero3"])
def test_a_shipped_configuration_is_what_accelerate_understands(config):
    """Read by accelerate's own parser, which refuses keys it does not know."""
    made = launch_environment(CONFIGS / f"{config}.yaml")
    assert made["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert ("ACCELERATE_USE_FSDP" in made) == (config == "fsdp2")
    assert ("ACCELERATE_USE_DEEPSPEED" in made) == config.startswith("zero")
    if config == "fsdp2":
        assert (made["FSDP_VERSION"], made["FSDP_AUTO_WRAP_POLICY"]) == ("2", "TRANSFORMER_BASED_WRAP")
        assert made["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    if config.startswith("zero"):
        assert made["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == config[-1]
        assert config == "zero2" or made["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"].lower() == "true"


def test_the_shipped_configurations_and_their_recipes_exist():
    assert {file.stem for file in CONFIGS.iterdir()} == {"ddp", "fsdp2", "zero2", "zero3"}
    for file in CONFIGS.iterdir():
        named = re.findall(r"llava_mistral/recipes/\S+\.yaml", file.read_text())
        assert f"llava_mistral/recipes/accelerate/{file.name}" in named and all(
            (HOME / name).is_file() for name in named
        )


def test_layers_are_spread_by_the_names_the_model_has(stage0, llama_folder, vision_folder, tmp_path):
    """accelerate refuses a name that is not in the model, such as the twin's."""
    from llava_mistral.commands.build import main
    from llava_mistral.training.trainer import spread_classes
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    parts = ("--vision", vision_folder, "--llm", llama_folder, "--chat_template", "vicuna_v1")
    run_here(main, *parts, "--output", tmp_path / "llama")
    for folder, layer in ((stage0, "MistralDecoderLayer"), (tmp_path / "llama", "LlamaDecoderLayer")):
        model = LlavaMistralForConditionalGeneration.from_pretrained(folder)
        names = spread_classes(model)
        assert {layer, "CLIPEncoderLayer"} <= set(names)
        assert set(names) <= {type(module).__name__ for module in model.modules()}


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["False", "True"])
@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune", "lora"])
def test_two_processes_give_the_losses_and_the_checkpoint_of_one(
    stage,
    config,
    checkpointing,
    anyres,
    rows_file,
    tmp_path,
):
    """Both stages, LoRA, tiles; frozen weights among the trained ones."""
    flags = LORA if stage == "lora" else {}
    flags = {**flags, "gradient_checkpointing": checkpointing}
    stage = "finetune" if stage == "lora" else stage
    train(stage, anyres, rows_file, tmp_path / "one", **flags)
    done = train_together(
        config, stage, anyres, rows_file, tmp_path / "two", per_device_train_batch_size=2, seconds=300, **flags
    )
    assert done.code == 0, done.stderr
    agree(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_gradients_are_accumulated_over_processes_as_over_batches(config, stage0, mixed, tmp_path):
    train("finetune", stage0, mixed, tmp_path / "one", per_device_train_batch_size=1, gradient_accumulation_steps=8)
    flags = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "seconds": 300}
    done = train_together(config, "finetune", stage0, mixed, tmp_path / "two", **flags)
    assert done.code == 0, done.stderr
    agree(tmp_path / "one", tmp_path / "two")
