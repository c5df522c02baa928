"""What a fused layer must know of the frozen linear layer that it is around: dense, GPT-2's Conv1D, or 4-bit."""

from __future__ import annotations

from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from peftbench.methods.quantization import dense_weight


def weight(layer: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    """W0, shape (d, k): by reference where it is dense, else dequantized to ``dtype`` (None: float32)."""
    found = dense_weight(layer.weight, dtype)
    return found.T if isinstance(layer, Conv1D) else found


def compute_dtype(layer: Any, x: torch.Tensor) -> torch.dtype:
    """The dtype to multiply in: what a 4-bit layer was told, else autocast's, else that of the weight or of ``x``."""
    dense = layer.weight.is_floating_point()
    if not dense and layer.compute_dtype is not None:
        return layer.compute_dtype
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return layer.weight.dtype if dense else x.dtype
