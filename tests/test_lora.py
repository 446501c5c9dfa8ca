"""Stage 2 by LoRA: what moves, what the adapter carries, and that a stranger who loads it has the trained model."""

import filecmp
import json
import shutil
from pathlib import Path

import pytest

from tests.support.training_runs import LORA, interrupt, refuse, train

PROJECTOR = {
    f"base_model.model.model.multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
}


@pytest.fixture(scope="module")
def trained(stage1, rows_file, tmp_path_factory):
    """The adapter folder, and the model in memory as it was when training ended."""
    from llava_mistral.training.saving import run_record

    folder = tmp_path_factory.mktemp("lora") / "adapter"
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        finish = run_record.finish_run
        patch.setattr(run_record, "finish_run", lambda trainer, *rest: (kept.append(trainer), finish(trainer, *rest)))
        train("finetune", stage1, rows_file, folder, gradient_checkpointing="True", **LORA)
    return folder, kept[0]


@pytest.fixture(scope="module")
def adapter(trained):
    return trained[0]


def load_base(folder):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()


def load_adapter(base, folder):
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(base), folder).eval()


def logits(model, folder):
    """Of a question about a picture."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    picture = Image.linear_gradient("L").convert("RGB")
    batch = processor(images=picture, text=f"{processor.image_token}\nWhich digit is written?", return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_the_folder_is_an_adapter_of_the_checkpoint_the_user_named(stage1, adapter):
    names = {path.name for path in adapter.iterdir()}
    of_the_model = {"config.json", "generation_config.json", "model.safetensors"}
    of_the_model |= {f"{name}_llava_mistral.py" for name in ("configuration", "loading", "modeling")}
    assert names == {path.name for path in stage1.iterdir()} - of_the_model | {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["lora_dropout"]) == ("LORA", 4, 8, 0.05)
    assert config["base_model_name_or_path"] == str(stage1)
    assert config["auto_mapping"] is None, "it would name a module of this machine's cache"


def test_lora_touches_every_matrix_of_the_text_layers_and_the_projector_is_whole(stage1, adapter):
    """Nothing of the vision tower, of the embeddings or of the head."""
    from safetensors.torch import load_file

    base = load_file(stage1 / "model.safetensors")
    matrices = {name for name in base if ".language_model.layers." in name and "_proj." in name}
    halves = {f"base_model.model.{name.removesuffix('weight')}lora_{ab}.weight" for name in matrices for ab in "AB"}
    weights = adapter_weights(adapter)
    assert len(matrices) % 7 == 0 and matrices
    assert weights.keys() == halves | PROJECTOR
    for name in PROJECTOR:
        assert not weights[name].equal(base[name.removeprefix("base_model.model.")]), f"{name} did not move"
    assert all(weights[name].any() for name in halves), "the B halves start at zero"


def test_the_record_counts_what_lora_trains(stage1, adapter):
    from safetensors.torch import load_file

    run = json.loads((adapter / "run.json").read_text())
    projector = sum(
        weight.numel() for name, weight in load_file(stage1 / "model.safetensors").items() if "projector" in name
    )
    whole = sum(weight.numel() for weight in load_file(stage1 / "model.safetensors").values())
    trained = sum(weight.numel() for weight in adapter_weights(adapter).values())
    assert run["parameters"] == {"trainable": trained, "frozen": whole - projector}
    assert {key: run["recipe"][key] for key in ("lora_r", "lora_alpha", "mm_projector_lr")} == {
        "lora_r": 4,
        "lora_alpha": 8,
        "mm_projector_lr": 5e-3,
    }
    assert run["base_model"] == [str(stage1)] and run["before"]["stage"] == "pretrain"


def test_lora_learns(adapter):
    curve = [loss for _, loss in json.loads((adapter / "run.json").read_text())["loss_curve"]]
    assert len(curve) == 4 and curve[-1] < curve[0]


def test_the_projector_has_its_own_learning_rate(trained):
    trainer = trained[1]
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    rates = {}
    for group in trainer.optimizer.param_groups:
        for weight in group["params"]:
            rates.setdefault("projector" if "multi_modal_projector" in names[id(weight)] else "lora", set()).add(
                group["initial_lr"]
            )
    assert rates == {"projector": {5e-3}, "lora": {1e-2}}
    given = [id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]]
    assert sorted(given) == sorted(id(weight) for weight in trainer.model.parameters() if weight.requires_grad)


def test_base_and_adapter_give_the_logits_of_the_trained_model(stage1, trained):
    import torch

    folder, trainer = trained
    here = logits(trainer.model.eval().float(), folder)
    loaded = load_adapter(stage1, folder)
    assert torch.equal(logits(loaded, folder), here)
    assert not torch.allclose(here, logits(load_base(stage1), folder), atol=1e-2), "the adapter does nothing"


def test_an_adapter_is_evaluated_as_the_model_it_makes_of_its_base(stage1, adapter):
    """Through the Auto class, which finds the base by itself; the projector is the trained one."""
    import torch

    from llava_mistral.evaluation.asking import Checkpoint

    model = Checkpoint(str(adapter), device="cpu").model
    assert torch.equal(logits(model, adapter), logits(load_adapter(stage1, adapter), adapter))


def test_results_of_an_adapter_are_not_taken_for_those_of_another_base(adapter, stage1, tmp_path):
    from llava_mistral.evaluation.asking import weights_fingerprint

    folder, base = shutil.copytree(adapter, tmp_path / "adapter"), shutil.copytree(stage1, tmp_path / "base")
    config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    before = weights_fingerprint(str(folder))
    (base / "model.safetensors").touch()
    assert weights_fingerprint(str(folder)) != before


def test_a_merged_adapter_is_a_complete_checkpoint_with_the_same_logits(stage1, adapter, tmp_path):
    import torch

    there = logits(load_adapter(stage1, adapter), adapter)
    merged = load_adapter(stage1, adapter).merge_and_unload()
    torch.testing.assert_close(logits(merged, adapter), there, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path)
    again = load_base(tmp_path)
    assert torch.equal(logits(again, adapter), logits(merged, adapter))
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "configuration_llava_mistral.py",
        "loading_llava_mistral.py",
        "modeling_llava_mistral.py",
    }
    before, after = (json.loads((source / "config.json").read_text()) for source in (stage1, tmp_path))
    assert after == before


def test_the_base_comes_back_bit_for_bit(stage1, adapter):
    """`unload()` alone drops the LoRA matrices and keeps the projector, which PEFT holds for a module of the model."""
    import torch

    base = load_base(stage1)
    wanted = {name: weight.clone() for name, weight in base.state_dict().items()}
    here = logits(base, stage1)
    model = load_adapter(stage1, adapter)
    with model.disable_adapter():
        assert torch.equal(logits(model, stage1), here)
    model.delete_adapter("default")
    bare = model.unload()
    assert torch.equal(logits(bare, stage1), here)
    found = bare.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], weight) for name, weight in wanted.items())


def test_an_interrupted_lora_run_goes_on_to_the_same_adapter(stage1, adapter, rows_file, tmp_path, monkeypatch):
    out = tmp_path / "adapter"
    schedule = {"save_strategy": "steps", "save_steps": 2, "gradient_checkpointing": "True", **LORA}
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_save", interrupt)
        train("finetune", stage1, rows_file, out, code=130, **schedule)
    assert (out / "checkpoint-2" / "adapter_model.safetensors").is_file() and not (out / "run.json").exists()
    train("finetune", stage1, rows_file, out, **schedule)
    assert filecmp.cmp(adapter / "adapter_model.safetensors", out / "adapter_model.safetensors", shallow=False)
    assert {path.name for path in out.iterdir()} == {path.name for path in adapter.iterdir()}


def test_a_run_whose_adapter_lacks_the_projector_does_not_finish(stage1, rows_file, tmp_path, monkeypatch):
    """As LLaVA's did; the checkpoint stays, so nothing that was learned is lost."""
    from peft import PeftModel
    from safetensors.torch import load_file, save_file

    save = PeftModel.save_pretrained

    def forgetful(self, folder, **options):
        save(self, folder, **options)
        file = Path(folder) / "adapter_model.safetensors"
        save_file({name: weight for name, weight in load_file(file).items() if "projector" not in name}, file)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "save_pretrained", forgetful)
        schedule = {"save_strategy": "steps", "save_steps": 4, **LORA}
        done = train("finetune", stage1, rows_file, out, code=1, **schedule)
    assert "without its projector" in done.stderr
    assert not (out / "run.json").exists() and not (out / "adapter_config.json").exists()
    assert (out / "checkpoint-4").is_dir()


def test_the_llama_twin_trains_by_lora(vision_folder, llama_folder, rows_file, tmp_path):
    from llava_mistral.commands.build import main
    from tests.support.running import run_here

    parts = ["--vision", vision_folder, "--llm", llama_folder, "--chat_template", "vicuna_v1"]
    run_here(main, *parts, "--output", tmp_path / "stage0")
    train("finetune", tmp_path / "stage0", rows_file, tmp_path / "adapter", **LORA)
    assert adapter_weights(tmp_path / "adapter").keys() > PROJECTOR
    load_adapter(tmp_path / "stage0", tmp_path / "adapter")


def test_a_stage_cannot_start_from_an_adapter(adapter, rows_file, tmp_path):
    done = train("finetune", adapter, rows_file, tmp_path / "out", code=2)
    assert "holds an adapter, not a checkpoint; merge it into its base first" in done.error


@pytest.mark.parametrize(
    ("stage", "flag", "value", "said"),
    [
        ("pretrain", "--use_peft", "True", "field use_peft: stage 1 trains the projector in full"),
        ("finetune", "--lora_r", "8", "field lora_r: has no effect without LoRA; add --use_peft or leave it out"),
        ("pretrain", "--mm_projector_lr", "1e-3", "field mm_projector_lr: stage 1 trains the projector alone"),
        ("finetune", "--mm_projector_lr", "0", "field mm_projector_lr: 0.0 is out of range; give a positive number"),
    ],
)
def test_lora_where_it_means_nothing_is_one_line_and_exit_code_2(
    tmp_path, stage0, rows_file, stage, flag, value, said
):
    refuse(tmp_path, flag, value, stage0=stage0, rows_file=rows_file, message=said, stage=stage)
