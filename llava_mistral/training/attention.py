"""Attention over rows in which samples lie end to end: each sample by itself, however long the row.

A dense mask of blocks pays for the square of the row. Here the text model is given the borders of the samples
(`cu_seq_lens_q`, the flash-attention kernels' own argument) and every sample's attention is computed from its own
queries, keys and values alone, so nothing of a neighbour can reach it. The causal order, the sliding window and the
grouped heads are those of the stock model. The vision tower keeps the attention it has.
"""

from functools import lru_cache

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10 goes sample by sample on a GPU, too
    varlen_attn = None

PER_SAMPLE = "per_sample"  # the name under which transformers finds it


def use_per_sample_attention(model: torch.nn.Module) -> None:
    """Let the text model of `model` (PEFT's wrapper or not) attend sample by sample.

    Nothing of it is saved: a checkpoint opens with the attention of whoever opens it. Batches of another form
    (generation, padded rows) go the way of `sdpa`.
    """
    AttentionInterface.register(PER_SAMPLE, per_sample_attention)
    AttentionMaskInterface.register(PER_SAMPLE, per_sample_mask)
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    base.set_attn_implementation({"text_config": PER_SAMPLE})


def per_sample_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of `AttentionInterface`'s form.

    Args:
        query, key, value: `(rows, heads, length, head size)`, keys and values with the heads they are grouped into.
        attention_mask: of a batch that is not packed; None for a packed one.
        sliding_window: how many tokens a token attends to, itself included; None for all before it.
        cu_seq_lens_q: `(samples + 1,)` int32, where each sample begins in the flattened rows, and the end.
        max_length_q: tokens of the longest sample.
        position_ids: `(rows, length)`; where the borders are not given, a sample begins at every 0.

    Returns:
        `(rows, length, heads, head size)`, and None in place of the weights.
    """
    if cu_seq_lens_q is None:
        if attention_mask is not None or position_ids is None or query.shape[2] != key.shape[2]:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
            )
        cu_seq_lens_q = borders_of(position_ids.expand(query.shape[0], -1))
    packed, dtype = [_flat(states) for states in (query, key, value)], _kernel_dtype(query)
    if not dropout and _has_kernel(query, dtype):  # the kernel knows no dropout
        longest = int(cu_seq_lens_q.diff().max()) if max_length_q is None else max_length_q
        packed = [states.to(dtype) for states in packed]
        output = _by_kernel(*packed, cu_seq_lens_q, longest, scaling, sliding_window)
    else:
        output = _one_by_one(module, *packed, cu_seq_lens_q.diff().tolist(), dropout, scaling, sliding_window)
    return output.view(query.shape[0], query.shape[2], *output.shape[1:]), None


def borders_of(position_ids: torch.Tensor) -> torch.Tensor:
    """Where samples begin in the flattened rows, and the end: `(rows, length)` to `(samples + 1,)` int32."""
    starts = (position_ids.flatten() == 0).nonzero().flatten()
    return torch.cat([starts, starts.new_tensor([position_ids.numel()])]).to(torch.int32)


def _flat(states: torch.Tensor) -> torch.Tensor:
    """`(rows, heads, length, head size)` to `(rows · length, heads, head size)`."""
    return states.transpose(1, 2).reshape(-1, states.shape[1], states.shape[3])


def _has_kernel(query: torch.Tensor, dtype: torch.dtype) -> bool:
    """Flash attention: half precision, heads of 8 to 256 in steps of 8, an Ampere GPU or newer."""
    fits = query.shape[3] % 8 == 0 and query.shape[3] <= 256 and dtype in (torch.float16, torch.bfloat16)
    return (
        varlen_attn is not None and query.is_cuda and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _by_kernel(query, key, value, borders, longest: int, scaling, window: int | None) -> torch.Tensor:
    left = -1 if window is None else window - 1  # the kernel counts the tokens before, not the token itself
    return varlen_attn(
        query, key, value, borders, borders, longest, longest, scale=scaling, window_size=(left, 0), enable_gqa=True
    )


def _one_by_one(module, query, key, value, lengths: list[int], dropout, scaling, window: int | None) -> torch.Tensor:
    # Cut by `split`: going back, a slice would fill a tensor of the whole row's size, for every sample (measured: a
    # quarter of a step on a row of 13,000 tokens).
    samples = zip(*(states.split(lengths) for states in (query, key, value)), strict=True)
    outputs = []
    for length, sample in zip(lengths, samples, strict=True):
        sample = [states.transpose(0, 1).unsqueeze(0) for states in sample]
        mask = _band(length, window, query.device) if window is not None and length > window else None
        outputs.append(sdpa_attention_forward(module, *sample, mask, dropout=dropout, scaling=scaling)[0][0])
    return torch.cat(outputs)


@lru_cache(maxsize=16)  # the layers of a batch ask for the same few
def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """`(1, 1, length, length)`: each token and the `window - 1` before it."""
    with torch.inference_mode(False):  # what an evaluation leaves here must do for training, too
        seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return seen.triu(1 - window)[None, None]


def _kernel_dtype(query: torch.Tensor) -> torch.dtype:
    """Under autocast the rotation leaves queries and keys in float32, which kernels called by hand do not cast."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def per_sample_mask(*, q_length, kv_length, attention_mask=None, allow_is_causal_skip=True, **kwargs):
    """No mask for a packed batch (no padding, and the library saw positions restart), `sdpa`'s for any other."""
    if attention_mask is None and not allow_is_causal_skip and q_length == kv_length:
        return None
    given = {"q_length": q_length, "kv_length": kv_length, "attention_mask": attention_mask}
    return sdpa_mask(**given, allow_is_causal_skip=allow_is_causal_skip, **kwargs)
