"""Wall-clock time of a run, cut into phases that never overlap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PHASES = ("load", "tokenize", "train", "eval")
"""The glossary's phases; whatever else a run does is part of ``time/total_s`` only."""


class Phases:
    """``with phases("train"): ...`` adds the block's seconds to ``time/train_s``.

    A phase may be entered several times (its seconds add up) but never while another one is open. A block that raises
    is counted as far as it got.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._born = clock()
        self._seconds: dict[str, float] = {}
        self._current: str | None = None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block as phase ``name``.

        Raises:
            ValueError: there is no such phase in the glossary.
            RuntimeError: another phase is open.
        """
        if name not in PHASES:
            raise ValueError(f"no phase {name!r}: write one of {', '.join(PHASES)}")
        if self._current is not None:
            raise RuntimeError(f"phase {name!r} begins inside {self._current!r}: phases must not overlap")
        self._current, start = name, self._clock()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._clock() - start
            self._current = None

    def metrics(self) -> dict[str, float]:
        """``time/<phase>_s`` of every phase entered so far, ``time/total_s`` since this object was made."""
        figures = {f"time/{name}_s": seconds for name, seconds in self._seconds.items()}
        return {**figures, "time/total_s": self._clock() - self._born}


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done everything it was given (the CPU always has)."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
