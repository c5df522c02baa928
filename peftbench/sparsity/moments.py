"""Optimizer state that follows its parameter when entries or components are pruned.

Every state tensor of the parameter's own shape is a moment (``exp_avg``, ``exp_avg_sq``, ``max_exp_avg_sq`` of torch,
``state1``, ``state2`` of bitsandbytes); everything else (``step``) is left alone. bitsandbytes' 8-bit moments are uint8
codes into ``qmapN``, scaled by ``absmaxN`` in blocks of 256: there 0 is not the code of zero, and cutting a row out
shifts the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 256
"""Block size of bitsandbytes' 8-bit optimizers."""


def zero_moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, pruned: Tensor) -> None:
    """Set the moments of ``parameter`` to exactly zero where ``pruned`` (bool, its shape) is True."""
    state = optimizer.state.get(parameter, {})
    for key, moment in _moments(state, parameter):
        # Paged moments live in host memory that both sides see; moving the mask there also waits for the device.
        moment.masked_fill_(pruned.to(moment.device), _zero_of(state, key))


def take_moments(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, indices: Tensor, dim: int
) -> None:
    """Put ``new``, which is ``old`` cut to ``indices`` along ``dim``, in the place of ``old`` in the optimizer.

    Moments are cut likewise, the step count stays.

    Raises:
        RuntimeError: ``old`` is not in any parameter group, so it was not trained.
    """
    places = [
        (group["params"], i) for group in optimizer.param_groups for i, p in enumerate(group["params"]) if p is old
    ]
    if not places:
        raise RuntimeError("a factor's parameter is not in the optimizer's parameter groups")
    for parameters, i in places:
        parameters[i] = new
    state = optimizer.state.pop(old, None)
    if state:
        cut = dict(state)
        for key, moment in _moments(state, old):
            cut |= _cut(state, key, moment.to(old.device), indices, dim)
        optimizer.state[new] = cut


def _moments(state: dict[str, Any], parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            yield key, value


def _zero_of(state: dict[str, Any], key: str) -> float | Tensor:
    moment = state[key]
    if moment.is_floating_point():
        return 0.0
    codes = state[f"qmap{key.removeprefix('state')}"]
    return codes.abs().argmin().to(moment.device, moment.dtype)


def _cut(state: dict[str, Any], key: str, moment: Tensor, indices: Tensor, dim: int) -> dict[str, Tensor]:
    if moment.is_floating_point():
        return {key: moment.index_select(dim, indices)}
    from bitsandbytes import functional

    number = key.removeprefix("state")
    codes, absmax = state[f"qmap{number}"], state[f"absmax{number}"]
    values = functional.dequantize_blockwise(moment, absmax=absmax, code=codes, blocksize=BLOCK)
    packed, quantized = functional.quantize_blockwise(values.index_select(dim, indices), code=codes, blocksize=BLOCK)
    return {key: packed, f"absmax{number}": quantized.absmax}
