"""Training speed: real tokens and samples a second over measured optimizer steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftbench.measuring.clock import synchronize

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Step:
    begin: Any
    """Seconds, or a CUDA event."""
    end: Any
    real_tokens: int
    computed_tokens: int
    samples: int


class StepMeter:
    """Times optimizer steps: ``begin()``, forward, backward, ``optimizer.step()``, ``end(...)``.

    What happens between ``end`` and the next ``begin`` (validation, say) is not counted. On CUDA a step is bracketed
    by two events and the host waits once, in `metrics`; a synchronisation in every step would slow the training that
    is being measured. On the CPU nothing runs ahead, and on MPS each end waits for the device.

    Args:
        device: where the steps run.
        total_steps: how many optimizer steps are planned.
        warmup: steps left out at the start (allocation, autotuning, lazy initialisation); None is a tenth of the
            steps, at least one and at most five.
        clock: a monotonic clock in seconds (not used on CUDA).
    """

    def __init__(
        self,
        device: torch.device,
        total_steps: int,
        warmup: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.warmup = min(5, math.ceil(total_steps / 10)) if warmup is None else warmup
        self._device = device
        self._clock = clock
        self._steps: list[_Step] = []
        self._begin: Any = None

    def begin(self) -> None:
        """An optimizer step begins.

        Raises:
            RuntimeError: the step before it has not ended.
        """
        if self._begin is not None:
            raise RuntimeError("StepMeter.begin() before the step's end()")
        self._begin = self._mark()

    def end(self, real_tokens: int, computed_tokens: int, samples: int) -> None:
        """The step has ended.

        Args:
            real_tokens: tokens of its batches that are not padding.
            computed_tokens: the same with padding.
            samples: items of its batches.

        Raises:
            RuntimeError: no step has begun.
        """
        if self._begin is None:
            raise RuntimeError("StepMeter.end() without a begin()")
        self._steps.append(_Step(self._begin, self._mark(), real_tokens, computed_tokens, samples))
        self._begin = None

    def metrics(self) -> dict[str, float]:
        """``speed/train_*`` over the measured steps and ``padding/efficiency`` over all; absent where there are none.

        Waits for the device.
        """
        if not self._steps:
            return {}
        synchronize(self._device)
        real = sum(step.real_tokens for step in self._steps)
        computed = sum(step.computed_tokens for step in self._steps)
        return {**self._speed(self._steps[self.warmup :]), "padding/efficiency": real / computed}

    def _speed(self, steps: list[_Step]) -> dict[str, float]:
        seconds = [self._elapsed(step) for step in steps]
        total = sum(seconds)
        if total <= 0:
            return {}
        p50, p95 = percentiles_ms(seconds)
        return {
            "speed/train_tokens_per_s": sum(step.real_tokens for step in steps) / total,
            "speed/train_samples_per_s": sum(step.samples for step in steps) / total,
            "speed/train_step_ms_p50": p50,
            "speed/train_step_ms_p95": p95,
        }

    def _mark(self) -> Any:
        """A point in time on the device."""
        if self._device.type == "cuda":
            import torch

            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        synchronize(self._device)
        return self._clock()

    def _elapsed(self, step: _Step) -> float:
        """Seconds of one step (the device has been waited for)."""
        if self._device.type == "cuda":
            return step.begin.elapsed_time(step.end) / 1e3
        return step.end - step.begin


def percentiles_ms(seconds: list[float]) -> tuple[float, float]:
    """Median and 95th percentile of durations in seconds, in milliseconds (linear interpolation)."""
    import numpy as np

    p50, p95 = np.percentile(np.asarray(seconds) * 1e3, [50, 95])
    return float(p50), float(p95)
