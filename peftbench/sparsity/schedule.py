"""When pruning happens: which optimizer steps, and how much of the target each of them reaches. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Pruning after the 0-based optimizer steps ``first`` to ``final``; from ``final`` on the mask is fixed.

    One-shot pruning has ``first == final``.
    """

    ratio: float
    """``s_f``: the fraction of zeros (or of removed components) after ``final``."""
    first: int
    final: int
    interval: int
    """Steps between two updates; ``final`` is an update whatever the interval."""

    def due(self, step: int) -> bool:
        """Whether the mask is updated after ``step``."""
        return step == self.final or (self.first <= step < self.final and (step - self.first) % self.interval == 0)

    @property
    def updates(self) -> int:
        """How many updates of the mask prune something: that after ``first`` prunes nothing, unless it is ``final``."""
        return 1 + sum(self.due(step) for step in range(self.first + 1, self.final))

    def target(self, step: int) -> float:
        """Sparsity after ``step``: ``s_t = s_f (1 - (1 - (t - t0) / (t1 - t0))^3)`` (Zhu & Gupta, 2017, s_i = 0)."""
        if step >= self.final:
            return self.ratio
        if step <= self.first:
            return 0.0
        remaining = 1 - (step - self.first) / (self.final - self.first)
        return self.ratio * (1 - remaining**3)


def plan(ratio: float, start: float, end: float | None, interval: int | None, total_steps: int) -> Plan:
    """Turn fractions of the training into steps; without ``end`` pruning happens once, at ``start``.

    A fraction ``f`` stands for "when the nearest whole number to ``f * total_steps`` of steps is done". However short
    the training: nothing is pruned before one step is done (B begins at zero, so its entries could not be told
    apart), the target is reached by the last step, and unless that is the only step one step of recovery follows.
    """
    latest = max(1, total_steps - 1)
    done_first = min(max(1, round(start * total_steps)), latest)
    done_final = done_first if end is None else min(max(done_first, round(end * total_steps)), latest)
    return Plan(ratio, done_first - 1, done_final - 1, interval or 1)


def kept(count: int, ratio: float) -> int:
    """How many of ``count`` entries or components stay at sparsity ``ratio``: the nearest whole number."""
    return round((1 - ratio) * count)
