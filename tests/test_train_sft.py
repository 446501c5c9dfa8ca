"""The verb and what it stands on: what moves, what carries loss, what is refused, what a finished run leaves."""

import filecmp
import json
import shutil
from pathlib import Path

import pytest

from llava_mistral.ground.output_folders import MARKER
from tests.support.running import run_here
from tests.support.tiny_components import save_rows
from tests.support.training_runs import TEMPLATES, interrupt, moved, refuse, train


@pytest.fixture(scope="module")
def stage2(stage1, rows_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "stage2"
    train("finetune", stage1, rows_file, folder, gradient_checkpointing="True")
    return folder


def test_stage1_moves_only_the_projector(stage0, stage1):
    changed = {name for name, change in moved(stage0, stage1).items() if change}
    assert changed == {f"model.multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}


def test_stage2_moves_text_model_and_projector_and_not_the_tower(stage1, stage2):
    change = moved(stage1, stage2)
    still = {name for name, changed in change.items() if not changed}
    assert still == {name for name in change if name.startswith("model.vision_tower.")} != set()


def test_the_llama_twin_trains_through_the_same_stages(vision_folder, llama_folder, rows_file, tmp_path):
    from llava_mistral.commands.build import main

    parts = ["--vision", vision_folder, "--llm", llama_folder, "--chat_template", "vicuna_v1"]
    run_here(main, *parts, "--output", tmp_path / "stage0")
    train("pretrain", tmp_path / "stage0", rows_file, tmp_path / "stage1")
    train("finetune", tmp_path / "stage1", rows_file, tmp_path / "stage2")
    for before, after, part in (("stage0", "stage1", "multi_modal_projector"), ("stage1", "stage2", "language_model")):
        change = moved(tmp_path / before, tmp_path / after)
        assert any(changed for name, changed in change.items() if f".{part}." in name)
        assert not any(changed for name, changed in change.items() if ".vision_tower." in name)


def test_pictures_in_tiles_train_through_the_same_stages(vision_folder, mistral_folder, tmp_path):
    """Of every shape in one batch; the newline that ends a row of patches is learned with the projector."""
    from PIL import Image

    from llava_mistral.commands.build import main

    parts = ("--vision", vision_folder, "--llm", mistral_folder, "--image_aspect_ratio", "anyres")
    run_here(main, *parts, "--output", tmp_path / "stage0")
    rows = save_rows(tmp_path / "rows")
    for index, size in enumerate([(20, 90), (90, 20), (64, 64)]):
        Image.new("RGB", size, (200, 10 * index, 90)).save(rows.parent / "images" / f"{index}.png")
    train("pretrain", tmp_path / "stage0", rows, tmp_path / "stage1")
    train("finetune", tmp_path / "stage1", rows, tmp_path / "stage2")
    first = moved(tmp_path / "stage0", tmp_path / "stage1")
    assert {name for name, did in first.items() if did} == {
        *(name for name in first if "multi_modal_projector" in name),
        "model.image_newline",
    }
    second = moved(tmp_path / "stage1", tmp_path / "stage2")
    assert all(did != name.startswith("model.vision_tower.") for name, did in second.items())
    losses = [loss for _, loss in json.loads((tmp_path / "stage2" / "run.json").read_text())["loss_curve"]]
    assert losses[-1] < losses[0]


def test_training_learns(stage1, stage2):
    curve = [loss for _, loss in json.loads((stage2 / "run.json").read_text())["loss_curve"]]
    assert len(curve) == 4 and curve[-1] < 0.8 * curve[0]


def test_a_trained_folder_differs_from_its_source_in_weights_and_record_only(stage0, stage1, stage2):
    """Its own template, too: stage 1 words with `plain`, the checkpoint goes on answering in its own words."""
    for folder in (stage1, stage2):
        names = {path.name for path in folder.iterdir()}
        assert names == {path.name for path in stage0.iterdir()} - {MARKER} | {"run.json", "loss.png", "log.jsonl"}
        for name in sorted(names - {"run.json", "loss.png", "log.jsonl", "model.safetensors", "config.json"}):
            assert filecmp.cmp(stage0 / name, folder / name, shallow=False), name
        before, after = (json.loads((source / "config.json").read_text()) for source in (stage0, folder))
        after["vision_config"].pop("dtype")  # which the library notes at the first loading
        assert after == before


def test_a_trained_checkpoint_answers(stage2):
    """Through the pipeline, as a stranger asks it."""
    from PIL import Image
    from transformers import pipeline

    ask = pipeline("image-text-to-text", model=str(stage2), trust_remote_code=True)
    parts = [{"type": "image", "image": Image.new("RGB", (9, 9))}, {"type": "text", "text": "Which digit is written?"}]
    said = ask(text=[{"role": "user", "content": parts}], max_new_tokens=4, do_sample=False)
    assert said[0]["generated_text"][-1]["role"] == "assistant"


def test_the_record_says_what_was_done(stage0, stage1, stage2, rows_file):
    from safetensors.torch import load_file

    first, second = (json.loads((folder / "run.json").read_text()) for folder in (stage1, stage2))
    assert (first["stage"], second["stage"]) == ("pretrain", "finetune")
    assert second["base_model"] == [str(stage1)] and second["before"] == first and first["before"] is None
    assert first["data"]["path"] == str(rows_file) and first["data"]["rows"] == 8
    assert first["data"]["sha256"] == second["data"]["sha256"]
    assert (first["steps"], first["recipe"]["learning_rate"], first["seed"]) == (4, 0.01, 42)
    weights = load_file(stage0 / "model.safetensors")
    tower = sum(weight.numel() for name, weight in weights.items() if "vision_tower" in name)
    projector = sum(weight.numel() for name, weight in weights.items() if "projector" in name)
    whole = sum(weight.numel() for weight in weights.values())
    assert first["parameters"] == {"trainable": projector, "frozen": whole - projector}
    assert second["parameters"] == {"trainable": whole - tower, "frozen": tower}
    assert {"transformers", "torch", "trl", "python"} < set(first["versions"])
    assert first["seconds"] > 0 and first["tokens"]["answer"] > 0
    assert first["window"].startswith("sliding window of 12 tokens, longest sequence ")
    assert first["window"].endswith("it bound") and second["tokens"]["longest"] > 12


def test_the_same_command_gives_the_same_weights(stage0, stage1, rows_file, tmp_path):
    train("pretrain", stage0, rows_file, tmp_path / "again")
    assert filecmp.cmp(stage1 / "model.safetensors", tmp_path / "again" / "model.safetensors", shallow=False)


def test_an_interrupted_run_goes_on_to_the_same_weights(stage1, stage2, rows_file, tmp_path, monkeypatch):
    """Two of four steps, a checkpoint, and the same command again: the bytes of the run that was never interrupted."""
    out = tmp_path / "stage2"
    schedule = {"save_strategy": "steps", "save_steps": 2, "gradient_checkpointing": "True"}
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_save", interrupt)
        done = train("finetune", stage1, rows_file, out, code=130, **schedule)
    assert "run the same command again to go on" in done.stderr
    assert (out / "checkpoint-2" / "trainer_state.json").is_file() and not (out / "run.json").exists()
    train("finetune", stage1, rows_file, out, **schedule)
    assert filecmp.cmp(stage2 / "model.safetensors", out / "model.safetensors", shallow=False)
    assert {path.name for path in out.iterdir()} == {path.name for path in stage2.iterdir()}


def test_text_only_batches_train(stage0, tmp_path):
    """Text-only rows among pictured ones, and whole batches of them."""
    folder = tmp_path / "rows"
    file = save_rows(folder, 2)
    records = json.loads(file.read_text())
    turns = [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "four"}]
    records += [{"id": f"text-{index}", "conversations": turns} for index in range(6)]
    file.write_text(json.dumps(records))
    done = train("finetune", stage0, file, tmp_path / "out", per_device_train_batch_size=2)
    assert "finetune, 8 steps" in done.stdout
    assert any(moved(stage0, tmp_path / "out").values())


# What is refused.


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--stage", None, "field stage: is not given; add it to the recipe or pass --stage"),
        ("--stage", "stage2", "field stage: invalid choice: 'stage2' (choose from 'pretrain', 'finetune')"),
        ("--model_name_or_path", "./absent", "field model_name_or_path: ./absent does not exist"),
        ("--dataset", "./absent.json", "field dataset: ./absent.json does not exist"),
        ("--image_folder", "./absent", "absent: field image_folder: no such folder"),
        ("--chat_template", "absent.jinja", "absent.jinja: field chat_template: no such file"),
        ("--learning_rate", "nan", "field learning_rate: nan is out of range"),
        ("--learning_rate", "-1", "field learning_rate: -1.0 is out of range"),
        ("--per_device_train_batch_size", "0", "field per_device_train_batch_size: 0 is out of range"),
        ("--row_tokens", "0", "field row_tokens: 0 is out of range"),
        ("--packing", "True", "field packing: is not allowed here; leave it out: packed, which is on by default"),
        ("--train_sampling_strategy", "sequential", "field train_sampling_strategy: 'sequential' has no effect on"),
        ("--learning_rat", "1", "field learning_rat: there is no such flag; did you mean --learning_rate?"),
        (
            "--config",
            "absent.yaml",
            "absent.yaml: field config: no such file, and not a recipe of the package; give a YAML file",
        ),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(tmp_path, stage0, rows_file, flag, value, said):
    refuse(tmp_path, flag, value, stage0=stage0, rows_file=rows_file, message=said)


def occupied(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [("run.json", "the folder holds a finished run"), ("mine.txt", "the folder holds something else")],
)
def test_an_occupied_output_folder_is_refused(tmp_path, stage0, rows_file, name, said):
    out = occupied(tmp_path / "full", name)
    refuse(tmp_path, "--output_dir", out, stage0=stage0, rows_file=rows_file, message=said)


@pytest.mark.parametrize("fault", ["empty", "absent image", "no folder in it"])
def test_data_that_cannot_be_read_is_refused_before_weights_are_read(tmp_path, stage0, rows_file, fault):
    file = tmp_path / "rows.json"
    if fault == "empty":
        file.write_text("[]")
        said = "rows.json: is not a list of records, or an empty one"
    elif fault == "absent image":
        shutil.copy(rows_file, file)
        said = "rows.json: record 0: field image:"
    else:
        file = tmp_path / "folder"
        file.mkdir()
        said = "folder: holds no data set; name a folder"
    refuse(tmp_path, "--dataset", file, stage0=stage0, rows_file=rows_file, message=said)


def test_stage1_refuses_a_row_without_a_picture(tmp_path, stage0):
    file = save_rows(tmp_path / "rows", 2)
    records = json.loads(file.read_text())
    records.append({"id": "blind", "conversations": [{**turn} for turn in records[0]["conversations"]]})
    records[-1]["conversations"][0]["value"] = "No picture."
    file.write_text(json.dumps(records))
    done = train("pretrain", stage0, file, tmp_path / "out", code=2)
    assert "record blind: field images: stage 1 trains the projector and this row has no picture" in done.error
    assert not (tmp_path / "out").exists()


def test_stage2_with_the_plain_template_is_refused(tmp_path, stage1, rows_file):
    """The study's published scripts did this: the loss falls, and no question was ever seen."""
    done = train("finetune", stage1, rows_file, tmp_path / "out", code=2, chat_template=TEMPLATES / "plain.jinja")
    assert (
        "plain.jinja: field chat_template: the chat template drops the question; use mistral_instruct" in done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_what_a_dropped_question_costs_can_be_measured_when_asked_for(tmp_path, stage1, rows_file):
    plain = {"chat_template": TEMPLATES / "plain.jinja", "may_drop_question": "True", "max_steps": 1}
    assert "finetune, 1 steps" in train("finetune", stage1, rows_file, tmp_path / "out", **plain).stdout


def test_what_training_arguments_refuse_is_bad_input(tmp_path, stage0, rows_file):
    done = train("pretrain", stage0, rows_file, tmp_path / "out", code=2, lr_scheduler_type="cosin")
    assert "cosin" in done.stderr and not (tmp_path / "out").exists()


def test_the_recipe_a_run_notes_is_one_that_a_run_takes(stage0, rows_file, stage1, tmp_path):
    """Cards print it as `recipe.yaml`; the template of stage 1 is in it by its name."""
    import yaml

    from llava_mistral.training.recipe import template_file

    noted = json.loads((stage1 / "run.json").read_text())["recipe"]
    assert noted["chat_template"] == "plain" and template_file("plain").is_file()
    (tmp_path / "plain").write_text("{{ bos_token }}")
    assert template_file(str(tmp_path / "plain")) == tmp_path / "plain"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(noted))
    places = "--model_name_or_path", stage0, "--dataset", rows_file, "--output_dir", tmp_path / "again", "--plan"
    from llava_mistral.commands.train import main
    from tests.support.running import run_here

    run_here(main, "--stage", "pretrain", "--config", tmp_path / "recipe.yaml", *places)
