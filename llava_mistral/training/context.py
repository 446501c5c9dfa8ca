"""Samples longer than the model's context are found before training: refused, or left out and listed."""

from typing import Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import context_length
from llava_mistral.training.packing import most_image_tokens, text_bytes

TEMPLATE = 512  # more tokens than any chat template of ours adds to a short conversation
FOR_A_TURN = 16  # and to each turn


def beyond_context(rows: Any, processor: Any, config: Any) -> list[tuple[int, int]]:
    """Index and tokens of each row that has more tokens than the text model has positions.

    A token is a byte of the text at least, so that only rows of very many bytes are worded and counted.

    Args:
        rows: a `datasets.Dataset` of training rows; no picture is decoded unless its size decides (anyres).
        processor: with the stage's chat template.
        config: a `LlavaMistralConfig`.
    """
    from llava_mistral.training.plan.workload import lengths_of

    if (limit := context_of(config)) is None:
        return []
    each = most_image_tokens(config)
    bounds = (TEMPLATE + FOR_A_TURN * turns + text + each * pictures for text, turns, pictures in text_bytes(rows))
    long = [index for index, bound in enumerate(bounds) if bound > limit]
    if not long:
        return []
    drawn = rows.select(long).with_format("arrow")[:].to_pylist()  # as stored: pictures are paths and bytes
    lengths = [sample.tokens for sample in lengths_of(drawn, processor, config)]
    return [(index, tokens) for index, tokens in zip(long, lengths, strict=True) if tokens > limit]


def context_of(config: Any) -> int | None:
    """Tokens that the text model has positions for, scaled ones counted; None where its configuration does not say."""
    return context_length(config)


def within_context(rows: Any, processor: Any, stage: Any, bad: BadSamples, source: str = "dataset") -> Any:
    """The rows without those that are `beyond_context`, which are refused, or left out and listed.

    Args:
        stage: a `StageArguments`; its field `source` names the data.
        bad: what becomes of them.

    Raises:
        BadInput: there are some and they are not to be skipped, or too many.
    """
    from llava_mistral.training.plan.checkpoint import configuration

    config = configuration(stage)
    long = beyond_context(rows, processor, config)
    if not long:
        return rows
    file, ids = getattr(stage, source), rows.select([index for index, _ in long])["id"]
    for (_, tokens), name in zip(long, ids, strict=True):
        problem = f"has {tokens:,} tokens, and the context of the model {context_of(config):,}"
        remedy = "shorten or drop it, or leave such samples out with --on_bad_sample skip"
        bad.gather(BadInput(problem, remedy=remedy, file=file, record=name, field=source))
    bad.close(len(rows))
    print(describe_beyond(long, list(ids), len(rows), config) + "; left out", flush=True)
    left_out = {index for index, _ in long}
    return rows.select([index for index in range(len(rows)) if index not in left_out])


def describe_beyond(long: list[tuple[int, int]], ids: list[str], rows: int, config: Any) -> str:
    """How many samples are beyond the context, and which are the first."""
    most = max(tokens for _, tokens in long)
    first = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
    return f"{len(long):,} of {rows:,} samples beyond the context of {context_of(config):,} tokens ({first}; {most:,})"
