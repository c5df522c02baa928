"""Attention as runs compute it: on the CPU our own, elsewhere torch's, neither of which asks the device anything.

Attention with dropout is done a few items at a time on the CPU, so that scores stay in the caches.

torch has no fused attention with dropout there: scores, weights and masks of a whole batch go through memory several
times, which at IMDB's length takes longer than all linear layers. Here each part of the batch is done from its scores
to its output. Its weights are kept for the way back: P >= 0 leaves a sign bit free, which says what was dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from peftbench.training.dropout import RESOLUTION, Bits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "cpu"
"""Under which `attention` is known to transformers."""
PADDED = "sdpa_padded"
"""Under which its own SDPA is known that takes a mask for padding, see `_padding`."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of a floating dtype."""
PART = 3 * 2**19
"""Scores that are worked on at a time, at most: 3 MB in bf16 (more where one head of one item has more). With 12 heads
these are two items of 256 tokens, or half of one of 512; less is more calls, more leaves the caches."""


class Attention(torch.autograd.Function):
    """``O = (P * keep / (1 - p)) V`` with ``P = softmax(s Q K^T + M)`` and ``keep`` Bernoulli(1 - p)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
        dropped: int,
    ) -> torch.Tensor:
        """query, key, value: (batch, heads, length, width), one dtype; mask M: added, broadcast to (batch, heads,
        length, length); dropped: p in units of 1 / `RESOLUTION`. Returns (batch, length, heads, width)."""
        batch, heads, length, width = query.shape
        queries = torch.mul(query, scale, out=query.new_empty(query.shape)).flatten(0, 1)
        keys, values = (part.contiguous().flatten(0, 1) for part in (key, value))
        output = query.new_empty(batch, length, heads, width)
        kept: list[torch.Tensor] = []
        for items, some, part in _parts(batch, heads, length * keys.shape[1]):
            scores = torch.bmm(queries[part], keys[part].transpose(1, 2))
            if mask is not None:
                of_items = mask[items] if mask.shape[0] > 1 else mask
                _by_heads(scores, some).add_(of_items[:, some] if mask.shape[1] > 1 else of_items)
            signed = scores.softmax(-1)
            _drop(signed, dropped)
            kept.append(signed)
            found = torch.bmm(signed.relu(), values[part])
            output[items, :, some] = _by_heads(found, some).transpose(1, 2)
        ctx.scale, ctx.undo = scale, RESOLUTION / (RESOLUTION - dropped)
        ctx.save_for_backward(queries, keys, values, *kept)
        return output.mul_(ctx.undo)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """With D = P * keep and G = dO / (1 - p): dV = D^T G, dP = G V^T * keep, dS = P (dP - rowsum(P dP)),
        dQ = s dS K, dK = s dS^T Q."""
        queries, keys, values, *signed = ctx.saved_tensors
        batch, length, heads, width = grad.shape
        # In memory as the layers before have made them: (batch, length, heads, width). A frozen projection of what
        # needs no gradient itself, as the first layer's of keys, needs none.
        to_queries, to_keys, to_values = (
            x.new_empty(batch, x.shape[1], heads, width).transpose(1, 2) if needed else None
            for x, needed in zip((queries, keys, values), ctx.needs_input_grad, strict=False)
        )
        parts = _parts(batch, heads, length * keys.shape[1])
        for (items, some, part), of_part in zip(parts, signed, strict=True):
            output = grad[items, :, some].transpose(1, 2)
            output = torch.mul(output, ctx.undo, out=output.new_empty(output.shape)).flatten(0, 1)
            kept = of_part.relu()
            if to_values is not None:
                to_values[items, some] = _by_heads(torch.bmm(kept.transpose(1, 2), output), some)
            # Where P itself is 0 its gradient is multiplied by 0, whatever was kept.
            weights = torch.ops.aten.threshold_backward(torch.bmm(output, values[part].transpose(1, 2)), kept, 0)
            scores = torch._softmax_backward_data(weights, of_part.abs(), -1, of_part.dtype)
            if to_queries is not None:
                to_queries[items, some] = _by_heads(torch.bmm(scores, keys[part]).mul_(ctx.scale), some)
            if to_keys is not None:
                to_keys[items, some] = _by_heads(torch.bmm(scores.transpose(1, 2), queries[part]), some)
        return to_queries, to_keys, to_values, None, None, None


def _parts(batch: int, heads: int, scores: int) -> Iterator[tuple[slice, slice, slice]]:
    """Parts of `PART` scores at most, or of one head of one item, which has ``scores`` of them: which items, which of
    their heads, and which of (items * heads) matrices those are."""
    fit = max(1, PART // max(1, scores))
    items, some = max(1, fit // heads), min(fit, heads)
    for item in range(0, batch, items):
        for head in range(0, heads, some):
            end = min(head + some, heads)
            matrices = slice(item * heads + head, (item + items - 1) * heads + end)
            yield slice(item, item + items), slice(head, end), matrices


def _by_heads(matrices: torch.Tensor, heads: slice) -> torch.Tensor:
    """(items * heads, rows, columns) as (items, heads, rows, columns)."""
    return matrices.unflatten(0, (-1, heads.stop - heads.start))


def _drop(weights: torch.Tensor, dropped: int) -> None:
    """Set the sign bit (in place) of weights >= 0 that are to be dropped."""
    drawn = Bits.below(weights.shape, dropped).to(INTEGERS[weights.element_size()])
    weights.copysign_(drawn.view(weights.dtype))


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention as transformers asks for it: (batch, heads, length, width) in, (batch, length, heads, width) out.

    The heads of key and value may be fewer, a divisor of the query's. What is asked for beyond that (T5's position
    bias) is transformers' own SDPA's: in its place we stand.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if any(more.get(name) is not None for name in _beyond()):
        more["is_causal"] = False  # the mask says it
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if (groups := query.shape[1] // key.shape[1]) > 1:  # grouped queries share a head of key and value
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    dropped = round(dropout * RESOLUTION) if module.training else 0
    if not dropped:
        found = nn.functional.scaled_dot_product_attention(query, key, value, attention_mask, scale=scale)
        return found.transpose(1, 2).contiguous(), None
    # Autocast would take softmax to float32; the kernel computes in float32 inside anyway.
    place = query.device.type
    dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else query.dtype
    query, key, value = (part.to(dtype) for part in (query, key, value))
    with torch.autocast(place, enabled=False):
        return Attention.apply(query, key, value, attention_mask, scale, min(dropped, RESOLUTION - 1)), None


@cache
def _beyond() -> tuple[str, ...]:
    """What transformers' SDPA takes that changes its answer, and ours does not; all else both leave aside."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    named = inspect.signature(sdpa_attention_forward).parameters.values()
    taken = (*inspect.signature(attention).parameters, "is_causal")
    keywords = [parameter.name for parameter in named if parameter.kind is not parameter.VAR_KEYWORD]
    return (*(name for name in keywords if name not in taken), "softcap")


def register() -> None:
    """Make both implementations known to transformers; `attention` gets the additive mask of its plain attention.

    Nor does a decoder ask from now on whether positions that it is given no mask for are those of several texts.
    """
    from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import eager_mask, sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _padding(eager_mask))
    AttentionInterface.register(PADDED, sdpa_attention_forward)
    AttentionMaskInterface.register(PADDED, _padding(sdpa_mask))
    masking_utils.find_packed_sequence_indices = _one_text


def choose(model: PreTrainedModel, name: str) -> None:
    """Let ``model`` attend by what is registered as ``name``, where SDPA is what transformers has chosen for it.

    Where it is not, the network does more than that with its scores (Gemma 2 caps them, DeBERTa adds to them).
    """
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(name)


def _one_text(position_ids: torch.Tensor) -> None:
    """For what transformers asks a GPU in every step of a decoder: an item holds one text here."""


def ask_nothing(model: nn.Module) -> None:
    """Take from ``model`` its look, where it is given no mask, whether it should have been (GPT-2's, DeBERTa's).

    That too would wait for a GPU at every step, and there is a mask wherever there is padding.
    """
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            vars(module)["warn_if_padding_and_no_attention_mask"] = _unasked


def _unasked(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
    """In place of `PreTrainedModel.warn_if_padding_and_no_attention_mask`."""


def _padding(make: Callable[..., Any]) -> Callable[..., Any]:
    """``make`` without its question whether a mask that it is given masks anything: a GPU would have to be waited for.

    `peftbench.tasks.base.Batch.arguments` gives a mask only where there is padding.
    """

    def mask(*, attention_mask: torch.Tensor | None = None, **options: Any) -> Any:
        if attention_mask is not None:
            options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return make(attention_mask=attention_mask, **options)

    return mask
