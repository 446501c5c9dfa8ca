"""Every key of SFTConfig does something here or is refused by name, and a run's identity forgets none that matters."""

from dataclasses import fields, replace

import pytest
from trl import SFTConfig

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.recipe import StageArguments, parse_recipe
from llava_mistral.training.recipe_keys import BESIDE_IDENTITY, HARMLESS, OBEYED, REFUSED
from tests.support.running import recipe_of

KEYS = {line.name: line for line in fields(SFTConfig) if line.init}
# A value of each refused key that is not what happens anyway; all others are flags or take any word.
VALUES = {
    "max_length": "64",
    "truncation_mode": "keep_end",
    "hub_strategy": "end",
    "packing_strategy": "wrapped",
    "pad_to_multiple_of": "64",
    "completion_only_loss": "False",
    "dataset_kwargs": '{"skip_prepare_dataset": true}',
    "dataset_num_proc": "2",
    "model_init_kwargs": '{"attn_implementation": "eager"}',
    "router_aux_loss_coef": "0.1",
    "include_for_metrics": "inputs",
    "eval_do_concat_batches": "False",
    "eval_accumulation_steps": "4",
    "label_names": "labels",
    "dataloader_in_order": "False",
    "remove_unused_columns": "True",
    "accelerator_config": '{"split_batches": true}',
}


def test_every_key_is_in_one_table():
    tables = [OBEYED, REFUSED.keys(), HARMLESS.keys()]
    assert set().union(*tables) == KEYS.keys()
    assert sum(map(len, tables)) == len(KEYS)
    assert all(isinstance(reason, str) and reason for reason in (*HARMLESS.values(), *BESIDE_IDENTITY.values()))


@pytest.mark.parametrize("key", sorted(set(REFUSED) - {"parallelism_config", "liger_kernel_config"}))
def test_a_key_without_effect_is_refused_by_name(key):
    hint = str(KEYS[key].type)
    value = VALUES.get(key, "True" if "bool" in hint else "x")
    with pytest.raises(BadInput) as refused:
        recipe_of(stage="finetune", **{key: value})
    assert refused.value.field == key and refused.value.remedy == REFUSED[key]


@pytest.mark.parametrize("key", ["parallelism_config", "liger_kernel_config"])
def test_and_so_is_one_that_only_a_file_can_give(key, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"{key}: {{a: 1}}\n")
    with pytest.raises(BadInput) as refused:
        recipe_of(stage="finetune", config=tmp_path / "recipe.yaml")
    assert refused.value.field == key and refused.value.file == str(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_what_happens_anyway_may_be_said(key):
    from llava_mistral.training.recipe_checks import accepted, check_given

    given = {"stage": "finetune", "model_name_or_path": "base", "dataset": "o/n", "output_dir": "out"}
    for value in accepted(key, SFTConfig):
        check_given({**given, key: value}, dict.fromkeys({**KEYS, **given}), SFTConfig)


def identity(tmp_path, wording: str = "words", **values):
    from llava_mistral.training.saving.resuming import run_identity

    recipe = recipe_of(**{"stage": "finetune", "model_name_or_path": tmp_path, "learning_rate": 1e-3, **values})
    return run_identity(recipe.stage, recipe.config, Rows(), wording).config


class Rows:
    """No rows; what the hash of data asks of a data set."""

    column_names: list[str] = []

    def __len__(self):
        return 0

    def select_columns(self, names):
        return self

    def with_format(self, name):
        return self

    def iter(self, batch_size):
        return iter(())


def test_the_identity_is_all_keys_but_a_named_list(tmp_path):
    there = identity(tmp_path).keys()
    known = KEYS.keys() | {line.name for line in fields(StageArguments)}
    assert BESIDE_IDENTITY.keys() <= known
    assert there == known - BESIDE_IDENTITY.keys() | {"chat_template", "base_weights", "processes"}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"loss_type": "dft"}, "loss_type"),
        ({"learning_rate": 2e-3}, "learning_rate"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"adam_beta2": 0.95}, "adam_beta2"),
        ({"full_determinism": True}, "full_determinism"),
        ({"max_grad_norm": 0.5}, "max_grad_norm"),
        ({"row_tokens": 64}, "row_tokens"),
        ({"mm_projector_lr": 1e-4}, "mm_projector_lr"),
        ({"answer_style": "explained"}, "answer_style"),
    ],
)
def test_what_moves_the_weights_changes_the_identity(tmp_path, values, key):
    was, now = identity(tmp_path), identity(tmp_path, **values)
    assert {name for name in was if was[name] != now[name]} == {key}


def test_another_template_or_another_base_is_another_run(tmp_path):
    """A base is told by its record and by its weights, also where their files have the same size."""
    was = identity(tmp_path)
    assert was["chat_template"] != identity(tmp_path, wording="other words")["chat_template"]
    (tmp_path / "model.safetensors").write_bytes(bytes(1 << 21))
    first = identity(tmp_path)["base_weights"]
    (tmp_path / "model.safetensors").write_bytes(bytes([1]) * (1 << 21))
    second = identity(tmp_path)["base_weights"]
    (tmp_path / "run.json").write_text("{}")
    assert len({was["base_weights"], first, second, identity(tmp_path)["base_weights"]}) == 4


def test_what_is_only_shown_is_no_other_run(tmp_path):
    assert identity(tmp_path) == identity(
        tmp_path, logging_steps=1, save_steps=7, run_name="x", dataloader_num_workers=2
    )


def test_several_gpus_in_one_process_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    from llava_mistral.training.recipe_checks import check_gpus

    recipe = recipe_of(stage="finetune")
    check_gpus(recipe)
    monkeypatch.setattr(type(recipe.config), "n_gpu", 8)
    with pytest.raises(BadInput, match="8 GPUs are visible.*accelerate launch --num_processes 8 train_sft.py"):
        check_gpus(recipe)
    check_gpus(replace(recipe, stage=replace(recipe.stage, plan=True)))


def test_losses_that_are_no_numbers_are_shown_unless_asked_otherwise():
    assert recipe_of(stage="finetune").config.logging_nan_inf_filter is False
    assert recipe_of(stage="finetune", logging_nan_inf_filter=True).config.logging_nan_inf_filter is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rte: 1", "field learning_rte: there is no such key; did you mean learning_rate?"),
        ("- pretrain", "is not a mapping of keys to values; write `key: value` lines"),
        ("a: [1", "is not YAML"),
        ("dataset: [5]", "recipe.yaml: field dataset: [5] is not text"),
        ("dataset: 5", "recipe.yaml: field dataset: 5 does not exist"),
        ("env: {A: b}", "recipe.yaml: field env: there is no such key"),
        (
            "dataset: owner/name\nnum_train_epochs: many",
            "recipe.yaml: field num_train_epochs: invalid float value: 'many'",
        ),
        ("dataset: owner/name\nnum_train_epochs: 0", "recipe.yaml: field num_train_epochs: 0.0 is out of range"),
        ("dataset: owner/name\nlr: 1.0e-3", "field lr: there is no such key; did you mean learning_rate?"),
    ],
)
def test_a_recipe_nobody_could_follow_is_refused(tmp_path, stage0, text, said):
    from llava_mistral.training.recipe_checks import check_recipe

    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(BadInput) as refused:
        flags = ["--stage", "pretrain", "--model_name_or_path", str(stage0), "--output_dir", str(tmp_path / "out")]
        check_recipe(parse_recipe(["--config", str(tmp_path / "recipe.yaml"), *flags, "--use_cpu"]))
    assert said in str(refused.value)


PLACES = ["--stage", "pretrain", "--model_name_or_path", "base", "--dataset", "o/n", "--output-dir", "out"]


def test_flags_are_read_as_the_parser_reads_them():
    """A switch without a value does not swallow the next flag; hyphens, `=` and `--no_…` are the parser's own."""
    recipe = parse_recipe([*PLACES, "--use_cpu", "--learning_rate=0.1", "--no_gradient_checkpointing", "--seed", "7"])
    assert recipe.file is None
    assert {key: recipe.given[key] for key in ("output_dir", "learning_rate", "use_cpu", "seed")} == {
        "output_dir": "out",
        "learning_rate": 0.1,
        "use_cpu": True,
        "seed": 7,
    }
    assert recipe.config.gradient_checkpointing is False and recipe.config.learning_rate == 0.1


def test_a_flag_overrides_the_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("stage: pretrain\nlearning_rate: 1.0e-3\nseed: 7\n")
    flags = ["--config", str(tmp_path / "recipe.yaml"), "--learning_rate", "5e-4", "--use_cpu", "--bf16", "False"]
    recipe = parse_recipe([*flags, *PLACES[2:]])
    assert recipe.given["learning_rate"] == 5e-4
    assert (recipe.stage.stage, recipe.config.learning_rate, recipe.config.seed) == ("pretrain", 5e-4, 7)
    assert recipe.place("learning_rate")["file"] is None and recipe.place("seed")["file"] == flags[1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "learning_rate"),
        ("epochs", "num_train_epochs"),
        ("batch_size", "per_device_train_batch_size"),
        ("learning_rat", "learning_rate"),
        ("image_foldr", "image_folder"),
        ("warmup_ratio", "warmup_steps"),
        ("no_gradient_checkpoint", "gradient_checkpointing"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(name, meant):
    with pytest.raises(BadInput, match=rf"field {name}: there is no such flag; did you mean --{meant}\?"):
        parse_recipe([*PLACES, "--use_cpu", f"--{name}", "1"])


def test_numbers_that_yaml_takes_for_words_are_numbers(tmp_path):
    """YAML 1.1 reads 1e-3, without a point, as a word, and a bare `no` as false."""
    (tmp_path / "recipe.yaml").write_text("learning_rate: 1e-3\neval_strategy: no\nsave_strategy: no\n")
    recipe = parse_recipe(["--config", str(tmp_path / "recipe.yaml"), *PLACES, "--use_cpu"])
    assert (recipe.config.learning_rate, recipe.config.eval_strategy, recipe.config.save_strategy) == (
        1e-3,
        "no",
        "no",
    )
