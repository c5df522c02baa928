"""What a plan says of the time that is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from peftbench.sweep.outcome import blank_record
from peftbench.sweep.plan import Plan


def test_a_run_during_which_the_clock_was_put_back_tells_nothing_of_the_time(noop_points) -> None:
    put_back, done, after = noop_points("", "", "")
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for point, seconds in ((put_back, -3600), (done, 20)):
        record = blank_record(point, began)
        record.status, record.ended = "ok", (began + timedelta(seconds=seconds)).isoformat()
        record.write(point.folder)
    assert Plan.of([put_back, after]).estimate(1) is None
    assert Plan.of([put_back, done, after]).estimate(1) == 20
