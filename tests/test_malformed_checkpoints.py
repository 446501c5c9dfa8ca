"""A checkpoint that is damaged is refused by name, by the verbs and by the classes; its legal neighbour is opened."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support import malformed as make
from tests.support.running import run_apart
from tests.support.tiny_llava import save_tiny_llava
from tests.support.trainee import tree


@dataclass(frozen=True)
class Case:
    """A damage, what the verbs say of it, and the nearest copy that is right.

    `seen_by_class`: without a verb, the model's own class sees it, too. `stock`: a stock LLaVA can have it.
    """

    spoil: make.Change
    said: str
    neighbour: make.Change = field(default=make.nothing)
    seen_by_class: bool = True
    stock: bool = True
    library: str = "transformers"
    theirs: Callable[[Path], str | None] = make.open_stock


FOREIGN = {name: f"else/where--{value}" for name, value in make.AUTO_MAP.items()}
NO_FILE = "is not a complete safetensors file"
LFS = make.text(".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text")
WEIGHTS = {
    "D1": Case(make.then(make.sharded, make.remove(make.SHARD)), f"names {make.SHARD}, which is absent", make.sharded),
    "D2": Case(make.raw(lambda whole: whole[:-100]), NO_FILE, make.header(lambda said: None)),
    "D3": Case(make.raw(lambda whole: b""), NO_FILE),
    "D4": Case(make.raw(lambda whole: make.POINTER), "a Git LFS pointer", LFS),
    "D6": Case(make.weight(lambda held: None), make.PROJECTOR, make.weights(lambda held: None)),
    "D7": Case(
        make.weights(lambda held: held.update({"model.extra.weight": next(iter(held.values())).clone()})),
        "model.extra.weight",
        make.header(lambda said: said["__metadata__"].update(extra="weight")),
    ),
    "D8": Case(make.weight(lambda held: held[:-1].clone()), make.PROJECTOR, make.put(0.5)),
    "D9 NaN": Case(make.put(float("nan")), f"{make.PROJECTOR} holds NaN or infinity", make.put(-1e4)),
    "D9 Inf": Case(make.put(float("inf")), f"{make.PROJECTOR} holds NaN or infinity", make.put(1e4)),
    "D10 integers": Case(make.stored_as("int8"), f"{make.PROJECTOR} is stored as I8", make.stored_as("bfloat16")),
    "D10 eight bits": Case(
        make.stored_as("float8_e4m3fn"), f"{make.PROJECTOR} is stored as F8_E4M3", make.stored_as("float64")
    ),
    "D11": Case(make.then(make.sharded, make.led_out), "outside of its folder", make.sharded),
    "D12 no JSON": Case(make.then(make.sharded, make.text(make.INDEX, "{")), "is not valid JSON", make.sharded),
    "D12 no weight_map": Case(make.then(make.sharded, make.text(make.INDEX, "{}")), "field weight_map", make.sharded),
    "D12 a list": Case(make.then(make.sharded, make.text(make.INDEX, "[]")), "not a JSON object", make.sharded),
    **{f"D13 {name}": Case(spoil, NO_FILE, make.header(lambda said: None)) for name, spoil in make.HEADERS.items()},
    "D22": Case(
        make.weight(lambda held: held.new_zeros(len(held), 24), "projector.linear_1.weight"),
        "multi_modal_projector.linear_1.weight",
        make.weight(lambda held: held.new_zeros(held.shape), "projector.linear_1.weight"),
    ),
}
CONFIGS = {
    "E1": Case(make.remove("config.json"), "there is no config.json in it", theirs=make.default_of_stock),
    "E2 cut": Case(
        make.raw(lambda whole: whole[:-9], "config.json"), "config.json: is not valid JSON", make.settings()
    ),
    "E2 a list": Case(make.text("config.json", "[]"), "config.json: is not a JSON object", make.settings()),
    "E3 another": Case(make.settings(model_type="gpt2"), "model_type 'gpt2'", make.settings(architectures=["Gpt2"])),
    "E3 none": Case(make.settings(model_type=...), "model_type", make.settings(architectures=...)),
    "E4 zero": Case(
        make.settings(text_config__hidden_size=0),
        "text_config.hidden_size 0 is not a valid size",
        make.settings(hidden_size=32),
    ),
    "E4 negative": Case(
        make.settings(vision_config__hidden_size=-8), "vision_config.hidden_size -8", make.settings(hidden_size=16)
    ),
    "E4 text": Case(
        make.settings(text_config__hidden_size="32"), "hidden_size '32' is not a valid size", make.settings()
    ),
    "E4 patches of zero": Case(
        make.settings(vision_config__patch_size=0), "patch_size 0 is not a valid size", make.settings()
    ),
    "E5": Case(
        make.settings(text_config__num_hidden_layers=-1),
        "num_hidden_layers -1 is not a valid size",
        make.settings(layers=-1),
    ),
    "E6 of the tower": Case(
        make.settings(vision_config__num_attention_heads=3),
        "num_attention_heads 3 does not divide hidden_size 16",
        make.settings(vision_config__num_attention_heads=4),
    ),
    "E6 of the text": Case(
        make.settings(text_config__num_key_value_heads=3), "not a multiple of num_key_value_heads 3", make.settings()
    ),
    "E7": Case(make.settings(image_token_index=448), "image_token_id 448 is outside the vocabulary", make.settings()),
    "E8 no token": Case(
        make.without_image_token, "'<image>' is not in the tokenizer", seen_by_class=False, stock=False
    ),
    "E8 another": Case(
        make.settings(image_token_index=399),
        "image token is 399 and the tokenizer's 400",
        seen_by_class=False,
        stock=False,
    ),
    "E9": Case(
        make.settings(projector_type="qformer"), "projector_type", make.settings(projector_type=...), stock=False
    ),
    "E10": Case(
        make.settings(vision_feature_layer=4), "vision_feature_layer 4", make.settings(vision_feature_layer=3)
    ),
    "E11": Case(make.settings(dtype="float99"), "dtype 'float99'", make.settings(dtype="bfloat16")),
    "E12": Case(make.settings(vision_config__image_size=30), "image_size 30", make.settings()),
    "E13": Case(
        make.settings(auto_map=FOREIGN), "field auto_map", make.settings(auto_map=make.AUTO_MAP), False, stock=False
    ),
}
CASES = WEIGHTS | CONFIGS
NAMED = [case.said for name, case in CASES.items() if name.split()[0] in ("D6", "D7", "D8", "D9", "D10", "D22")]


def library(name: str) -> str:
    """The variant is named where libraries treat variants of a case differently."""
    case, _, variant = name.partition(" ")
    return f"transformers, {variant}" if variant and (case != "D13" or variant == "a key twice") else "transformers"


def shown(name: str):
    """The case as a parameter that shows both of its outcomes."""
    marks = [pytest.mark.case(name.split()[0], outcome) for outcome in ("refused", "accepted")]
    return pytest.param(replace(CASES[name], library=library(name)), marks=marks, id=name)


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("stock") / "llava")


@pytest.mark.parametrize("case", map(shown, CASES))
def test_a_damaged_checkpoint_is_refused_by_name_and_its_neighbour_asked(
    case, stage0, stock, rows_file, tmp_path, questions, by_itself
):
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    bad = make.copy(stage0, tmp_path / "bad", case.spoil)
    before = tree(tmp_path)
    for said in (
        make.ask(bad, questions, tmp_path / "a", code=2).error,
        make.refused_by_training(bad, rows_file, tmp_path / "b"),
    ):
        assert str(bad) in said and case.said in said, said
    assert tree(tmp_path) == before, "something was written"
    if case.seen_by_class:
        for auto in (transformers.AutoModelForImageTextToText, transformers.AutoModel):
            with pytest.raises((ValueError, OSError, StrictDataclassError)) as refused:
                auto.from_pretrained(bad, trust_remote_code=True)
            told = str(refused.value)
            assert case.said.removeprefix("model.") in told or (case.said not in NAMED and str(bad) in told), told
    good = make.copy(stage0, tmp_path / "good", case.neighbour)
    assert make.ask(good, questions, tmp_path / "a").stdout.startswith(f"\n{good}")
    if case.stock:
        theirs = make.copy(stock, tmp_path / "stock", case.spoil)
        by_itself(case.library, lambda: case.theirs(theirs))


def all_of_them(test):
    """Marks a test that shows every configuration refused."""
    for case in {name.split()[0] for name in CONFIGS}:
        test = pytest.mark.case(case, "refused")(test)
    return test


OPEN_ALL = """
import sys
from pathlib import Path
from huggingface_hub.errors import StrictDataclassError
from modeling_llava_mistral import LlavaMistralForConditionalGeneration
from llava_mistral.commands.evaluate import main
from tests.support.running import run_here

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

LlavaMistralForConditionalGeneration.from_pretrained(sys.argv[1])
questions, before = sys.argv[2], peak()
for folder in map(Path, sys.argv[3:]):
    said = run_here(main, "--model", folder, "--dataset", questions, "--split", "train", code=2).error
    if not folder.name.startswith(("E8", "E13")):  # which the class alone does not see
        (folder / "model.safetensors").unlink()
        try:
            LlavaMistralForConditionalGeneration.from_pretrained(folder)
            said = "opened"
        except (ValueError, OSError, StrictDataclassError) as error:
            said = str(error)
    print(folder.name, "REFUSED", " ".join(said.split()))
print("GROWN", (peak() - before) // 1000)
"""


@all_of_them
def test_a_bad_configuration_is_refused_before_weights_are_looked_for(stage0, questions, tmp_path):
    """By the class, where there are none any more; and without the memory, 28 GB for a default of 7B."""
    folders = [make.copy(stage0, tmp_path / name.replace(" ", "-"), CONFIGS[name].spoil) for name in CONFIGS]
    *lines, grown = run_apart("-c", OPEN_ALL, stage0, questions, *folders).stdout.splitlines()
    assert len(lines) == len(CONFIGS)
    for line in lines:
        assert not line.endswith("REFUSED opened") and "no file named" not in line, line
    assert int(grown.removeprefix("GROWN")) < 200  # MB


@pytest.mark.case("D13", "accepted")
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_headers_of_every_type_of_weights_are_whole(stage0, tmp_path, dtype):
    """Metadata, scalars and tensors of no element, which are rare, included."""
    import torch
    from safetensors.torch import save_file

    from llava_mistral.ground.checkpoint_headers import read_header, refuse_types

    held = {
        name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, shape in (("a", ()), ("b", (0, 3)), ("c", 5))
    }
    save_file(held, tmp_path / "some.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "some.safetensors")
    assert header.keys() == {"__metadata__", "a", "b", "c"}
    refuse_types(header, tmp_path)


def test_integers_are_weights_where_the_configuration_says_that_they_are_quantized(stage0, tmp_path):
    """What becomes of them is the library's to say: it wants bitsandbytes, which reads them with their scales."""
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    folder = make.copy(stage0, tmp_path / "quantized", make.stored_as("int8"))
    with pytest.raises(ValueError, match="is stored as I8"):
        LlavaMistralForConditionalGeneration.from_pretrained(folder)
    make.settings(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})(folder)
    with pytest.raises(ImportError, match="bitsandbytes"):
        LlavaMistralForConditionalGeneration.from_pretrained(folder)
