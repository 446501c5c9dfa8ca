"""`tokenizer.model` for llama.cpp's converter, out of a tokenizer that reads as sentencepiece does."""

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAME = "tokenizer.model"
BYTE = "<0x[0-9A-F]{2}>"
HOSTILE = (
    "Which digit is written?", "two  spaces   three", "tab\tand\nline\r\n\n end ", "Ça va? 你好 עברית",
    "e\u0301 \u00e9 \ufb01 \u212b", "🙂👩‍👩‍👧 \ufe0f", "zero\u200bwidth\u2060\ufeff", "a\x00b\x7f\x85", "▁under▁ ▁",
    "\u3000\u00a0\u2003",
    "[INST] x [/INST]", "A. zero\nB. one\nAnswer", "0123456789" * 9, "x" * 300, "\U0010ffff\ud7ff", "&lt;b&gt;<0x41>",
)  # fmt: skip


def write_tokenizer_model(tokenizer: Any, folder: Path) -> str:
    """Write `folder`/tokenizer.model if it can be exact; returns "" or why it cannot.

    Its pieces, scores and ids are those of the fast tokenizer, and it is read back and compared on texts that are hard
    to cut. Tokens that were added behind the pieces, such as `<image>`, stay in tokenizer.json, as they do beside
    Mistral's own file. Sentencepiece puts a space before every text, these tokenizers only before one that brings
    none: a text that begins with a space is read with that space once more. After a mark within a text that is a token
    (`[REFERENCE_DOC_6]` of Mistral's v3) transformers puts a space, sentencepiece none.
    """
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ImportError:
        return "pip install sentencepiece protobuf"
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if why := _not_sentencepieces(state):
        return why
    proto = sentencepiece_model_pb2.ModelProto()
    for piece, score, kind in _pieces(state, tokenizer):
        proto.pieces.add(piece=piece, score=score, type=getattr(proto.SentencePiece, kind))
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback, proto.trainer_spec.vocab_size = True, len(proto.pieces)
    for role in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{role}_token_id")
        known = index is not None and index < len(proto.pieces)
        setattr(proto.trainer_spec, f"{role}_id", index if known else -1)
        if known:
            setattr(proto.trainer_spec, f"{role}_piece", proto.pieces[index].piece)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix, proto.normalizer_spec.escape_whitespaces = True, True
    proto.normalizer_spec.remove_extra_whitespaces = False
    content = proto.SerializeToString()
    try:
        back = SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        return str(error)
    if text := unlike(back, tokenizer, (*HOSTILE, *random_texts(state["model"]["vocab"], 300))):
        return f"sentencepiece would read {text!r} otherwise"
    (folder / NAME).write_bytes(content)
    return ""


def unlike(pieces: Any, tokenizer: Any, texts: Iterable[str]) -> str:
    """The first text without a mark that the two read otherwise, or ""."""
    brought = tokenizer.backend_tokenizer.pre_tokenizer is not None
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    for text in texts:
        if any(mark in text for mark in marks):
            continue
        given = f" {text}" if brought and text.startswith((" ", "▁")) else text
        if pieces.encode(text) != tokenizer(given, add_special_tokens=False, split_special_tokens=True).input_ids:
            return text
    return ""


def random_texts(vocabulary: Iterable[str], count: int) -> list[str]:
    """Texts of pieces and odd characters in no order."""
    rng = random.Random(0)
    odd = sorted({*"".join(HOSTILE)})
    whole = [piece.replace("▁", " ") for piece in vocabulary if not re.fullmatch(r"<.+>", piece)]
    return ["".join(rng.choice(whole if rng.random() < 0.7 else odd) for _ in range(12)) for _ in range(count)]


def _not_sentencepieces(state: dict) -> str:
    """Why this is not sentencepiece's BPE with every merge, ids without holes and a space before a text; or ""."""
    model = state["model"]
    if model["type"] != "BPE" or not model.get("byte_fallback"):
        return "the tokenizer is not sentencepiece's"
    if sorted(model["vocab"].values()) != list(range(len(model["vocab"]))):
        return "the tokenizer's ids have holes"
    if missing := unmerged(state):
        return f"the tokenizer never merges {missing[0]!r} and {missing[1]!r}, which sentencepiece would"
    normalizer, before = state["normalizer"] or {}, state["pre_tokenizer"] or {}
    legacy = [part["type"] for part in normalizer.get("normalizers", ())] == ["Prepend", "Replace"] and not before
    spaced = not normalizer and before.get("type") == "Metaspace" and not before.get("split", True)
    return "" if legacy or spaced else "the tokenizer prepares texts otherwise than sentencepiece"


def _pieces(state: dict, tokenizer: Any) -> list[tuple[str, float, str]]:
    """Piece, score and kind by id; a piece's score is the place of the first merge that makes it."""
    ranks = merge_ranks(state)
    marks = {token["content"]: token["special"] for token in state["added_tokens"]}

    def kind(piece: str) -> str:
        if piece == tokenizer.unk_token:
            return "UNKNOWN"
        if re.fullmatch(BYTE, piece):
            return "BYTE"
        return "NORMAL" if piece not in marks else "CONTROL" if marks[piece] else "USER_DEFINED"

    vocabulary = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)
    last = len(state["model"]["merges"])
    return [(piece, -float(ranks.get(piece, last)), kind(piece)) for piece in vocabulary]


def merge_ranks(state: dict) -> dict[str, int]:
    """When each piece is first made by a merge."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(_merges(state)):
        ranks.setdefault("".join(pair), rank)
    return ranks


def _merges(state: dict) -> list[tuple[str, str]]:
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in state["model"]["merges"]]


def unmerged(state: dict) -> tuple[str, str] | None:
    """Two pieces that make a third and are not merged: sentencepiece, which knows pieces alone, merges them."""
    vocabulary, merges = state["model"]["vocab"], set(_merges(state))
    special = {token["content"] for token in state["added_tokens"]}
    for piece in vocabulary:
        if piece in special or re.fullmatch(BYTE, piece):
            continue
        for cut in range(1, len(piece)):
            pair = piece[:cut], piece[cut:]
            if pair not in merges and vocabulary.keys() >= set(pair):
                return pair
    return None
