"""The frozen part of a network, held as it is computed with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def hold_in(model: nn.Module, dtype: torch.dtype) -> int:
    """Hold the frozen linear layers in the dtype that autocast multiplies them in; returns the bytes that this frees.

    Autocast would round the same weights to the same numbers at every step. Embeddings, norms and what is trained stay
    in float32; a weight shared with an embedding (a tied decoder) stays with it, and 4-bit weights are left alone.
    """
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    shared = {id(p) for m in model.modules() if not isinstance(m, nn.Linear | Conv1D) for p in m.parameters(False)}
    freed = 0
    for module in model.modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.dtype == torch.float32 and not parameter.requires_grad and id(parameter) not in shared:
                before = parameter.nbytes
                parameter.data = parameter.data.to(dtype)
                freed += before - parameter.nbytes
    return freed
