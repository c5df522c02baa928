"""What a dry run says of the time that a search takes."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest

from peftbench.sweep import search_ahead


@pytest.mark.parametrize(
    ("seconds", "said"), [((-3600,), "1 to run"), ((-3600, 20), "1 to run\nabout 20 s one after another")]
)
def test_a_trial_during_which_the_clock_was_put_back_tells_nothing_of_the_time(
    noop_points, monkeypatch, seconds: tuple[int, ...], said: str
) -> None:
    trials = [SimpleNamespace(duration=timedelta(seconds=took), user_attrs={"status": "ok"}) for took in seconds]
    monkeypatch.setattr(search_ahead, "seen", lambda *_: "a study")
    monkeypatch.setattr(search_ahead, "counted", lambda study: trials)
    (point,) = noop_points("")
    text = search_ahead.preview(SimpleNamespace(n_trials=len(trials) + 1), point, {})
    assert text.endswith(said)
