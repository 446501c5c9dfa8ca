"""A tokenizer in the words of GGUF: what llama.cpp cuts a text into must be what the model was taught."""

import json
import re
from pathlib import Path
from typing import Any

from llava_mistral.checkpoints.sentencepiece_file import BYTE, merge_ranks, unmerged
from llava_mistral.ground.bad_input import BadInput

# What our templates say of a picture, and what llama.cpp asks them for. It puts a part of its own into a message whose
# text it looks for in the prompt, or it puts that text into the words of one string, without the line that a picture
# before all words has of its own. It knows no marks of what the model says. `said` is the template's own name.
_PLACE = re.compile(r"\('<image>' if (\w+)\.spoken else '<image>\\n'\)")
_OF_PICTURES = (
    ("in ('image', 'image_url')", "in ('image', 'image_url', 'media_marker')"),
    (
        "('<image>' if said.spoken else '<image>\\n')",
        "(part['text'] if part['type'] == 'media_marker' else '<image>') + ('' if said.spoken else '\\n')",
    ),
    (
        "{%- if message['content'] is string -%}",
        """{%- if message['content'] is string and '<__media' in message['content'] -%}
    {%- set marker = '<__media' + message['content'].split('<__media')[1].split('>')[0] + '>' -%}
    {%- for words in message['content'].split(marker) -%}
      {%- if not loop.first -%}
        {%- set said.spoken = said.spoken or said.words | trim | length > 0 -%}
        {%- set said.text = said.text + literal(said.words) + marker + ('' if said.spoken else '\\n') -%}
      {%- endif -%}
      {%- set said.words = words -%}
    {%- endfor -%}
  {%- elif message['content'] is string -%}""",
    ),
    ("{%- generation -%}", ""),
    ("{%- endgeneration -%}", ""),
)
_PROBES = ("Which digit is written?", "Context: 2 + 2.\nA. zero\nB. one", "  two  spaces ", "Ça va? 你好 \U0001f600\t")


def write_vocabulary(gguf, writer, processor, rows: int, source: Path) -> None:
    """Write the tokens, filled up to `rows`, how they are merged, the special ones, and the chat template.

    Raises:
        BadInput: it is a kind of tokenizer that llama.cpp would read otherwise.
    """
    tokenizer = processor.tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model["type"] != "BPE" or not model.get("byte_fallback") or not _merges_as_sentencepiece(tokenizer, state):
        raise BadInput(
            "llama.cpp would cut texts into other tokens than its tokenizer does",
            remedy="use llava-hf, which vLLM and SGLang serve; only tokenizers of sentencepiece's kind are written",
            file=source,
        )
    types, added = gguf.TokenType, {token["id"]: token for token in state["added_tokens"]}
    ranks = merge_ranks(state)
    tokens, scores, kinds = [], [], []
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    for index in range(rows):
        token = known.get(index, f"[PAD{index}]")
        kind = types.NORMAL if index in known else types.UNUSED
        if re.fullmatch(BYTE, token):
            kind = types.BYTE
        elif token == tokenizer.unk_token:
            kind = types.UNKNOWN
        elif index in added:
            kind = types.CONTROL if added[index]["special"] else types.USER_DEFINED
        tokens.append(token)
        scores.append(-float(ranks.get(token, len(ranks))))
        kinds.append(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(_puts_a_space(tokenizer))
    for name in ("bos", "eos", "unk", "pad"):
        if (index := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
    if isinstance(processor.chat_template, str):
        if not _PLACE.search(processor.chat_template):
            problem = "its chat template is none of this project's: llama.cpp would find no place for a picture in it"
            raise BadInput(problem, remedy="use llava-hf, which vLLM and SGLang serve", file=source)
        writer.add_chat_template(for_llama_cpp(processor.chat_template))


def for_llama_cpp(template: str) -> str:
    """Return a chat template of `build` with the part of a message that llama.cpp marks a picture with."""
    name = _PLACE.search(template)[1]
    for before, after in _OF_PICTURES:
        before, after = (re.sub(r"\bsaid\.", f"{name}.", text) for text in (before, after))
        template = template.replace(
            before, after, -1 if "generation" in before else 1
        )  # a decoder's own stays as it is
    return template


def _puts_a_space(tokenizer) -> bool:
    return tokenizer.tokenize("a")[0].startswith("▁")


def _merges_as_sentencepiece(tokenizer, state: dict[str, Any]) -> bool:
    """Whether merging by the scores of tokens, as llama.cpp does, gives the tokens that merging by pairs gives."""
    if unmerged(state):
        return False
    ranks, prefix = merge_ranks(state), "▁" if _puts_a_space(tokenizer) else ""
    words = [token.replace("▁", " ") for token in list(ranks)[:: max(1, len(ranks) // 500)]]
    texts = [text for text in (*_PROBES, *words) if not (prefix and text.startswith(" "))]
    return all(sentencepiece(text, ranks, state["model"]["vocab"], prefix) == _ids(tokenizer, text) for text in texts)


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def sentencepiece(text: str, ranks: dict[str, int], vocabulary: dict[str, int], prefix: str) -> list[int]:
    """Return the ids of a text by sentencepiece's rule: of all neighbours the pair with the best score is joined."""
    pieces = list(prefix + text.replace(" ", "▁"))
    while True:
        joined = [(ranks[pair], at) for at in range(len(pieces) - 1) if (pair := pieces[at] + pieces[at + 1]) in ranks]
        if not joined:
            break
        at = min(joined)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    ids = []
    for piece in pieces:
        rest = [f"<0x{byte:02X}>" for byte in piece.encode()]
        ids += [vocabulary[token] for token in ([piece] if piece in vocabulary else rest)]
    return ids
