"""Which dtype matrix products are computed in, and the autocast context that does it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Instructions (x86 and ARM) that multiply bf16 natively, as `torch.cpu.get_capabilities` names them."""


def resolve(requested: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """The compute dtype: ``auto`` is bf16 where the device multiplies it natively and fp32 elsewhere.

    ``bf16`` is honoured everywhere; where it is emulated, `describe` in `peftbench.measuring.environment` says so.
    """
    import torch

    if requested == "auto":
        return torch.bfloat16 if native_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[requested]


def native_bf16(device: torch.device) -> bool:
    """Whether ``device`` has bf16 matrix products in hardware."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # torch < 2.11
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BF16)


def autocast(device: torch.device, dtype: torch.dtype) -> Callable[[], AbstractContextManager[object]]:
    """Makes a fresh context for each use: autocast to ``dtype``, or nothing at all for fp32."""
    import torch

    if dtype == torch.float32:
        return nullcontext
    return partial(torch.autocast, device_type=device.type, dtype=dtype)


def label(dtype: torch.dtype) -> str:
    """``fp32`` or ``bf16``, as the configuration writes it."""
    import torch

    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
