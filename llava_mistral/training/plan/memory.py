"""Bytes that a training step holds at its peak, term by term, from the configuration and the sizes of a micro-batch.

What is saved for the backward is counted as in Korthikanti et al., "Reducing Activation Recomputation in Large
Transformer Models", 2022, section 4, but for this code: gated MLP, grouped keys, float32 residuals and norms under
autocast, which casts a tensor anew for each matrix that reads it, and text weights that may be frozen, whose matrices
then save no input. The optimizer's states are those of Rajbhandari et al., "ZeRO", 2020, section 3.1; 4-bit weights
those of Dettmers et al., "QLoRA", 2023, section 3. `tests/test_memory.py` holds the peak to what real runs allocate.
"""

from dataclasses import dataclass
from typing import Any

from llava_mistral.training.plan.flops import head_width
from llava_mistral.training.plan.sizes import Sizes, sizes_of
from llava_mistral.training.plan.workload import Batch, Run

TORCH = ("adamw_torch", "adamw_torch_fused")  # two moments in the weight's own precision
# Bytes of other optimizers' states for each trained weight. A name of transformers is here or in `UNKNOWN`.
EIGHT_BITS = 2 + 8 / 256  # two bytes and, for each block of 256, two float32 scales
STATES = {
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "adamw_torch_8bit"), EIGHT_BITS),
    "paged_adamw_8bit": EIGHT_BITS,  # pages may leave for the host where memory is short: at most this
    "adamw_torch_4bit": 1 + 8 / 128,  # torchao: half a byte each, blocks of 128
    "paged_adamw_32bit": 8,
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit"), EIGHT_BITS / 2),  # one moment
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_32bit"), 4),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit", "grokadamw"), 12),  # three moments
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), EIGHT_BITS * 3 / 2),
    **dict.fromkeys(("schedule_free_adamw", "schedule_free_radam", "stable_adamw"), 8),
    "rmsprop_bnb_8bit": EIGHT_BITS / 2,
    "schedule_free_sgd": 4,
    "adafactor": 0.1,  # a row and a column for each matrix (Shazeer and Stern, 2018); vectors in full
    "sgd": 0,
}
_RANK = "its states have the rank that --optim_args gives"
UNKNOWN = {
    **dict.fromkeys(("galore_adamw", "galore_adamw_8bit", "galore_adafactor", "apollo_adamw"), _RANK),
    **dict.fromkeys(("galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise"), _RANK),
    "apollo_adamw_layerwise": _RANK,
    **dict.fromkeys(("lomo", "adalomo"), "it steps within the backward, so that gradients are never there together"),
    "adamw_anyprecision": "the precision of its states is what --optim_args says",
    **dict.fromkeys(("adamw_torch_xla", "adamw_torch_npu_fused"), "it is for other accelerators than NVIDIA's"),
}
NF4 = 0.5 + 0.127 / 8  # bytes a weight, with double quantisation
TILE = 4096, 32768  # tokens and vocabulary of a block of TRL's fused head (trl/kernels/chunked_logprob.py)
# What TRL's fused head holds beside its block on a CPU, where it has no Triton kernel, in bytes of each logit:
# measured, six float32 tensors and one bool on the way back, three and one before.
CPU_LOGIT = {"forward": 13, "backward": 29}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. `peak` is the largest sum that is held at one moment, not the sum of the fields.

    Args:
        casts: the bfloat16 copies that autocast keeps of float32 weights.
        activations: saved for the backward, of the whole micro-batch.
        working: what the backward of one layer holds beside them; with checkpointing the layer itself, computed again.
        loss: buffers of the fused head.
        pictures: pixels, and the hidden states of the tower that are kept until the text model is done.
        exchange: buffers for the gradients of several devices, or the layers gathered from them.
    """

    weights: float
    gradients: float
    optimizer: float
    casts: float
    activations: float
    working: float
    loss: float
    pictures: float
    exchange: float
    peak: float


def memory_of(config: Any, run: Run, batch: Batch) -> Memory | None:
    """Bytes of a step of `run` whose largest micro-batch is `batch`; None for another optimizer, and under DeepSpeed.

    Args:
        config: a `LlavaMistralConfig`.
    """
    if run.deepspeed or run.optim not in (*TORCH, *STATES):
        return None
    sizes, share = sizes_of(config, run.lora_r), run.world if run.sharded else 1
    weights, gradients, optimizer = (part / share for part in state_bytes(config, sizes, run))
    casts_forward, casts_backward = cast_bytes(sizes, run)
    activations, working = activation_bytes(config, sizes, run, batch)
    forward, backward = loss_bytes(config, run, batch)
    pixels, hidden = picture_bytes(config, batch)
    exchange = exchange_bytes(sizes, run, gradients)
    states = weights + optimizer + exchange
    before = gradients if run.accumulation > 1 else 0
    head = run.trained_bytes * sizes.head if run.full else 0  # its gradient is made in a buffer of its own
    embedding = 4 * sizes.embedding if run.full and run.accumulation > 1 else 0  # likewise, before it is added
    peak = max(
        states + before + pixels + casts_forward + activations + max(hidden, forward),
        states + before + pixels + casts_backward + activations + backward + head,
        states + gradients + pixels + working + embedding,
        states + gradients + step_bytes(config, run, gradients),
    )
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        casts=casts_forward,
        activations=activations,
        working=working,
        loss=max(forward, backward + head),
        pictures=pixels + hidden,
        exchange=exchange,
        peak=peak,
    )


def state_bytes(config: Any, sizes: Sizes, run: Run) -> tuple[float, float, float]:
    """Weights, gradients and optimizer states."""
    small = 2 if run.small_frozen else 4
    head = run.trained_bytes if run.full else 4 if run.four_bit else small
    matrices = NF4 if run.four_bit else run.trained_bytes if run.full else small
    low_rank = 2 if run.four_bit else 4  # TRL trains the pairs in bfloat16 over 4-bit weights
    weights = small * sizes.tower + 4 * (sizes.projector + sizes.embedding + sizes.norms)
    weights += head * sizes.head + matrices * sizes.matrices + low_rank * sizes.low_rank
    weights += 4 * sizes.projector if sizes.low_rank else 0  # as it was before, which PEFT keeps
    gradients = 4 * sizes.projector + low_rank * sizes.low_rank
    if run.full:
        gradients += 4 * sizes.text - (4 - run.trained_bytes) * (sizes.matrices + sizes.head)
    trained = sizes.counts(run.stage)["trainable"]
    return weights, gradients, 2 * gradients if run.optim in TORCH else STATES[run.optim] * trained


def cast_bytes(sizes: Sizes, run: Run) -> tuple[float, float]:
    """bfloat16 copies of weights that are alive at the end of the forward and at the start of the backward.

    Autocast keeps the copy of a trained weight until the forward ends. Without checkpointing a copy is also saved for
    the backward, of frozen weights, too: the gradient passes through them.
    """
    if not run.bf16 or run.sharded:  # FSDP casts the layers that it gathers
        return 0, 0
    cached = 2 * (sizes.projector + sizes.low_rank + (sizes.matrices if run.full and run.casts_matrices else 0))
    saved = 2 * (sizes.projector + sizes.low_rank + (sizes.matrices if run.casts_matrices else 0))
    return (cached, 2 * sizes.projector) if run.checkpointing else (max(cached, saved), saved)


def activation_bytes(config: Any, sizes: Sizes, run: Run, batch: Batch) -> tuple[float, float]:
    """Saved for the backward by the whole forward, and what the backward of one layer holds meanwhile."""
    text, vision = config.text_config, config.vision_config
    compute, wide = 2 if run.bf16 else 4, 4 * text.hidden_size
    layer = layer_bytes(text, run, batch) * batch.tokens
    kept = wide * batch.tokens if run.checkpointing else layer
    around = batch.tokens * wide * (4 if run.full else 3)  # embeddings, pictures among them, the last norm, its input
    projector = batch.features * compute * (vision.hidden_size + 3 * text.hidden_size)
    inner = batch.tokens * compute * (3 * text.intermediate_size + text.hidden_size) + 2 * wide * batch.tokens
    copies = 2 * sizes.layer if run.casts_matrices else 0
    largest = text.intermediate_size * text.hidden_size
    another = run.accumulation > 1 or run.casts_matrices  # the gradient as it comes, beside the one that it goes to
    fresh = largest * (compute + (run.trained_bytes if another else 0)) if run.full else 0
    fresh += 2 * largest if run.four_bit else 0  # a matrix is dequantised while it is used
    once = batch.tokens * batch.length * (1 if run.cuda else compute) if not run.packed else 0
    return kept * sizes.layers + around + projector + once, layer + inner + copies + fresh + around


def layer_bytes(text: Any, run: Run, batch: Batch) -> float:
    """Bytes that one text layer saves for each token."""
    hidden, inner, width = text.hidden_size, text.intermediate_size, head_width(text)
    query = text.num_attention_heads * width
    # Keys and values are repeated for every query head where there is a mask (transformers' sdpa attention).
    key = text.num_key_value_heads * width if run.packed else query
    compute = 2 if run.bf16 else 4
    saved = 4 * 2 * hidden + compute * (2 * query + 2 * key + 3 * inner)  # residuals; attention; gate, up and silu
    saved += 4 * (text.num_attention_heads + 2)  # the log-sum-exp of each head, the scale of each norm
    saved += 0 if run.packed else compute * batch.length  # the mask as numbers of the attention's type
    if run.full:
        # The norm before its weight; the input of each of the matrices, a cast for each of them or one for all.
        saved += 4 * 2 * hidden + compute * inner + (2 * 5 * hidden if run.bf16 else 4 * 2 * hidden)
    return saved + (low_rank_bytes(text, run) if run.lora_r else 0)


def low_rank_bytes(text: Any, run: Run) -> float:
    """Bytes that the seven LoRA pairs of a layer save for each token."""
    hidden, inner = text.hidden_size, text.intermediate_size
    query = text.num_attention_heads * head_width(text)
    compute = 2 if run.bf16 else 4
    read = 5 * hidden + query + inner  # widths of what the seven matrices read
    if run.lora_dropout:
        saved = (compute + (1 if run.cuda else 4)) * read  # what is left, and the mask: bool, on a CPU float32
    else:
        saved = compute * (read if run.bf16 else 2 * hidden + inner)
    return saved + 7 * run.lora_r * compute


def loss_bytes(config: Any, run: Run, batch: Batch) -> tuple[float, float]:
    """The fused head's buffers in forward and backward: on a GPU for the answers' tokens alone, on a CPU for all."""
    text = config.text_config
    compute = 2 if run.bf16 else 4
    tokens = batch.answers if run.cuda else batch.tokens
    block = min(tokens, TILE[0])
    tile = compute * block * TILE[1] + 4 * tokens * text.hidden_size
    tile += compute * block * text.hidden_size if run.bf16 else 0
    matrix = 2 * min(text.vocab_size, TILE[1]) * text.hidden_size if run.bf16 else 0
    logits = block * min(text.vocab_size, TILE[1])
    extra = {way: 0 if run.cuda else bytes_each * logits for way, bytes_each in CPU_LOGIT.items()}
    return tile + matrix + extra["forward"], tile + matrix + extra["backward"] + 4 * tokens * text.hidden_size


def picture_bytes(config: Any, batch: Batch) -> tuple[float, float]:
    """Pixels, and the tower's hidden states of every layer, which the library keeps until the text model is done."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    pixels = 4 * batch.tiles * vision.num_channels * vision.image_size**2
    return pixels, 4 * batch.tiles * patches * vision.hidden_size * (vision.num_hidden_layers + 1)


def exchange_bytes(sizes: Sizes, run: Run, gradients: float) -> float:
    """DDP's buckets, as large as the gradients; or, sharded, two gathered layers and what lies outside the layers."""
    if run.world == 1:
        return 0
    if not run.sharded:
        return gradients
    return 4 * (2 * sizes.layer + sizes.embedding + sizes.head + sizes.projector)


def step_bytes(config: Any, run: Run, gradients: float) -> float:
    """Temporary tensors of the optimizer's step: torch's AdamW works on lists of all weights on a GPU."""
    if run.optim != "adamw_torch":
        return 0
    return gradients if run.cuda else 8 * config.text_config.intermediate_size * config.text_config.hidden_size
