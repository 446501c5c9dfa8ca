"""Kernels for a CPU behind torch's variable-length attention: they hold callers to flash attention's contract."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.nn.attention import varlen

HALF = (torch.float16, torch.bfloat16)


def check(query, key, value, borders, other_borders, longest, other_longest, window) -> None:
    """What `_flash_attention_forward` demands of its arguments, and what makes it causal."""
    assert query.dtype in HALF and query.dtype == key.dtype == value.dtype
    assert query.shape[2] % 8 == 0 and query.shape[2] <= 256 and query.shape[1] % key.shape[1] == 0
    assert all(states.dim() == 3 and states.stride(-1) == 1 for states in (query, key, value))
    assert key.shape == value.shape and query.shape[0] == key.shape[0]
    for marks in (borders, other_borders):
        assert marks.dtype == torch.int32 and marks[0] == 0 and marks[-1] == query.shape[0]
    assert type(longest) is type(other_longest) is int and longest == int(borders.diff().max())
    assert window[1] == 0, "a window to the right of the token would see the future"


def attend(query, key, value, scale: float | None, left: int, given=None):
    """One sample: causal, with a window of `left` tokens before each (-1: all), in float32.

    Returns the output; with `given`, its gradient, those of query, key and value, by the formulas: the dispatcher lets
    no autograd into a kernel.
    """
    scale, groups = query.shape[2] ** -0.5 if scale is None else scale, query.shape[1] // key.shape[1]
    query, key, value = (states.float().transpose(0, 1) for states in (query, key, value))
    key, value = (states.repeat_interleave(groups, 0) for states in (key, value))
    behind = torch.arange(query.shape[1])[:, None] - torch.arange(query.shape[1])[None]
    hidden = (behind < 0) | (behind > left if left >= 0 else False)
    weights = (query @ key.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf).softmax(-1)
    if given is None:
        return (weights @ value).transpose(0, 1)
    given = given.float().transpose(0, 1)
    of_weights = given @ value.transpose(1, 2)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
    grouped = (of_scores.transpose(1, 2) @ query, weights.transpose(1, 2) @ given)
    grouped = (one.unflatten(0, (-1, groups)).sum(1) for one in grouped)
    return tuple(one.transpose(0, 1) for one in (of_scores @ key, *grouped))


def parts(borders: torch.Tensor, *states: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    return zip(*(one.split(borders.diff().tolist()) for one in states), strict=True)


@contextmanager
def varlen_on_cpu() -> Iterator[dict[str, int]]:
    """Let `attention` take its way over the kernel on a CPU; yields how often each direction was computed."""
    from llava_mistral.training import attention

    calls = {"forward": 0, "backward": 0}

    def forward(query, key, value, borders, others, longest, other, causal=False, scale=None, window_size=None, *rest):
        check(query, key, value, borders, others, longest, other, window_size)
        calls["forward"] += 1
        samples = parts(borders, query, key, value)
        outputs = [attend(*sample, scale, window_size[0]) for sample in samples]
        lse = torch.zeros(query.shape[1], query.shape[0])
        return torch.cat(outputs).to(query.dtype), lse, torch.zeros(2, dtype=torch.uint64)

    def backward(given, query, key, value, out, lse, borders, others, longest, other, causal, rng, scale, window_size):
        check(query, key, value, borders, others, longest, other, window_size)
        assert given.shape == query.shape and given.dtype == query.dtype
        calls["backward"] += 1
        samples = parts(borders, query, key, value, given)
        gradients = [attend(q, k, v, scale, window_size[0], gradient) for q, k, v, gradient in samples]
        return tuple(torch.cat(kind).to(query.dtype) for kind in zip(*gradients, strict=True))

    varlen._varlen_attn.register_kernel("cpu")(forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(backward)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(attention, "_has_kernel", lambda query, dtype: dtype in HALF))
        yield calls
