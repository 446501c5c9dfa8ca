"""Other people's engines answer the trained miniature as `generate` does: `make engines`, after `make demo`.

Every engine has an environment of its own, built once in the user's cache; one that cannot be built is skipped with
pip's reason.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.engine_chats import CONTEXT, NEW_TOKENS, chats, generated, trained_miniature
from tests.support.engine_environments import NEEDS, ask_engine
from tests.support.engine_record import record
from tests.support.running import run_apart
from tests.support.served_questions import text_part, user

VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}

ENGINE = NEEDS["vllm"][0][1].replace("vllm-cpu==", "vLLM ")

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def study() -> Path:
    return trained_miniature()


@pytest.fixture(scope="module")
def asked(study) -> list:
    return chats(study / "digitsqa")


def made(kind: str, study: Path, folder: Path) -> Path:
    """A checkpoint of that kind with the trained miniature's weights."""
    if kind == "pad":
        return study / "stage2"
    if kind == "llava-hf":
        run_apart("-m", "llava_mistral", "convert", study / "stage2", folder / kind, "--to", "llava-hf")
        return folder / kind
    if kind == "own special tokens":
        return _with_own_tokens(study / "stage2", folder / "own")
    text = study / "components" / "mistral"
    if kind == "llama":
        text = _as_llama(text, folder / "text")
    rest = ("--image_aspect_ratio", "anyres") if kind == "anyres" else ()
    run_apart(
        "-m",
        "llava_mistral",
        "build",
        "--vision",
        study / "components" / "vision",
        "--llm",
        text,
        "--output",
        folder / kind,
        *rest,
    )
    return _with_weights_of(study / "stage2", folder / kind)


def _as_llama(source: Path, folder: Path) -> Path:
    """The same text model as a LLaMA, which has no window."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    config.pop("sliding_window", None)
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _with_weights_of(trained: Path, folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors") | load_file(trained / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _with_own_tokens(trained: Path, folder: Path) -> Path:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(trained, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(trained, trust_remote_code=True)
    processor.tokenizer.add_tokens(["<box>", "</box>"], special_tokens=True)
    model.resize_token_embeddings(len(processor.tokenizer), pad_to_multiple_of=64)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def with_own_words(asked: list) -> list:
    """The chats, and one in which the added tokens stand."""
    return [*asked, [user(text_part("Is <box> three </box> a digit?"))]]


@pytest.mark.parametrize("kind", ["pad", "anyres", "llama", "own special tokens", "llava-hf"])
def test_vllm_answers_token_for_token(kind, study, asked, tmp_path):
    folder = made(kind, study, tmp_path)
    chats = with_own_words(asked) if kind == "own special tokens" else asked
    request = {"model": str(folder), "chats": chats, "context": CONTEXT, "new_tokens": NEW_TOKENS}
    own_classes = {"own_classes": True} if kind == "llava-hf" else {}
    answers = ask_engine("vllm", "vllm_chat", request | own_classes, tmp_path, **VLLM)
    expected = generated(folder, chats)
    assert [answer["prompt"] for answer in answers] == [wanted["prompt"] for wanted in expected]
    assert [answer["ids"] for answer in answers] == [wanted["ids"] for wanted in expected]
    # vLLM keeps the space that a first token begins with.
    assert [answer["text"].strip() for answer in answers] == [wanted["text"].strip() for wanted in expected]
    record(ENGINE, f"`LLM.chat`, {kind}", len(chats), len(chats))
