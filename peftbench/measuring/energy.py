"""Energy from the device's own counter; absent where there is none, never watts times seconds."""

from __future__ import annotations

import importlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch


class Energy:
    """Joules the whole device used inside the ``with`` block (NVML's total energy counter, which cannot be reset).

    The counter is the card's: other processes on it are in the figure too.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.joules: float | None = None
        """None while the block is open and where there is no counter."""
        self._nvml: Any = None
        self._handle: Any = None
        self._start: int | None = None

    def __enter__(self) -> Self:
        self._nvml, self._handle = _open(self.device)
        self._start = self._millijoules()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._millijoules()
        if self._start is not None and end is not None:
            self.joules = (end - self._start) / 1e3

    def metrics(self) -> dict[str, float]:
        """``energy/train_j``, or nothing where it was not measured."""
        return {} if self.joules is None else {"energy/train_j": self.joules}

    def _millijoules(self) -> int | None:
        """The counter once the device has done its work, or None where it has no such counter."""
        if self._handle is None:
            return None
        from peftbench.measuring.clock import synchronize

        synchronize(self.device)
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError:
            return None


def _open(device: torch.device) -> tuple[Any, Any]:
    """NVML and its handle of ``device``, or (None, None) where there is no NVML or no such card."""
    if device.type != "cuda":
        return None, None
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None, None
    import torch

    try:
        nvml.nvmlInit()
        # By UUID: NVML counts all cards of the machine, CUDA only those in CUDA_VISIBLE_DEVICES.
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        return nvml, nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
    except (nvml.NVMLError, AttributeError):
        return None, None
