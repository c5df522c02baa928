"""Figures along the way, for step curves only: what a record reports is measured elsewhere and more carefully."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Curve:
    """Throughput since the last reading, and the memory in use at it.

    Args:
        device: where the steps run.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._tokens = 0
        self._since = clock()

    def add(self, real_tokens: int) -> None:
        """A step over so many tokens that are not padding was done."""
        self._tokens += real_tokens

    def restart(self) -> None:
        """Leave out what was done since the last step (validation)."""
        self._tokens, self._since = 0, self._clock()

    def read(self) -> dict[str, float]:
        """``train/tokens_per_s`` and ``train/memory_bytes``; the caller has waited for the device."""
        seconds = self._clock() - self._since
        figures: dict[str, float] = {"train/memory_bytes": self._memory()}
        if seconds > 0:
            figures["train/tokens_per_s"] = self._tokens / seconds
        self.restart()
        return figures

    def _memory(self) -> int:
        """Bytes that torch has allocated on CUDA; elsewhere the resident set of the process."""
        if self._device.type == "cuda":
            import torch

            return torch.cuda.memory_allocated(self._device)
        import psutil

        return psutil.Process().memory_info().rss
