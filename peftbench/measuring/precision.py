"""Which dtype matrix products are computed in, and the autocast context that does it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from peftbench.measuring import products

if TYPE_CHECKING:
    import torch

CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Instructions (x86 and ARM) that multiply bf16 natively, as `torch.cpu.get_capabilities` names them."""


GAIN = 1.2
"""How many times faster than in fp32 a CPU must multiply in bf16: less does not pay for what is rounded."""


def resolve(requested: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """The compute dtype: ``auto`` is bf16 where the device multiplies it natively and faster, and fp32 elsewhere.

    ``bf16`` is honoured everywhere; where it is emulated, `describe` in `peftbench.measuring.environment` says so.
    """
    import torch

    if requested == "auto":
        gain = bf16_gain(device)
        return torch.bfloat16 if native_bf16(device) and (gain is None or gain >= GAIN) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[requested]


def native_bf16(device: torch.device) -> bool:
    """Whether ``device`` has bf16 matrix products in hardware."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BF16)


def bf16_gain(device: torch.device) -> float | None:
    """How many times faster than in fp32 it multiplies in bf16, as measured; None where that needs no measuring."""
    if device.type != "cpu" or not native_bf16(device):
        return None
    return products.bf16_gain(cpu_model() or "unknown")


def cpu_model() -> str | None:
    """The name that its maker gave the CPU, e.g. ``AMD EPYC 7763 64-Core Processor``; None where nothing says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


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
