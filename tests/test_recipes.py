"""The recipes are the study: every number is asserted, through the parser that llava-mistral train uses."""

from pathlib import Path

import pytest

from llava_mistral.ground.recipe_files import RECIPES, read_yaml
from llava_mistral.training.recipe import parse_recipe
from llava_mistral.training.recipe_checks import OF_LORA, check_recipe

STAGES = sorted(path for path in RECIPES.glob("*/*.yaml") if path.stem.startswith(("pretrain", "finetune")))
STUDY = ("mistral", "llama")

# Mistral-7B-Instruct-v0.2, Vicuna-7B-v1.5 and CLIP ViT-L/14-336 as their repositories' config.json have them.
MISTRAL_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "sliding_window": None,
}
VICUNA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


def parse(recipe: Path, *flags: str):
    """What the verb makes of a recipe: (stage, config)."""
    wanting = {"model_name_or_path": "checkpoints/stage0", "dataset": "data", "output_dir": "outputs/stage"}
    given = read_yaml(recipe)
    named = [f"--{key}={value}" for key, value in wanting.items() if key not in given]
    read = parse_recipe(["--config", str(recipe), *named, *flags])
    return read.stage, read.config


@pytest.mark.parametrize("recipe", STAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_stage_is_parsed_by_the_real_parser(recipe):
    """bf16 is refused on a machine without a GPU unless it is told to do with its CPU."""
    given = read_yaml(recipe)
    stage, config = parse(recipe, "--use_cpu")
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
    stage, config = parse(RECIPES / backbone / f"{name}.yaml", "--use_cpu")
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
    stage, _ = parse(RECIPES / backbone / "finetune_qlora.yaml", "--use_cpu")
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


def config_of(tmp_path, text: str):
    """The configuration that llava-mistral build would make of the real parts; tokens: 32,000, image and padding."""
    from transformers import CLIPConfig, LlamaConfig, MistralConfig

    from llava_mistral.checkpoints.stage0 import stage0_config

    CLIPConfig(vision_config=CLIP_L_336, projection_dim=768).save_pretrained(tmp_path / "clip")
    made = MistralConfig(**MISTRAL_7B) if text == "mistral" else LlamaConfig(**VICUNA_7B)
    made.save_pretrained(tmp_path / text)
    return stage0_config(tmp_path / "clip", tmp_path / text, image_token_id=32000, vocab_size=32002)


# By hand. The tower: class token 1,024; patches 3 x 14 x 14 x 1,024 = 602,112; positions (24 x 24 + 1) x 1,024 =
# 590,848; the two layer norms outside the layers 4 x 1,024; together 1,198,080. A layer: four attention matrices with
# biases 4 x (1,024^2 + 1,024) = 4,198,400, the MLP 2 x 1,024 x 4,096 + 4,096 + 1,024 = 8,393,728, two norms 4,096;
# together 12,596,224, and there are 24.
TOWER = 303_507_456
# (1,024 + 1) x 4,096 = 4,198,400 and (4,096 + 1) x 4,096 = 16,781,312.
PROJECTOR = 20_979_712
# The 32,002 tokens padded to a multiple of 64: 32,064 x 4,096.
HEAD = 131_334_144
TEXT = {
    # Embeddings like the head. A layer: q and o 2 x 4,096^2, k and v 2 x 4,096 x 1,024 (8 of 32 heads), MLP
    # 3 x 4,096 x 14,336, two norms 8,192; together 218,112,000, and there are 32; the last norm 4,096. With the head
    # that is 7,242,256,384: the 7,241,732,096 of Mistral-7B as published and 2 x 64 x 4,096 for the padding.
    "mistral": 7_110_922_240,
    # A layer: attention 4 x 4,096^2, MLP 3 x 4,096 x 11,008, norms 8,192; together 202,383,360, 32 times, and 4,096.
    "llama": 6_607_605_760,
}
# r (in + out) for each of a layer's seven matrices, r = 128. Mistral: q and o 2 x 8,192, k and v 2 x 5,120, MLP
# 3 x 18,432; together 81,920. LLaMA: attention 4 x 8,192, MLP 3 x 15,104; together 78,080. 32 layers.
LORA = {"mistral": 128 * 81_920 * 32, "llama": 128 * 78_080 * 32}
# The sum for LLaMA is what llava-hf/llava-1.5-7b-hf holds.
WHOLE = {"mistral": 7_566_743_552, "llama": 7_063_427_072}


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

    stage, config = parse(RECIPES / text / "finetune_lora.yaml", "--use_cpu")
    with torch.device("meta"):
        _, counts = add_lora(model, stage, config.seed)
    assert counts == {"trainable": LORA[text] + PROJECTOR, "frozen": WHOLE[text] - PROJECTOR}


def size(module) -> int:
    return sum(weight.numel() for weight in module.parameters())
