"""Cards are data poured into templates: every number from a file, unknown as unknown, valid for the Hub's client."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.publishing.cards import card_html
from llava_mistral.publishing.dataset_card import dataset_card
from llava_mistral.publishing.model_card import model_card
from llava_mistral.publishing.staging import stage_model
from tests.support.tiny_publications import RUN, SUMMARY, png, save_checkpoint, save_dataset


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    target = folder / "staged"
    target.mkdir()
    stage_model(save_checkpoint(folder / "made"), target)
    return target


def card(staged, **options):
    return model_card(staged, "owner/name", revision="files-0123456789ab", **options)


def test_a_model_card_says_what_its_files_say_and_no_more(staged):
    text = card(staged, summaries=[SUMMARY])
    for said in (
        "1,234,567",
        "4,321",
        "77 s",
        "torch 2.13.0",
        "| training data | pruned |",
        "74.39",
        "70.7–77.7",
        "600",
    ):
        assert said in text
    for unknown in ("epochs", "final loss", "hardware", "energy"):
        assert f"| {unknown} | unknown |" in text
    assert "outputs/" not in text


def test_a_card_from_no_record_reads_as_unknown_throughout(staged, tmp_path):
    for path in staged.iterdir():
        if path.name != "run.json":
            (tmp_path / path.name).symlink_to(path)
    text = card(tmp_path)
    assert "The recipe is unknown." in text
    assert "Not measured" in text
    assert "license: unknown" in text
    assert "base_model" not in text.split("---")[1]
    assert "| model | unknown | unknown |\n| data | unknown | unknown |" in text
    assert "None" not in text


def test_the_front_matter_is_what_the_hub_indexes(staged):
    from huggingface_hub import ModelCard

    data = ModelCard(card(staged, summaries=[SUMMARY], licence="apache-2.0")).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-text-to-text"
    assert data.license == "apache-2.0"
    assert data.base_model == ["openai/clip-vit-large-patch14-336"]  # the local one is a plain name in the text
    assert data.base_model_relation == "finetune"
    assert [(r.metric_name, r.metric_value) for r in data.eval_results] == [
        ("accuracy, ALL", 74.39),
        ("accuracy, NAT", 80.0),
    ]
    assert data.datasets is None


def test_the_control_with_blank_pictures_is_shown_and_not_ranked(staged):
    from huggingface_hub import ModelCard

    text = card(staged, summaries=[SUMMARY, {**SUMMARY, "images": "blank"}])
    assert "test split, blank pictures" in text
    assert len(ModelCard(text).data.eval_results) == 2


def test_a_column_without_labels_is_a_dash_and_no_zero(staged):
    assert "| accuracy | 74.39 | 80.00 | – |" in card(staged, summaries=[SUMMARY])


def test_a_summary_without_an_overall_accuracy_is_refused(staged):
    with pytest.raises(BadInput, match="ALL.accuracy"):
        card(staged, summaries=[{"NAT": SUMMARY["NAT"]}])


def test_both_stages_stand_side_by_side(staged, tmp_path):
    for path in staged.iterdir():
        if path.name != "run.json":
            (tmp_path / path.name).symlink_to(path)
    first = {**RUN, "stage": "pretrain", "base_model": ["owner/stage-0"], "seconds": 3600, "data": {"path": "a/rows"}}
    first |= {"hardware": {"gpu": "NVIDIA X", "gpus": 2, "cpu_cores": 8}, "energy_kwh": 1.25}
    last = {**RUN, "before": first, "base_model": ["outputs/stage-1"], "hardware": {"gpu": None, "gpus": 0}}
    (tmp_path / "run.json").write_text(json.dumps(last))
    (tmp_path / "loss.png").write_bytes(png(1))
    text = card(tmp_path, dataset="owner/pruned")
    assert "| | pretrain | finetune |\n|---|---|---|\n" in text
    assert "| hardware | 2 × NVIDIA X, 8 CPU cores | no GPU |" in text
    assert "| time | 3,600 s (1 h) | 77 s (0.021 h) |" in text
    assert "| energy | 1.25 kWh | unknown |" in text
    assert "The recipe of the stage before: pretrain" in text
    assert "![Loss while training](loss.png)" in text
    assert "--model_name_or_path stage-1 --dataset owner/pruned --output_dir again" in text
    front = text.split("---")[1]
    assert "base_model:\n- owner/stage-0\n" in front and "datasets:\n- owner/pruned\n- a/rows\n" in front


def test_a_local_path_never_reaches_a_card(staged):
    with pytest.raises(BadInput, match="a local path"):
        card(staged, recipe="output_dir: /home/somebody/runs/7")


def test_a_card_is_pinned_to_the_revision_it_came_with(staged):
    text = card(staged)
    assert text.count('revision="files-0123456789ab"') == 2


def entry(manifest, rows, split="train"):
    features = [{"name": "id", "dtype": "string"}, {"name": "images", "list": "image"}]
    splits = [{"name": split, "num_bytes": 9, "num_examples": rows}]
    return {"manifest": manifest, "revision": "x-1", "info": {"features": features, "splits": splits}}


def test_a_dataset_card_lists_one_config_per_method(tmp_path):
    from huggingface_hub import DatasetCard

    manifest = json.loads((save_dataset(tmp_path / "made") / "manifest.json").read_text())
    configs = {"principles": entry(manifest, 900), "random": entry({**manifest, "method": "random"}, 300)}
    text = dataset_card("owner/name", configs, "cc-by-4.0")
    data = DatasetCard(text).data
    assert [config["config_name"] for config in data.configs] == ["principles", "random"]
    assert data.configs[1]["data_files"] == [{"split": "train", "path": "random/train-*"}]
    assert [info["splits"][0]["num_examples"] for info in data.dataset_info] == [900, 300]
    assert data.size_categories == ["1K<n<10K"]
    assert data.license == "cc-by-4.0"
    assert "| answered without the picture | 40 |" in text
    assert "--method random --size 10 --seed 7" in text
    assert data.source_datasets == ["extended|other-digitsqa"] and data.annotations_creators == [
        "found",
        "machine-generated",
    ]
    assert "Alpaydin" in text and "Lu, Pan" not in text


def test_what_is_unknown_of_a_source_is_not_made_up():
    from huggingface_hub import DatasetCard

    text = dataset_card("owner/name", {"random": entry({"method": "random", "source": "somebody/rows"}, 5)}, "mit")
    assert DatasetCard(text).data.get("annotations_creators") is None
    assert "Annotations: unknown." in text and "Cite the source: somebody/rows." in text
    scienceqa = {"method": "random", "source": "derek-thomas/ScienceQA"}
    text = dataset_card("owner/name", {"random": entry(scienceqa, 5)}, "cc-by-nc-sa-4.0")
    assert "extended|derek-thomas/ScienceQA" in text and "Lu, Pan" in text


def test_the_picture_of_what_was_kept_is_shown_where_there_is_one():
    there = {**entry({"method": "random"}, 5), "picture": "random/report.png"}
    assert "](random/report.png)" in dataset_card("owner/name", {"random": there}, "mit")
    assert "report.png" not in dataset_card("owner/name", {"random": entry({"method": "random"}, 5)}, "mit")


def test_a_config_of_another_tool_keeps_its_files_and_claims_no_manifest():
    from huggingface_hub import DatasetCard

    files = [{"split": "train", "path": "data/train-*"}]
    text = dataset_card("owner/name", {"default": {**entry({}, 5), "data_files": files}}, "mit")
    assert DatasetCard(text).data.configs == [{"config_name": "default", "data_files": files}]
    assert "manifest.json" not in text
    assert "None" not in text


def test_a_card_is_a_page_with_its_tables_and_pictures(staged):
    page = card_html(card(staged, summaries=[SUMMARY], chart="assets/chart.png"), "owner/name")
    assert '<img src="assets/chart.png"' in page
    assert "<td>74.39</td>" in page
    assert "<summary>front matter</summary>" in page


def test_cards_import_no_torch():
    code = "from llava_mistral.publishing import model_card, dataset_card; import sys; exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_the_rerun_command_names_the_stage_of_the_run(staged):
    assert f"--stage {RUN['stage']} --config recipe.yaml" in card(staged)


def test_the_terms_of_the_data_and_the_parts_of_a_stage_0_folder_reach_the_card(staged, tmp_path):
    for path in staged.iterdir():
        if path.name not in ("run.json", "config.json"):
            (tmp_path / path.name).symlink_to(path)
    config = json.loads((staged / "config.json").read_text())
    config["vision_config"]["_name_or_path"] = "openai/clip-vit-large-patch14-336"
    config["text_config"]["_name_or_path"] = "mistralai/Mistral-7B-Instruct-v0.2"
    (tmp_path / "config.json").write_text(json.dumps(config))
    first = {**RUN, "base_model": ["outputs/stage-0"], "data": {"path": "a/b", "license": "cc-by-4.0"}}
    told = {"path": "outputs/pruned", "source": "ScienceQA", "license": "mit"}
    last = {**RUN, "before": first, "base_model": ["outputs/stage-1"], "data": told}
    (tmp_path / "run.json").write_text(json.dumps(last))
    text = card(tmp_path)
    front = text.split("---")[1]
    assert "base_model:\n- openai/clip-vit-large-patch14-336\n- mistralai/Mistral-7B-Instruct-v0.2\n" in front
    assert "| data | `pruned` | `cc-by-nc-sa-4.0` |\n| data | [a/b]" in text  # a manifest cannot loosen ScienceQA's
    assert "| `cc-by-4.0` |" in text


def test_a_stage_0_folder_knows_what_it_was_composed_of(stage0, vision_folder, mistral_folder):
    config = json.loads((stage0 / "config.json").read_text())
    named = [config[part]["_name_or_path"] for part in ("vision_config", "text_config")]
    assert named == [str(vision_folder), str(mistral_folder)]


def test_a_run_records_the_terms_of_the_pruned_set_it_learned_from(tmp_path):
    from llava_mistral.training.saving.run_record import terms_of

    folder = save_dataset(tmp_path / "made", source="ScienceQA")
    assert terms_of(str(folder)) == {"source": "ScienceQA", "license": "cc-by-4.0"}
    assert terms_of("owner/rows") == terms_of(str(tmp_path)) == {}


def test_the_command_that_prunes_again_is_the_verbs_own(monkeypatch):
    import shlex

    from llava_mistral.commands.prune import parse_arguments
    from llava_mistral.pruning.recipe import NAMES

    recipe = dict.fromkeys(NAMES) | {"dataset": "owner/rows", "method": "random", "size": 5, "seed": 3}
    recipe |= {"stratified": True, "llava_json": False, "columns": "question=q u,answer=a", "necessity": 0.25}
    text = dataset_card("owner/name", {"random": entry({**recipe, "recipe": recipe}, 5)}, "mit")
    command = text.split("To run it again:\n\n```bash\n")[1].split("\n```")[0]
    assert all(len(line) < 120 for line in command.splitlines())
    monkeypatch.setattr(sys, "argv", shlex.split(command.replace("\\\n", " "))[1:])
    args = parse_arguments()
    assert {key: getattr(args, key) for key, value in recipe.items() if value} == {
        k: v for k, v in recipe.items() if v
    }
