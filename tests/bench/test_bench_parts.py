"""Turns, goals, counts and memory, each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from peftbench.bench import memory
from peftbench.bench.goals import GOALS, Goal
from peftbench.bench.suite.padding import unbucketed
from peftbench.bench.timing import interleave
from peftbench.bench.workloads import TINY, Case
from peftbench.tasks.base import Encoded


def case(**contenders: dict[str, Any]) -> dict[str, Any]:
    return {"targets": "all-linear", "device": "cpu", "contenders": contenders}


def test_turns_alternate_and_only_timed_steps_count() -> None:
    now, done = [0.0], []

    def work(name: str, seconds: float):
        def step() -> None:
            now[0] += seconds
            done.append(name)

        return step

    steps = {"a": work("a", 0.001), "b": work("b", 0.003)}
    turns = interleave(steps, 3, 2, warmup=2, clock=lambda: now[0])
    assert turns.order == [[0, "a"], [0, "b"], [1, "a"], [1, "b"], [2, "a"], [2, "b"]]
    assert done == list("aabb" + "aaabbb" * 3), "warm-up, then an untimed and two timed steps a turn"
    assert turns.ms["a"] == pytest.approx([1.0] * 3)
    assert turns.ms["b"] == pytest.approx([3.0] * 3)


def test_the_device_is_waited_for_around_a_turn_only() -> None:
    done: list[str] = []
    interleave({"a": lambda: done.append("step")}, 1, 3, warmup=0, wait=lambda: done.append("wait"))
    assert done == ["step", "wait", "step", "step", "step", "wait"]


@pytest.mark.parametrize(
    ("times", "at_most", "at_least"),
    [
        ([1.1, 1.2, 9.0], "met", "met"),
        ([1.1, 1.3, 1.3], "not met", "met"),
        ([0.5, 0.6, 1.3], "met", "not met"),
    ],
)
def test_a_goal_is_judged_by_the_median_ratio(times, at_most, at_least) -> None:
    # The bound itself is enough for both.
    measured = case(x={"ms": [t * 10 for t in times]}, y={"ms": [10.0, 10.0, 10.0]})
    assert Goal("", "ms", "x", "y", 1.2).verdict(measured) == at_most
    assert Goal("", "ms", "x", "y", 1.2, at_least=True).verdict(measured) == ("met" if times[1] >= 1.2 else "not met")
    assert Goal("", "ms", "x", "y", 1.0, at_least=True).verdict(measured) == at_least


def test_ratios_are_taken_within_rounds() -> None:
    # A machine that is ten times slower in one round changes no ratio.
    measured = case(x={"ms": [2.0, 20.0]}, y={"ms": [1.0, 10.0]})
    assert Goal("", "ms", "x", "y", 1.0).ratios(measured) == [2.0, 2.0]


@pytest.mark.parametrize("other", [{}, {"y": {}}, {"y": {"ms": None}}])
def test_what_is_not_there_is_not_measured(other) -> None:
    measured = case(x={"ms": [1.0]}, **other)
    goal = Goal("", "ms", "x", "y", 1.0)
    assert goal.ratios(measured) is None
    assert goal.verdict(measured) == "not measured"


def test_the_bars_are_those_of_the_issue() -> None:
    times = {"peft_lora": 100.0, "lora": 100.0, "hira": 135.0, "peft_hira": 216.0, "qlora": 120.0}
    contenders = {name: {"ms": [ms], "memory_bytes": 105 if name == "hira" else 100} for name, ms in times.items()}
    contenders["peft_lora"]["frozen_linear_bytes"], contenders["qlora"]["frozen_linear_bytes"] = 100, 16
    linear = case(**contenders)
    assert {goal.verdict(linear) for goal in GOALS if goal.concerns(linear)} == {"met"}
    contenders["hira"]["ms"], contenders["qlora"]["ms"] = [136.0], [121.0]
    contenders["hira"]["memory_bytes"], contenders["qlora"]["memory_bytes"] = 106, 101
    contenders["qlora"]["frozen_linear_bytes"] = 17
    assert {goal.verdict(linear) for goal in GOALS if goal.concerns(linear)} == {"not met"}
    attention = {**linear, "targets": "attention"}
    assert [goal.bound for goal in GOALS if goal.concerns(attention) and goal.figure == "ms"] == 2 * [1.05, 1.2]
    on_gpu = {**linear, "device": "cuda:0"}
    assert [goal.bound for goal in GOALS if goal.concerns(on_gpu) and goal.figure == "ms"] == [*2 * [1.35, 1.3], 1.6]


def test_turns_are_longer_on_a_gpu_unless_quick() -> None:
    on_cpu, on_gpu = (Case(TINY, "attention", device) for device in ("cpu", "cuda:0"))
    assert on_gpu.steps_per_turn(quick=False) == 20
    assert {on_gpu.steps_per_turn(quick=True), on_cpu.steps_per_turn(quick=False)} == {TINY.steps_per_turn}


def test_unbucketed_batches_hold_every_item_once() -> None:
    lengths = np.array([3, 9, 4, 1, 7])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    data = Encoded(np.zeros(24, np.int32), offsets, None, np.arange(5), False)
    assert unbucketed(data, 1, seed=0) == lengths.sum()
    assert unbucketed(data, 5, seed=0) == 5 * 9
    order = np.random.default_rng(3).permutation(5)
    a, b, c = (lengths[order[i : i + 2]] for i in (0, 2, 4))
    assert unbucketed(data, 2, seed=3) == 2 * a.max() + 2 * b.max() + c.max()


@pytest.mark.parametrize(("name", "times"), [("peft_lora", 2), ("qlora", 1)])
def test_memory_is_measured_in_new_processes_or_absent(name, times) -> None:
    found = memory.training_peaks(Case(TINY, "attention", "cpu"), name, times)
    assert found["source"] in ("process_rss", None)
    assert found["bytes"] is None or (len(found["bytes"]) == times and min(found["bytes"]) >= 0)


def test_memory_that_cannot_be_measured_stands_for_nothing(monkeypatch) -> None:
    monkeypatch.setattr(memory, "_elsewhere", lambda *_: {"bytes": None, "source": None})
    assert memory.training_peaks(Case(TINY, "attention", "cpu"), "lora", 2) == {"bytes": None, "source": None}
