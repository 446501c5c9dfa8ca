"""What was asked for happens, and the record says what was saved: losses, rates, noise, lengths and types."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_mistral.ground.bad_input import BadInput
from tests.support.running import recipe_of, run_here
from tests.support.tiny_components import save_rows
from tests.support.training_runs import INSTRUCT, interrupt, train

LORA = {"use_peft": "True", "lora_r": 4, "lora_alpha": 8}


def record(folder) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_the_held_out_loss_is_the_same_for_any_batch_size(stage0, mixed_rows, tmp_path):
    """Of answers of one and of many words: the mean over their tokens, which a mean of batches is not."""
    records = json.loads(mixed_rows.read_text())
    records[0]["conversations"][1]["value"] = "It is four, as two and two have always been, " * 3
    mixed_rows.with_name("unlike.json").write_text(json.dumps(records))
    seen = {}
    for size in (1, 4, 16):
        given = {"eval_dataset": mixed_rows.with_name("unlike.json"), "eval_strategy": "epoch", "sample_answers": 0}
        given |= {"num_train_epochs": 1, "learning_rate": "1e-12", "per_device_eval_batch_size": size}
        train("finetune", stage0, mixed_rows, tmp_path / str(size), **INSTRUCT, **given)
        seen[size] = record(tmp_path / str(size))["eval_curve"][0][1]
    assert seen[4] == pytest.approx(seen[1], rel=1e-5) and seen[16] == pytest.approx(seen[1], rel=1e-5)


def test_the_record_names_the_step_that_was_saved(stage0, rows_file, tmp_path):
    """Asked for the worst, which the first step is, the saved weights are the first step's, and the card says so."""
    from llava_mistral.publishing.model_card import _facts

    given = {"eval_dataset": rows_file, "eval_strategy": "steps", "eval_steps": 1, "sample_answers": 0, **INSTRUCT}
    given |= {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "lr_scheduler_type": "constant"}
    worst = {"load_best_model_at_end": "True", "metric_for_best_model": "loss", "greater_is_better": "True"}
    train("finetune", stage0, rows_file, tmp_path / "best", **given, **worst)
    done = record(tmp_path / "best")
    losses, trained = (dict(map(tuple, done[name])) for name in ("eval_curve", "loss_curve"))
    assert max(losses, key=losses.get) == 1 and done["steps"] == 3
    assert done["best"] == {
        "step": 1,
        "metric": "loss",
        "value": losses[1],
        "loss": trained[1],
        "eval_loss": losses[1],
    }
    assert ("weights of step", "1") in _facts(done)
    train("finetune", stage0, rows_file, tmp_path / "first", **given | {"max_steps": 1})
    assert record(tmp_path / "first")["best"] is None
    best, first = (load_file(tmp_path / name / "model.safetensors") for name in ("best", "first"))
    assert all(torch.equal(weight, first[name]) for name, weight in best.items())


def test_the_projector_has_a_rate_of_its_own_in_a_full_fine_tune(stage0, rows_file, tmp_path):
    """SGD without momentum or clipping: a tenth of the rate is a tenth of the first step."""
    moved = {}
    for name, more in {"common": {}, "own": {"mm_projector_lr": "1e-3"}}.items():
        given = {"optim": "sgd", "learning_rate": "1e-2", "max_steps": 1, "max_grad_norm": 0, **more}
        train("finetune", stage0, rows_file, tmp_path / name, **INSTRUCT, **given, lr_scheduler_type="constant")
        before, after = (load_file(folder / "model.safetensors") for folder in (stage0, tmp_path / name))
        parts = ("multi_modal_projector.linear_2.bias", "language_model.layers.0.mlp.up_proj.weight")
        moved[name] = [(after[f"model.{part}"] - before[f"model.{part}"]).norm().item() for part in parts]
    assert moved["own"][0] == pytest.approx(moved["common"][0] / 10, rel=1e-3)
    assert moved["own"][1] == pytest.approx(moved["common"][1], rel=1e-3) and moved["own"][1] > 0
    assert record(tmp_path / "own")["recipe"]["mm_projector_lr"] == 1e-3


@pytest.fixture(scope="module")
def in_tiles(vision_folder, mistral_folder, tmp_path_factory):
    """A checkpoint whose pictures are read in tiles, and rows of pictures of other shapes."""
    from llava_mistral.commands.build import main

    folder = tmp_path_factory.mktemp("tiles")
    parts = ("--vision", vision_folder, "--llm", mistral_folder, "--image_aspect_ratio", "anyres")
    run_here(main, *parts, "--output", folder / "stage0")
    return folder / "stage0", save_rows(folder / "rows")


def test_the_newline_of_tiles_is_trained_saved_resumed_and_merged_with_lora(in_tiles, tmp_path, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    stage0, rows = in_tiles
    saving = {"save_strategy": "steps", "save_steps": 2, **LORA, **INSTRUCT}
    train("finetune", stage0, rows, tmp_path / "whole", **saving)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_save", interrupt)
        train("finetune", stage0, rows, tmp_path / "cut", code=130, **saving)
    train("finetune", stage0, rows, tmp_path / "cut", **saving)
    whole, cut = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(weight, cut[name]) for name, weight in whole.items())
    trained = whole["base_model.model.model.image_newline"]
    before = load_file(stage0 / "model.safetensors")["model.image_newline"]
    assert not torch.equal(trained, before)
    plain = AutoModelForImageTextToText.from_pretrained(stage0)
    merged = PeftModel.from_pretrained(plain, tmp_path / "whole").merge_and_unload()
    assert torch.equal(merged.model.image_newline, trained)
    direct = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole")
    assert torch.equal(direct.model.image_newline, trained)


def test_an_adapter_without_its_newline_is_no_adapter(in_tiles, tmp_path):
    from llava_mistral.training import lora
    from llava_mistral.training.recipe import StageArguments
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    model = LlavaMistralForConditionalGeneration.from_pretrained(in_tiles[0])
    model, counts = lora.add_lora(model, StageArguments(model_name_or_path=str(in_tiles[0]), lora_r=4), 0)
    lora.save_adapter(model, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    del weights["base_model.model.model.image_newline"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(RuntimeError, match="image_newline"):
        lora.check_projector(model, file)


def test_a_checkpoint_keeps_the_types_of_its_base(stage0, rows_file, tmp_path):
    """What was frozen is stored as the base stores it; what moved is float32, with every bit that it learned."""
    base = tmp_path / "base"
    shutil.copytree(stage0, base)
    weights = load_file(base / "model.safetensors")
    small = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(small, base / "model.safetensors", {"format": "pt"})
    train("pretrain", base, rows_file, tmp_path / "stage1")
    saved = load_file(tmp_path / "stage1" / "model.safetensors")
    for name, weight in saved.items():
        moved = "multi_modal_projector" in name
        assert weight.dtype == (torch.float32 if moved else torch.bfloat16), name
        assert moved or torch.equal(weight, small[name]), name
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (base, tmp_path / "stage1")]
    projector = sum(2 * weight.numel() for name, weight in small.items() if "multi_modal_projector" in name)
    assert sizes[1] - sizes[0] <= projector + 4096, "two bytes more for each weight that moved"
    train("finetune", tmp_path / "stage1", rows_file, tmp_path / "stage2", **INSTRUCT, max_steps=1)
    saved = load_file(tmp_path / "stage2" / "model.safetensors")
    assert {weight.dtype for name, weight in saved.items() if "vision_tower" in name} == {torch.bfloat16}
    assert {weight.dtype for name, weight in saved.items() if "language_model" in name} == {torch.float32}


def long_rows(rows_file, folder, long: int):
    """The rows, of which the first `long` ask for 3,000 words."""
    shutil.copytree(rows_file.parent, folder)
    records = json.loads((folder / rows_file.name).read_text())
    for entry in records[:long]:
        entry["conversations"][0]["value"] += " very" * 3000
    (folder / rows_file.name).write_text(json.dumps(records))
    return folder / rows_file.name


def test_samples_beyond_the_context_are_refused_skipped_and_planned(stage0, rows_file, tmp_path):
    file = long_rows(rows_file, tmp_path / "rows", 2)
    ids = [entry["id"] for entry in json.loads(file.read_text())]
    limit = json.loads((stage0 / "config.json").read_text())["text_config"]["max_position_embeddings"]
    done = train("finetune", stage0, file, tmp_path / "out", code=2, **INSTRUCT)
    assert f"record {ids[0]}" in done.error and f"the context of the model {limit:,} (2 such samples" in done.error
    skip = {"on_bad_sample": "skip", "max_bad_samples": "0.5"}
    done = train("finetune", stage0, file, tmp_path / "out", **INSTRUCT, **skip, num_train_epochs=1)
    assert f"2 of 8 samples beyond the context of {limit:,} tokens ({ids[0]}, {ids[1]};" in done.stdout
    seen = record(tmp_path / "out")
    assert (seen["data"]["rows"], seen["data"]["skipped"], seen["tokens"]["samples"]) == (6, 2, 6)
    assert [entry["record"] for entry in json.loads((tmp_path / "out" / "skipped.json").read_text())] == ids[:2]
    planned = train("finetune", stage0, file, tmp_path / "new", **INSTRUCT, plan="True").stdout
    assert f"2 of 8 samples beyond the context of {limit:,} tokens" in planned
    assert json.loads(planned.split("PLAN ")[1])["rows"] == 6
    planned = train("finetune", stage0, rows_file, tmp_path / "new", **INSTRUCT, plan="True").stdout
    assert json.loads(planned.split("PLAN ")[1])["beyond"] == ""


def test_fewer_rows_than_a_batch_are_refused_where_it_would_be_dropped(stage0, rows_file, tmp_path):
    given = {**INSTRUCT, "per_device_train_batch_size": 9, "max_steps": 1}
    done = train("finetune", stage0, rows_file, tmp_path / "out", code=2, dataloader_drop_last="True", **given)
    assert "field dataloader_drop_last: 8 rows do not fill one batch of 9" in done.error
    assert record(train("finetune", stage0, rows_file, tmp_path / "out", **given) and tmp_path / "out")["steps"] == 1


def test_noise_in_a_packed_row_is_scaled_by_each_sample(stage0):
    """NEFTune's bound is alpha / sqrt(length * width), whatever lies beside the sample."""
    from llava_mistral.training.trainer import PackedNoise
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    model = LlavaMistralForConditionalGeneration.from_pretrained(stage0).train()
    embeddings = model.get_input_embeddings()
    ids = torch.arange(3, 110)[None]
    clean = embeddings(ids).detach()
    noise = PackedNoise(model, 5.0)
    assert torch.equal(embeddings(ids), clean), "no packed row is known yet"
    noise.lengths = [7, 100]
    added = (embeddings(ids) - clean).abs()[0]
    for part, length in ((added[:7], 7), (added[7:], 100)):
        bound = 5 / (length * clean.shape[-1]) ** 0.5
        assert 0.9 * bound < part.max() <= bound * (1 + 1e-4)
    assert torch.equal(embeddings.eval()(ids), clean)


def test_the_plan_has_the_rows_that_the_trainer_makes(stage0, mixed_rows, tmp_path):
    given = {**INSTRUCT, "per_device_train_batch_size": 6, "row_tokens": 90, "max_steps": 1}
    train("finetune", stage0, mixed_rows, tmp_path / "out", **given)
    made = record(tmp_path / "out")["micro_batches"]
    assert made["samples"] < 6
    planned = train("finetune", stage0, mixed_rows, tmp_path / "new", **given, plan="True").stdout
    assert f"{made['of_a_step']:,} of up to {made['samples']:,} samples on each GPU" in planned


def test_every_optimizer_is_planned_or_said_to_be_unknown(stage0, rows_file, monkeypatch, capsys):
    from transformers.training_args import OptimizerNames

    from llava_mistral.data.conversations import read_rows
    from llava_mistral.training.plan import fitting
    from llava_mistral.training.plan.checkpoint import worded_processor
    from llava_mistral.training.plan.gpus import GPUS
    from llava_mistral.training.plan.memory import STATES, TORCH, UNKNOWN

    names = {name.value for name in OptimizerNames}
    assert {"paged_adamw_8bit", "adamw_torch_8bit", "paged_adamw_32bit"} <= STATES.keys()
    assert {*STATES, *TORCH, *UNKNOWN} == names, "each name of transformers in one table, and no other"
    recipe = recipe_of(stage="finetune", model_name_or_path=stage0, optim="lomo")
    recipe.config.use_cpu = False
    monkeypatch.setattr(fitting, "present_gpu", lambda: GPUS["H100"])
    fitting.check_fit(recipe.stage, recipe.config, read_rows(rows_file), worded_processor(recipe.stage))
    assert "whether the run fits was not checked: of lomo, it steps within the backward" in capsys.readouterr().err


def test_an_empty_answer_is_one_line(stage0, rows_file, tmp_path):
    """Whoever reads the rows may refuse it before; nobody learns it."""
    from llava_mistral.training.collator import learned_turns

    row = {"id": "7", "prompt": [{"role": "user", "content": "?"}]}
    with pytest.raises(BadInput, match="record 7: field completion: an answer is empty"):
        learned_turns({**row, "completion": [{"role": "assistant", "content": " \n"}]})
