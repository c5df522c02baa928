"""Contenders timed turn by turn, so that whatever the machine does meanwhile happens to all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

Work = Callable[[], None]


@dataclass
class Turns:
    """What `interleave` measured."""

    order: list[list[int | str]] = field(default_factory=list)
    """[round, contender] of every timed turn, in the order of time: lists, as JSON has them."""
    ms: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds a step of each contender, by round: the mean over its turn."""


def interleave(
    work: Mapping[str, Work],
    rounds: int,
    steps: int,
    *,
    warmup: int,
    wait: Work = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Turns:
    """Rounds A B C, A B C, ...: in its turn each contender does one untimed step, then ``steps`` timed ones.

    The untimed one brings its own weights back into the caches, where the contender before it has been. The device is
    waited for before and after a turn and not in between: a wait in every step would slow what is measured.

    Args:
        work: one step of each contender.
        warmup: untimed steps of each before the first round.
        wait: waits until the device is done.
        clock: seconds.
    """
    turns = Turns(ms={name: [] for name in work})
    with nothing_collected():
        for step in work.values():
            for _ in range(warmup):
                step()
        for index in range(rounds):
            for name, step in work.items():
                step()
                wait()
                start = clock()
                for _ in range(steps):
                    step()
                wait()
                turns.ms[name].append((clock() - start) * 1e3 / steps)
                turns.order.append([index, name])
    return turns


@contextmanager
def nothing_collected() -> Iterator[None]:
    """What is alive now is left alone by the garbage collector, which would search all models in someone's turn."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
