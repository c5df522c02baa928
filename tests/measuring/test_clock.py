"""Phases against a clock that is set by hand."""

import pytest

from peftbench.measuring.clock import Phases


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_phases_add_up_and_the_total_has_the_gaps_too(clock: Clock):
    phases = Phases(clock)
    clock.now += 1
    with phases("load"):
        clock.now += 2
    clock.now += 4
    with phases("train"):
        clock.now += 8
    with phases("load"):
        clock.now += 16
    assert phases.metrics() == {"time/load_s": 18.0, "time/train_s": 8.0, "time/total_s": 31.0}


def test_a_phase_that_raises_is_counted_and_closed(clock: Clock):
    phases = Phases(clock)

    def fail() -> None:
        clock.now += 5
        raise KeyError

    with pytest.raises(KeyError), phases("train"):
        fail()
    with phases("eval"):
        clock.now += 1
    assert phases.metrics() == {"time/train_s": 5.0, "time/eval_s": 1.0, "time/total_s": 6.0}


def test_overlapping_phases_are_an_error_and_leave_the_open_one_alone(clock: Clock):
    phases = Phases(clock)
    with phases("train"):
        with pytest.raises(RuntimeError, match=r"'eval' begins inside 'train'"), phases("eval"):
            pass
        clock.now += 7
    assert phases.metrics()["time/train_s"] == 7.0
    assert "time/eval_s" not in phases.metrics()


def test_an_unknown_phase_is_an_error():
    with pytest.raises(ValueError, match="no phase 'training'"), Phases()("training"):
        pass
