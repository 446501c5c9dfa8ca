"""What a run shows of itself, and that showing it changes nothing that is learned."""

import filecmp
import html.parser
import io
import json

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.throughput import TIMED
from tests.support.running import recipe_of
from tests.support.tiny_components import save_rows
from tests.support.training_runs import interrupt, train

LORA = {"use_peft": "True", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.3}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Three captioned pictures and a question without one, whose text is full of HTML."""
    file = save_rows(tmp_path_factory.mktemp("held_out"), 3)
    records = json.loads(file.read_text())
    turns = [{"from": "human", "value": "What is 2 < 3 & <b>2 + 2</b>?"}, {"from": "gpt", "value": "<i>four</i>"}]
    file.write_text(json.dumps([*records, {"id": "<text>", "conversations": turns}]))
    return file


@pytest.fixture(scope="module")
def watched(stage1, rows_file, held_out, tmp_path_factory):
    """LoRA with dropout, which draws from the generator that an evaluation draws from, too."""
    folder = tmp_path_factory.mktemp("watched") / "adapter"
    train("finetune", stage1, rows_file, folder, eval_dataset=held_out, eval_strategy="epoch", **LORA)
    return folder


def test_a_run_that_is_watched_learns_the_same(stage1, rows_file, watched, tmp_path, monkeypatch):
    """Bit for bit: rates, evaluation and generated answers against none of them."""
    monkeypatch.setattr("llava_mistral.training.reporting.Meter", lambda *args: None)
    train("finetune", stage1, rows_file, tmp_path / "adapter", **LORA)
    files = [folder / "adapter_model.safetensors" for folder in (watched, tmp_path / "adapter")]
    assert filecmp.cmp(*files, shallow=False)
    seen, unseen = (json.loads((folder / "run.json").read_text()) for folder in (watched, tmp_path / "adapter"))
    assert seen["loss_curve"] == unseen["loss_curve"] and seen["tokens"] == unseen["tokens"]
    assert (unseen["throughput"], unseen["eval_curve"]) == (None, [])


def test_an_interrupted_run_logs_the_rows_of_the_uninterrupted_one(
    stage1,
    rows_file,
    held_out,
    tmp_path,
    monkeypatch,
):
    """All but what depends on the clock."""
    logged = {}

    def keep(self, args, state, control, **kwargs):
        logged[args.output_dir] = [row for row in state.log_history if "loss" in row or "eval_loss" in row]

    monkeypatch.setattr("transformers.TrainerCallback.on_train_end", keep)
    watch = {"eval_dataset": held_out, "eval_strategy": "epoch", "save_strategy": "epoch"}
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_save", interrupt)
        train("finetune", stage1, rows_file, tmp_path / "cut", code=130, **watch)
    assert (tmp_path / "cut" / "run.partial.json").is_file()
    for name in ("cut", "whole"):
        train("finetune", stage1, rows_file, tmp_path / name, **watch)
    cut, whole = (logged[str(tmp_path / name)] for name in ("cut", "whole"))
    assert len(cut) == len(whole) == 6
    for row, other in zip(cut, whole, strict=True):
        clock = {key for key in row if key.startswith("eval_") and key.endswith(("_runtime", "_per_second"))}
        assert clock if "eval_loss" in row else set(TIMED) - {"mfu"} <= row.keys()
        clock |= {*TIMED, "eval_num_tokens", "num_tokens"}  # the library counts these since the process started
        assert {key: row[key] for key in row if key not in clock} == {
            key: other[key] for key in other if key not in clock
        }
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {path.name for path in (tmp_path / "cut").iterdir()}
    assert {"samples", "loss.png", "run.json"} < names and "run.partial.json" not in names


def test_a_run_that_died_before_its_first_checkpoint_leaves_its_record_and_starts_again(
    stage0,
    rows_file,
    tmp_path,
    monkeypatch,
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("transformers.TrainerCallback.on_step_end", interrupt)
        train("pretrain", stage0, rows_file, out, code=130)
    begun = json.loads((out / "run.partial.json").read_text())
    assert begun["stage"] == "pretrain" and begun["data"]["rows"] == 8 and begun["hardware"]["cpu_cores"] > 0
    train("pretrain", stage0, rows_file, out)
    done = json.loads((out / "run.json").read_text())
    assert begun.items() <= done.items() and not (out / "run.partial.json").exists()


def test_the_record_has_curves_rates_memory_and_machine(watched):
    run = json.loads((watched / "run.json").read_text())
    assert [step for step, _ in run["eval_curve"]] == [2, 4]
    assert set(run["throughput"]) == {"tokens_per_second", "samples_per_second"}, "no MFU on a CPU"
    assert run["peak_memory_gb"]["resident"] > 0.1 and run["peak_memory_gb"]["gpu"] is None
    assert run["hardware"]["processes"] == 1 and run["hardware"]["memory_gb"] > 0


class Page(html.parser.HTMLParser):
    """Collects a page's texts, and the addresses that it would load."""

    def __init__(self, text: str):
        super().__init__()
        self.texts, self.addresses, self.tags = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_pages_show_pictures_and_answers_and_need_no_network(watched):
    import base64

    from PIL import Image

    assert sorted(path.name for path in (watched / "samples").iterdir()) == [
        f"step-{step}.{kind}" for step in (2, 4) for kind in ("html", "json")
    ]
    record = json.loads((watched / "samples" / "step-4.json").read_text())
    page = Page((watched / "samples" / "step-4.html").read_text())
    assert [sample["id"] for sample in record["samples"]] == ["0", "1", "2", "<text>"]
    for sample in record["samples"]:
        assert {sample["question"], sample["gold"], sample["answer"] or "no"} <= {*page.texts, "no"}
    assert not {"b", "i", "script", "link"} & page.tags, "texts are escaped, nothing is loaded"
    assert len(page.addresses) == 3
    for address in page.addresses:
        kind, _, data = address.partition(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (40, 24)


def test_the_last_answers_are_those_of_the_finished_checkpoint(stage1, rows_file, held_out, tmp_path):
    """Asked as a stranger asks, through the pipeline; the stage's own template differs from the checkpoint's."""
    from PIL import Image
    from transformers import pipeline

    from tests.support.training_runs import TEMPLATES

    vicuna = {"chat_template": TEMPLATES / "vicuna_v1.jinja"}
    out = tmp_path / "out"
    train("finetune", stage1, rows_file, out, eval_dataset=held_out, eval_strategy="epoch", **vicuna)
    ask = pipeline("image-text-to-text", model=str(out), trust_remote_code=True)
    for sample in json.loads((out / "samples" / "step-4.json").read_text())["samples"]:
        files = [held_out.parent / "images" / f"{sample['id']}.png"] * sample["pictures"]
        parts = [{"type": "image", "image": Image.open(file)} for file in files]
        parts.append({"type": "text", "text": sample["question"]})
        turns = [{"role": "user", "content": parts}]
        said = ask(text=turns, max_new_tokens=64, do_sample=False, return_full_text=False)[0]["generated_text"]
        assert said.strip() == sample["answer"]


def test_stage1_is_asked_for_captions_in_its_own_words(stage0, rows_file, tmp_path, monkeypatch):
    from llava_mistral.training.sample_answers import SampleAnswers

    worded = []

    def listen(self, model):
        worded.extend(self.collator.word(row, answered=False) for row in self.rows)
        return ["a caption"] * len(self.rows)

    monkeypatch.setattr(SampleAnswers, "answers", listen)
    watch = {"eval_dataset": rows_file, "eval_strategy": "epoch", "sample_answers": 2, "num_train_epochs": 1}
    train("pretrain", stage0, rows_file, tmp_path / "out", **watch)
    assert len(worded) == 2 and not any("digit" in prompt for prompt in worded)


def test_weights_spread_over_processes_are_not_asked_by_one(tmp_path, monkeypatch, capsys):
    from llava_mistral.training import sample_answers

    monkeypatch.setattr(sample_answers, "is_sharded", lambda: True)
    samples = object.__new__(sample_answers.SampleAnswers)
    samples.ask(None, 7, {})
    assert capsys.readouterr().err == "step 7: no sample answers, because FSDP and ZeRO shard the weights\n"


def test_tensorboard_gets_curves_answers_and_pictures(stage0, rows_file, held_out, tmp_path):
    """Read back from its own file."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = {"eval_dataset": held_out, "eval_strategy": "epoch", "report_to": "tensorboard"}
    train("finetune", stage0, rows_file, tmp_path / "out", **watch)
    events = EventAccumulator(str(next((tmp_path / "out" / "runs").iterdir())))
    events.Reload()
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second", "eval/loss"} <= set(
        events.Tags()["scalars"]
    )
    assert {f"samples/{name}/0" for name in "012"} == set(events.Tags()["images"])
    assert {f"samples/{name}/text_summary" for name in "012"} <= set(events.Tags()["tensors"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"report_to": "absent_reports"}, "field report_to: 'absent_reports' is not installed; pip install"),
        ({"eval_dataset": "a.json"}, "field eval_dataset: is never evaluated; add --eval_strategy epoch"),
        ({"eval_strategy": "steps"}, "field eval_strategy: there is no data to evaluate on; add --eval_dataset"),
        ({"sample_answers": "3"}, "field sample_answers: has no effect without --eval_dataset; leave it out"),
        ({"eval_split": "val"}, "field eval_split: has no effect without --eval_dataset"),
    ],
)
def test_what_nobody_would_see_is_refused(given, said):
    from llava_mistral.training.recipe_checks import check_recipe

    with pytest.raises(BadInput) as refused:
        check_recipe(recipe_of(stage="finetune", **given))
    assert said in str(refused.value)


def test_several_reports_and_a_yaml_no_are_read_as_they_are_meant(tmp_path):
    from llava_mistral.training.recipe_checks import check_reports

    (tmp_path / "recipe.yaml").write_text("eval_strategy: no\nreport_to: none\n")
    check_reports(recipe_of(stage="finetune", config=tmp_path / "recipe.yaml"))
    (tmp_path / "recipe.yaml").write_text("report_to: [none, absent_reports]\n")
    with pytest.raises(BadInput, match="'absent_reports' is not installed"):
        check_reports(recipe_of(stage="finetune", config=tmp_path / "recipe.yaml"))


def test_an_absent_tensorboard_names_its_extra(monkeypatch):
    from llava_mistral.training.recipe_checks import check_reports

    recipe = recipe_of(stage="finetune", report_to="tensorboard")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install '\.\[reports\]', or use --report_to none"):
        check_reports(recipe)


def test_without_matplotlib_a_run_finishes_and_says_so(tmp_path, monkeypatch, capsys):
    from llava_mistral.training.loss_chart import draw_losses

    rows = [{"step": 1, "loss": 2.0, "learning_rate": 1e-3}]
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        assert not draw_losses(rows, tmp_path / "loss.png", "t")
    assert capsys.readouterr().err.startswith("no loss.png: matplotlib is not installed; pip install")
    assert draw_losses(rows, tmp_path / "loss.png", "t") and (tmp_path / "loss.png").stat().st_size > 5000
    assert not draw_losses([], tmp_path / "none.png", "t") and not (tmp_path / "none.png").exists()


def test_the_same_losses_are_the_same_picture(tmp_path):
    from llava_mistral.training.loss_chart import draw_losses

    rows = [{"step": step, "loss": 2.0 / step, "learning_rate": 1e-3} for step in (1, 2)] + [
        {"step": 2, "eval_loss": 1}
    ]
    for name in ("a.png", "b.png"):
        draw_losses(rows, tmp_path / name, "stage")
    assert filecmp.cmp(tmp_path / "a.png", tmp_path / "b.png", shallow=False)


@pytest.mark.parametrize("trained", [False, True])
def test_stage2_from_an_untrained_projector_warns(stage0, stage1, rows_file, tmp_path, trained):
    done = train("finetune", stage1 if trained else stage0, rows_file, tmp_path / "out", num_train_epochs=1)
    assert ("the projector looks untrained; run --stage pretrain first" in done.stderr) is not trained


def test_event_files_and_samples_stay_at_home_and_the_loss_leaves(watched, tmp_path):
    from llava_mistral.publishing.staging import ALLOWED

    for name in ("samples/step-2.html", "samples/step-2.json", "runs/x/events.out.tfevents.1", "run.partial.json"):
        assert not ALLOWED.fullmatch(name)
    assert ALLOWED.fullmatch("loss.png")


def test_the_last_step_is_logged_though_logging_steps_passes_over_it(stage0, rows_file, tmp_path):
    train("pretrain", stage0, rows_file, tmp_path / "out", max_steps=3, logging_steps=2)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [step for step, _ in record["loss_curve"]] == [2, 3]
    assert record["final_loss"] == record["loss_curve"][-1][1]
