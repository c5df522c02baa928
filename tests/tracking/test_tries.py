"""Which of a run's tries was the last one, whatever time the names of their W&B folders tell."""

import time
from pathlib import Path

import pytest

from peftbench.tracking.tries import last_of
from peftbench.tracking.wandb import WandbTracker
from tracking.child import make_record, run_config


def test_it_is_known_when_the_clock_was_set_back_between_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for hours in ("-10", "0"):  # POSIX: ten hours ahead, then none
        monkeypatch.setenv("TZ", f"XXX{hours}")
        time.tzset()
        tracker = WandbTracker(name="wandb", mode="offline")
        tracker.start(run_config(), tmp_path)
        tracker.finish(make_record(), tmp_path)
    monkeypatch.undo()
    time.tzset()
    second, first = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert last_of([second, first]) == last_of([first, second]) == second
