import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.sparsity.schedule import Plan, kept, plan

fractions = st.floats(0.001, 0.999)
totals = st.integers(1, 3000)


def test_targets_are_zhu_and_guptas_cubic():
    steps = Plan(ratio=0.8, first=10, final=30, interval=5)
    assert [steps.target(t) for t in (0, 10)] == [0, 0]
    assert steps.target(15) == pytest.approx(0.8 * (1 - 0.75**3))
    assert steps.target(20) == pytest.approx(0.8 * 0.875)
    assert steps.target(25) == pytest.approx(0.8 * (1 - 0.25**3))
    assert [steps.target(t) for t in (30, 31, 999)] == [0.8] * 3
    assert [t for t in range(100) if steps.due(t)] == [10, 15, 20, 25, 30]


def test_an_interval_that_does_not_divide_still_ends_at_the_target():
    steps = Plan(ratio=0.5, first=2, final=12, interval=4)
    assert [t for t in range(30) if steps.due(t)] == [2, 6, 10, 12]


def test_fractions_are_steps_done():
    assert plan(0.5, 0.2, 0.7, 10, 1000) == Plan(0.5, 199, 699, 10)
    assert plan(0.5, 0.5, None, None, 1000) == Plan(0.5, 499, 499, 1)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("end", [None, 0.999])
def test_the_shortest_trainings_prune_once_something_is_trained_and_then_recover(total, end):
    steps = plan(0.5, 0.001, end, None if end is None else 10, total)
    assert steps.first == 0
    assert steps.final == (0 if end is None else max(0, total - 2))


@given(fractions, fractions, st.integers(1, 50), totals, st.booleans())
def test_the_target_is_always_reached_and_never_falls(start, end, interval, total, oneshot):
    steps = plan(0.6, start, None if oneshot else max(start, end), interval, total)
    assert 0 <= steps.first <= steps.final <= max(0, total - 2)
    due = [t for t in range(total) if steps.due(t)]
    targets = [steps.target(t) for t in due]
    assert due[-1] == steps.final
    assert targets[-1] == 0.6
    assert targets == sorted(targets)
    assert abs(steps.first + 1 - start * total) <= 1 or steps.first in (0, total - 2)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_kept_is_the_nearest_count(count, ratio):
    assert 0 <= kept(count, ratio) <= count
    assert abs(kept(count, ratio) - (1 - ratio) * count) <= 0.5
