"""The text model's tokenizer, as the code that it was trained with had it."""

import json
from pathlib import Path

from transformers import AutoTokenizer, LlamaTokenizer

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import AGAIN


def open_tokenizer(name: str | Path, **hub):
    """Return the tokenizer of a folder or Hub id; it pads on the left, so that a batch generates what each row would.

    A folder with sentencepiece's `tokenizer.model` and no `tokenizer.json` is read by LLaMA's class, and where it does
    not say `legacy`, every piece between two special tokens begins with a space of its own, as it did when those files
    were released. Left to itself the library takes neither for granted, and `[INST]` after `<s>` becomes a token that
    Mistral was not taught (28792 for 733).

    Mistral's `tekken.json` is read by tokenizers, also where mistral-common is installed: the library would take that
    one's own class, which has no chat templates and no room for an image token.
    """
    folder = Path(name)
    said = _of_sentencepiece(folder)
    if said is not None:
        legacy = said.get("legacy") is not False
        try:
            tokenizer = LlamaTokenizer.from_pretrained(name, legacy=legacy, padding_side="left", **hub)
            _merge_by_scores(tokenizer, folder / "tokenizer.model")
        except RuntimeError as error:  # sentencepiece's, of a file that is none of its own
            raise BadInput(f"is no tokenizer ({error})", remedy=AGAIN, file=folder / "tokenizer.model") from error
        return tokenizer
    roles = _TEKKEN if (folder / "tekken.json").is_file() and not (folder / "tokenizer.json").is_file() else {}
    options = {"padding_side": "left", "mistral_format": False, "trust_remote_code": False}
    return AutoTokenizer.from_pretrained(name, **options, **roles, **hub)


_TEKKEN = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def _merge_by_scores(tokenizer, file: Path) -> None:
    """Merge pieces in the order of sentencepiece's scores, as sentencepiece does.

    The library orders them by their ids, by which runs of spaces come first and not last: `two  spaces` would be cut
    into other tokens than those that the model learned.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import models

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "BPE":
        return
    pieces = SentencePieceProcessor(model_file=str(file))
    scores = {pieces.id_to_piece(index): pieces.get_score(index) for index in range(pieces.get_piece_size())}
    merges = [tuple(pair) for pair in model["merges"]]
    merges.sort(key=lambda pair: (scores["".join(pair)], len(pair[0]), len(pair[1])), reverse=True)
    tokenizer.backend_tokenizer.model = models.BPE(
        vocab=model["vocab"], merges=merges, fuse_unk=model["fuse_unk"], byte_fallback=model["byte_fallback"],
        unk_token=model["unk_token"],
    )  # fmt: skip


def _of_sentencepiece(folder: Path) -> dict | None:
    """Return what `tokenizer_config.json` says where LLaMA's `tokenizer.model` is all there is to read, else None."""
    if not (folder / "tokenizer.model").is_file() or (folder / "tokenizer.json").is_file():
        return None
    config = folder / "tokenizer_config.json"
    try:
        said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        return said if said.get("tokenizer_class", "LlamaTokenizer").startswith("LlamaTokenizer") else None
    except (AttributeError, ValueError):
        return None  # not to be read, as the library will say


_QUESTIONS = ("Which?", "Context: 2 + 2.\nWhich digit is written?\nA. zero\nB. one", " two  spaces ", "Ça va? 你好")
_ANSWERS = ("B", "(B)", "The answer is B.", "42", "\n\nLines:\n- é", "", "  x", "_")


def make_separable(tokenizer, chat_template: str) -> None:
    """Let prompt and answer, tokenised apart, be the ids of the whole conversation, where a space is why they are not.

    Legacy tokenizer.json files put a space before every piece of text, also before one that begins with a space: an
    answer by itself then begins with another token than in its conversation, and trainers that tokenise the two apart
    (TRL) teach a token that generation never meets. A pre-tokenizer that puts it only where there is none gives whole
    conversations the ids they had; where it would not, or the template does not word such conversations, nothing is
    changed.
    """
    from jinja2 import TemplateError
    from tokenizers import pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is not None:
        return
    state = json.loads(backend.to_str())["normalizer"] or {}
    if [part["type"] for part in state.get("normalizers", ())] != ["Prepend", "Replace"]:
        return
    try:
        before, normalizer = _whole(tokenizer, chat_template), backend.normalizer
    except (TemplateError, TypeError, ValueError):
        return
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=False)
    if _whole(tokenizer, chat_template) != before:
        backend.normalizer, backend.pre_tokenizer = normalizer, None


def reads_apart(tokenizer, chat_template: str) -> bool:
    """Whether a prompt and its answer, tokenised apart, have the ids of the whole conversation."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return all(
        whole.startswith(prompt) and ids(prompt) + ids(whole[len(prompt) :]) == ids(whole)
        for prompt, whole in _worded(tokenizer, chat_template)
    )


def _whole(tokenizer, chat_template: str) -> list[list[int]]:
    texts = [whole for _, whole in _worded(tokenizer, chat_template)]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def _worded(tokenizer, chat_template: str) -> list[tuple[str, str]]:
    """Return (prompt, whole conversation) of a few chats, with and without a picture, of one turn and of two."""

    def word(turns: list[dict], prompt: bool) -> str:
        options = {"chat_template": chat_template, "tokenize": False, "add_generation_prompt": prompt}
        return tokenizer.apply_chat_template(turns, **options)

    found = []
    for question in _QUESTIONS:
        for answer in _ANSWERS:
            turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            said = {"role": "assistant", "content": answer}
            for chat in (turns, [{"role": "user", "content": question}], [*turns, said, {**turns[0]}]):
                found.append((word(chat, True), word([*chat, said], False)))
    return found
