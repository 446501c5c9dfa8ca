"""The miniature's tokenizer: Mistral's conventions over a thousand tokens."""

import json
import re

from llava_mistral.data.scienceqa import INSTRUCTION


def train_tokenizer(texts: list[str], vocab_size: int):
    """A byte-fallback BPE with Mistral's conventions: `▁` for a space, one before every piece, no token across words.

    The ids 0 to 3 are `<unk>`, `<s>`, `</s>` and `<pad>`; the image token is added by `llava-mistral build`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # Words, digits and punctuation stay apart. What every prompt repeats (the marks of the template, the instruction)
    # may become one token each: half the length, and half the time, of a small model's prompt. So may a letter with
    # the word after it: a few layers find the letter of an answer in the same place, and hardly in the place before.
    phrases = rf"▁?\[/?INST\]|\n{re.escape(INSTRUCTION).replace(chr(92) + ' ', '▁')}|\n[A-Z]\.▁[A-Za-z0-9]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{phrases}|▁?[A-Z]?[a-z]+|▁?[^\n]|\n"), behavior="isolated")
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[*specials, *byte_tokens], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model = _merging_every_pair(tokenizer, specials)
    # As Mistral's since its third version: the space before a text is put there unless the text brings its own, so a
    # completion tokenised apart from its prompt has the ids that it has in the whole. No merge across a boundary was
    # learned, so no boundary is needed any more.
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _merging_every_pair(tokenizer, specials: list[str]):
    """The trained BPE with every two tokens merged that make a third, in the order in which the thirds were learned.

    The trainer merges only the pairs that it met. Sentencepiece, which other engines read, knows no pairs.
    """
    from tokenizers import models

    state = json.loads(tokenizer.to_str())["model"]
    order: dict[str, int] = {}
    for first, second in state["merges"]:
        order.setdefault(first + second, len(order))
    pairs = [(made[:cut], made[cut:]) for made in order for cut in range(1, len(made))]
    pairs = [pair for pair in pairs if state["vocab"].keys() >= set(pair) and not {*specials} & {*pair}]
    pairs.sort(key=lambda pair: (order["".join(pair)], -len(pair[0])))
    return models.BPE(vocab=state["vocab"], merges=pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
