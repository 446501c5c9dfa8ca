"""What a backbone costs: the configuration's part is exact, the measured part is of the checkpoint that was named."""

import json
import shutil
from types import SimpleNamespace

import pytest

from benchmarks.backbones import MEASURED, NAMES, PAGE, page, study_config
from llava_mistral.evaluation.efficiency import CONTEXTS, arithmetic, efficiency
from llava_mistral.evaluation.report import comparison_page
from llava_mistral.ground.bad_input import BadInput
from tests.support.running import run_apart


@pytest.fixture(scope="module")
def seven_billion():
    return {name: arithmetic(study_config(name)) for name in NAMES}


def test_the_page_on_both_at_7b_is_what_their_configurations_say():
    written = PAGE.read_text()
    assert written == page(json.loads(MEASURED.read_text()) if MEASURED.is_file() else None)
    assert "| key-value cache of a token, bytes | 131,072 | 524,288 | 4.00 |" in written


def test_what_a_gpu_measured_is_poured_into_the_page():
    from benchmarks.backbones_gpu import measure

    found = measure(SimpleNamespace(size="tiny", batch_sizes=[1], rounds=3), "cpu")
    for model in found["models"].values():
        model["memory"] = 3 << 20  # a CPU tells none
    told = page(json.loads(json.dumps(found)))
    middle = found["models"]["llama"]["decode"][1][1]
    assert (
        f"{middle:,.0f} (" in told
        and "| peak memory, MiB, batch of 1 | 3 | 3 |" in told
        and "Not measured" not in told
    )


def test_the_cache_of_the_two_backbones_is_the_one_that_is_known(seven_billion):
    """131,072 and 524,288 bytes a token; Mistral's stops growing at its window of 4,096."""
    mistral, llama = seven_billion["mistral"]["kv_cache"], seven_billion["llama"]["kv_cache"]
    assert (mistral["token"], llama["token"]) == (131_072, 524_288)
    assert [mistral["at"][context] // 131_072 for context in CONTEXTS] == [2048, 4096, 4096, 4096]
    assert [llama["at"][context] // 524_288 for context in CONTEXTS] == list(CONTEXTS)


def test_parameters_and_flops_are_those_of_the_parts(seven_billion):
    """LLaMA-7B has 6,738,415,616 parameters, Mistral-7B 7,241,732,096; a matrix costs two FLOP a weight."""
    text = {name: cost["parameters"]["text_model"] for name, cost in seven_billion.items()}
    assert text == {"llama": 6_738_415_616, "mistral": 7_241_732_096}
    for name, cost in seven_billion.items():
        vectors = 32_000 * 4096 + 65 * 4096  # the embedding is looked up, the norms are no matrices
        assert cost["flops"]["token"] == 2 * (text[name] - vectors)
        assert (
            sum(cost["parameters"][part] for part in ("vision_tower", "projector", "text_model"))
            == (cost["parameters"]["all"])
        )


def test_the_flops_of_a_prompt_are_those_of_its_tokens_and_their_attention(stage0):
    """Against torch's counter over a whole prompt, dense attention included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        stage0, trust_remote_code=True, dtype="float32", attn_implementation="eager"
    )
    text, length = model.config.text_config, 10
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.ones(1, length, dtype=torch.long), use_cache=False)
    found = arithmetic(model.config)["flops"]
    head = text.head_dim or text.hidden_size // text.num_attention_heads
    dense = 4 * text.num_hidden_layers * text.num_attention_heads * head * length**2
    assert counted.get_total_flops() == length * found["token"] + dense


@pytest.mark.case("S25", "accepted")
def test_checkpoints_are_measured_side_by_side_by_this_projects_own_code(stage0, tmp_path):
    """Which folders are measured is said by the summaries of results, which may be a stranger's."""
    folder = shutil.copytree(stage0, tmp_path / "checkpoint")
    for file in folder.glob("*.py"):
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{file.read_text()}")
    found = efficiency({"one": str(stage0), "two": str(folder)}, [1, 3], rounds=3)
    assert not (tmp_path / "ran").exists()
    for cost in found["models"].values():
        for kind in ("prefill", "decode"):
            assert set(cost["measured"][kind]) == {1, 3}
            assert all(0 < low <= middle <= high for low, middle, high in cost["measured"][kind].values())
        memory = cost["measured"]["peak_memory"]
        assert memory["bytes"] > memory["weights"] > 0 and memory["batch_size"] == 3
        assert cost["training"] is None, "stage 0 was never trained"
    json.dumps(found)
    page = comparison_page(empty_comparison(found), None, title="t")
    assert "<h2>Efficiency</h2>" in page and "prompt tokens read per second, batch of 3" in page


def empty_comparison(found) -> dict:
    fields = {"column": "ALL", "questions": 1, "chance": 50.0, "question_hash": None, "prompt_hash": None}
    return fields | {"models": {}, "pairs": [], "published": None, "efficiency": found}


@pytest.mark.parametrize(
    ("sizes", "rounds", "said"), [([0], 3, "is out of range"), ([1], 1, "1 are too few for a median")]
)
def test_sizes_that_measure_nothing_are_refused(stage0, sizes, rounds, said):
    with pytest.raises(BadInput, match=said):
        efficiency({"one": str(stage0)}, sizes, rounds=rounds)


def test_results_scored_from_a_file_have_no_checkpoint_to_measure(tmp_path):
    from tests.support.result_folders import results

    for name in ("a", "b"):
        results(tmp_path / name, 50)
    words = [f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}", "--efficiency", "--output", tmp_path / "out"]
    done = run_apart("-m", "llava_mistral", "compare", *words, code=2)
    assert "field efficiency: a was scored from a file of predictions" in done.error
    assert not (tmp_path / "out").exists()
