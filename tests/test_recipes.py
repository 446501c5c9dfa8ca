"""The recipes are the study: every number is asserted, through the parser that llava-mistral train uses."""

import itertools
import os

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.recipe_files import RECIPES, read_yaml
from llava_mistral.training.recipe import parse_recipe
from llava_mistral.training.recipe_checks import OF_LORA, check_recipe
from tests.support.recipe_sizes import HEAD, LORA, PROJECTOR, TEXT, TOWER, WHOLE, config_of, size
from tests.support.running import parsed

STAGES = sorted(path for path in RECIPES.glob("*/*.yaml") if path.stem.startswith(("pretrain", "finetune")))
STUDY = ("mistral", "llama")


@pytest.mark.parametrize("recipe", STAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_stage_is_parsed_by_the_real_parser(recipe):
    """bf16 is refused on a machine without a GPU unless it is told to do with its CPU."""
    given = read_yaml(recipe)
    stage, config = parsed(recipe, "--use_cpu")
    assert recipe.stem.startswith(stage.stage)
    assert config.max_length is None, "a cut would take image tokens with it"
    for key, value in given.items():
        seen = getattr(stage, key, None) if hasattr(stage, key) else getattr(config, key)
        seen = getattr(seen, "value", seen)
        assert seen == value or (key, seen, value) == ("report_to", [], "none"), key


def test_every_recipe_of_components_is_parsed():
    from llava_mistral.miniature.components import ComponentsConfig

    for recipe in RECIPES.glob("*/components.yaml"):
        assert ComponentsConfig.from_yaml(recipe).clip_vision["image_size"] > 0


# What the study says, and LLaVA-1.5 where the study is silent: every number of the three stages, for both backbones.
SCHEDULE = {
    "optim": "adamw_torch_fused",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "bf16": True,
    "fp16": False,
    "gradient_checkpointing": True,
    "seed": 42,
}
CAPTIONS = {
    "stage": "pretrain",
    "dataset": "data/blip_laion_cc_sbu_558k.json",
    "image_folder": "data/LLaVA-Pretrain",
    "chat_template": "plain",
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
    "batch": 64,
    "use_peft": False,
}
QUESTIONS = {
    "stage": "finetune",
    "dataset": "data/scienceqa-1000",
    "answer_style": "letter",
    "num_train_epochs": 15,
    "learning_rate": 2e-5,
    "batch": 32,
    "use_peft": False,
}
LORA_OF_LLAVA = {"use_peft": True, "lora_r": 128, "lora_alpha": 256, "lora_dropout": 0.05, "mm_projector_lr": 2e-5}
NUMBERS = {
    "pretrain": CAPTIONS | SCHEDULE,
    "finetune": QUESTIONS | SCHEDULE,
    "finetune_lora": QUESTIONS | SCHEDULE | LORA_OF_LLAVA,
}


@pytest.mark.parametrize("backbone", STUDY)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_stage_is_the_study(backbone, name):
    stage, config = parsed(RECIPES / backbone / f"{name}.yaml", "--use_cpu")
    found = {**vars(config), **vars(stage)}
    found["batch"] = config.per_device_train_batch_size * config.gradient_accumulation_steps
    found = {key: getattr(found[key], "value", found[key]) for key in NUMBERS[name]}
    assert found == NUMBERS[name]
    assert config.get_warmup_steps(1000) == 30, "0.03 of all steps"


@pytest.mark.parametrize("backbone", STUDY)
def test_stage2_by_lora_differs_from_stage2_in_lora_alone(backbone):
    lora, full = (read_yaml(RECIPES / backbone / f"{name}.yaml") for name in ("finetune_lora", "finetune"))
    assert {key for key in lora if lora[key] != full.get(key)} == {
        "output_dir",
        "use_peft",
        "mm_projector_lr",
        *OF_LORA,
    }
    assert full.keys() <= lora.keys()


@pytest.mark.parametrize("backbone", STUDY)
def test_qlora_is_lora_in_4_bits_and_nothing_else(backbone):
    stage, _ = parsed(RECIPES / backbone / "finetune_qlora.yaml", "--use_cpu")
    assert stage.use_peft and stage.load_in_4bit
    qlora, lora = (read_yaml(RECIPES / backbone / f"{name}.yaml") for name in ("finetune_qlora", "finetune_lora"))
    assert {key for key in qlora if qlora[key] != lora.get(key)} == {"output_dir", "load_in_4bit"}
    assert lora.keys() <= qlora.keys()


@pytest.mark.parametrize(
    ("stage", "keys"),
    [
        ("pretrain", {"model_name_or_path", "output_dir"}),
        ("finetune", {"model_name_or_path", "output_dir", "chat_template"}),
        ("finetune_lora", {"model_name_or_path", "output_dir", "chat_template"}),
        ("finetune_qlora", {"model_name_or_path", "output_dir", "chat_template"}),
    ],
)
def test_twins_differ_only_in_the_backbone(stage, keys):
    mistral, llama = (read_yaml(RECIPES / backbone / f"{stage}.yaml") for backbone in STUDY)
    assert mistral.keys() == llama.keys()
    assert {key for key in mistral if mistral[key] != llama[key]} == keys


@pytest.mark.parametrize("backbone", STUDY)
def test_stage2_starts_where_stage1_ends(backbone):
    names = "pretrain", "finetune", "finetune_lora", "finetune_qlora"
    pretrain, *stage2 = (read_yaml(RECIPES / backbone / f"{name}.yaml") for name in names)
    for recipe in stage2:
        assert recipe["model_name_or_path"] == pretrain["output_dir"]
    build_command = (RECIPES / backbone / "pretrain.yaml").read_text().split("llava-mistral train")[0]
    assert f"--output {pretrain['model_name_or_path']}\n" in build_command


@pytest.mark.parametrize("backbone", STUDY)
def test_a_recipe_without_its_checkpoint_says_so(backbone, monkeypatch, tmp_path):
    from llava_mistral.ground.bad_input import BadInput

    recipe = parse_recipe(["--config", str(RECIPES / backbone / "pretrain.yaml"), "--use_cpu"])
    monkeypatch.chdir(tmp_path)  # where no checkpoints/ and no data/ are
    (tmp_path / recipe.stage.model_name_or_path).mkdir(parents=True)
    with pytest.raises(BadInput, match=r"there is no config\.json in it; give a checkpoint folder"):
        check_recipe(recipe)


@pytest.mark.parametrize("text", ["mistral", "llama"])
def test_the_full_size_model_has_the_parameters_of_the_published_ones(text, tmp_path):
    import torch

    from llava_mistral.training.lora import add_lora
    from llava_mistral.training.stages import set_trainable
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    config = config_of(tmp_path, text)
    assert config.text_config.vocab_size == 32064
    assert config.image_seq_length == 576
    assert getattr(config.text_config, "sliding_window", None) is None, "Instruct-v0.2 has no window, and gets none"
    with torch.device("meta"):
        model = LlavaMistralForConditionalGeneration(config)
    parts = {name: size(part) for name, part in model.model.named_children()}
    assert parts == {"vision_tower": TOWER, "multi_modal_projector": PROJECTOR, "language_model": TEXT[text]}
    assert size(model.lm_head) == HEAD
    assert size(model) == WHOLE[text] == TOWER + PROJECTOR + TEXT[text] + HEAD

    assert set_trainable(model, "pretrain") == {"trainable": PROJECTOR, "frozen": WHOLE[text] - PROJECTOR}
    assert set_trainable(model, "finetune") == {"trainable": WHOLE[text] - TOWER, "frozen": TOWER}

    stage, config = parsed(RECIPES / text / "finetune_lora.yaml", "--use_cpu")
    with torch.device("meta"):
        _, counts = add_lora(model, stage, config.seed)
    assert counts == {"trainable": LORA[text] + PROJECTOR, "frozen": WHOLE[text] - PROJECTOR}


BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefgh")),
    "merges": "a: &a {x: 1, y: 2}\n"
    + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in itertools.pairwise("abcdefgh")),
    "itself": "a: &a [*a]\n",
    "depth": "a: " + "[" * 5000,
    "a Python object": "a: !!python/object/apply:os.system ['true']\n",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.case("S40", "refused")
def test_yaml_that_unfolds_without_end_is_refused_as_recipe_and_as_card(tmp_path, kind):
    (tmp_path / "recipe.yaml").write_text(BOMBS[kind])
    with pytest.raises(BadInput, match="is not YAML"):
        read_yaml(tmp_path / "recipe.yaml")


@pytest.mark.case("S40", "refused")
def test_a_recipe_of_a_terabyte_is_refused_unread(tmp_path):
    (tmp_path / "recipe.yaml").touch()
    os.truncate(tmp_path / "recipe.yaml", 1 << 40)
    with pytest.raises(BadInput, match="has 1,099,511,627,776 bytes"):
        read_yaml(tmp_path / "recipe.yaml")


@pytest.mark.case("S40", "accepted")
def test_aliases_and_merges_of_a_few_values_are_read(tmp_path):
    (tmp_path / "recipe.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "recipe.yaml") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}
