"""Inference speed of a trained model: latency of one item and samples a second at the evaluation batch size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from peftbench.measuring.clock import synchronize
from peftbench.measuring.mode import mode
from peftbench.measuring.throughput import percentiles_ms
from peftbench.tasks.base import Batch, Encoded, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

SINGLES = 63
"""Items that latency is measured on, at most."""
BATCHES = 7
"""Batches that throughput is measured on, at most. One less than a power of two: see `_spread`."""
ROUNDS = 3
"""How often the same passes are timed, as long as there is time: their differences say how steady a figure is."""


class Inference(NamedTuple):
    """Figures over all rounds, and how far the rounds lie apart: (largest - smallest) / mean of each figure."""

    metrics: dict[str, float]
    spread: dict[str, float]
    """Of p50 and samples a second; absent where time was left for one round only."""


def profile_inference(
    model: nn.Module,
    task: Task,
    data: Encoded,
    batch_size: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
    *,
    prefix: str = "speed/infer",
    budget_s: float = 1.0,
    min_items: int = 20,
    min_batches: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Inference:
    """Measure ``{prefix}_latency_ms_p50``, ``_p95`` and ``{prefix}_samples_per_s``.

    The items cover the lengths of ``data`` evenly (they repeat where there are fewer than a batch). Inputs are on the
    device before the clock starts, each forward pass is waited for, and each pass after the warm-up counts. The same
    passes are timed in up to `ROUNDS` rounds. The model is in eval mode and without gradients meanwhile.

    Args:
        batch_size: the evaluation batch size.
        autocast: makes the autocast context of the evaluation.
        prefix: ``speed/infer`` or ``speed/infer_merged``.
        budget_s: seconds to spend on each of the two measurements, shared by the rounds; the minimum is done anyway.
        min_items: items that are timed even if the budget is spent, in one round then.
        min_batches: the same for batches.

    Raises:
        ValueError: ``data`` is empty.
    """
    import torch

    def timed(size: int, count: int, warmup: int, minimum: int) -> list[Round]:
        batches = [batch.to(device) for batch in _chosen(task, data, size, count)]
        for batch in batches[:warmup]:
            model(**batch.arguments)
        synchronize(device)
        rounds = [_timed(model, batches, device, budget_s / ROUNDS, minimum, clock)]
        same = batches[: len(rounds[0].seconds)]
        while len(rounds) < ROUNDS and sum(sum(one.seconds) for one in rounds) < budget_s:
            rounds.append(_timed(model, same, device, math.inf, len(same), clock))
        return rounds

    with mode(model, training=False), torch.no_grad(), autocast():
        single = timed(1, SINGLES, 3, min_items)
        batched = timed(batch_size, BATCHES, 1, min_batches)
    p50, p95 = percentiles_ms([value for one in single for value in one.seconds])
    samples, seconds = sum(one.samples for one in batched), sum(sum(one.seconds) for one in batched)
    repeated = {
        f"{prefix}_latency_ms_p50": [percentiles_ms(one.seconds)[0] for one in single],
        f"{prefix}_samples_per_s": [one.samples / sum(one.seconds) for one in batched],
    }
    return Inference(
        {
            f"{prefix}_latency_ms_p50": p50,
            f"{prefix}_latency_ms_p95": p95,
            f"{prefix}_samples_per_s": samples / seconds,
        },
        {name: (max(values) - min(values)) / fmean(values) for name, values in repeated.items() if len(values) > 1},
    )


class Round(NamedTuple):
    """Seconds of each forward pass, and how many items they held together."""

    seconds: list[float]
    samples: int


def _timed(
    model: nn.Module,
    batches: list[Batch],
    device: torch.device,
    budget_s: float,
    minimum: int,
    clock: Callable[[], float],
) -> Round:
    seconds: list[float] = []
    samples = 0
    for batch in batches:
        if len(seconds) >= minimum and sum(seconds) >= budget_s:
            break
        start = clock()
        model(**batch.arguments)
        synchronize(device)
        seconds.append(clock() - start)
        samples += len(batch.rows)
    return Round(seconds, samples)


def _chosen(task: Task, data: Encoded, batch_size: int, count: int) -> list[Batch]:
    """``count`` full batches that cover the lengths of ``data``, so ordered that any first few of them do as well."""
    batches = list(task.batches(_sample(data, count * batch_size), batch_size, seed=None))
    batches.sort(key=lambda batch: batch.computed_tokens)
    return [batches[index] for index in _spread(len(batches))]


def _sample(data: Encoded, count: int) -> Encoded:
    """``count`` items at evenly spaced ranks of length (repeating where there are fewer).

    Evaluation order may be sorted by length, so the first items of a split would be its shortest or its longest.
    """
    import numpy as np

    if len(data) == 0:
        raise ValueError("cannot profile inference on an empty split")
    by_length = np.argsort(data.lengths, kind="stable")
    items = by_length[np.linspace(0, len(data) - 1, count).round().astype(np.int64)]
    return data.take(items)


def _spread(count: int) -> list[int]:
    """All of ``range(count)`` in van der Corput's order: the middle, the quarters, the eighths, ...; any first few of
    them are spread evenly."""
    bits = count.bit_length()
    points = (int(f"{index:0{bits}b}"[::-1], 2) / 2**bits for index in range(1, 2**bits))
    return list(dict.fromkeys(int(point * count) for point in points))
