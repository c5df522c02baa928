"""Runs that are done and whose files are others now: said, since the configuration is the same one."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from peftbench.sweep.grid import Point
from peftbench.sweep.outcome import blank_record
from peftbench.sweep.plan import Plan
from peftbench.sweep.sources import changed

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture
def mine(tmp_path):
    """A data set's file, and a way to say when it was written."""
    path = tmp_path / "mine.csv"
    path.write_text("text,label\na,0\nb,1\n")

    def written(seconds: int) -> None:
        os.utime(path, (0, NOON.timestamp() + seconds))

    return path, written


def test_a_file_that_was_written_to_since_is_named(mine, tiny_run) -> None:
    path, written = mine
    run = tiny_run(f"dataset.path={path}")
    started = [(run, NOON), (run, NOON.replace(hour=13))]
    for seconds, count in ((-1, 0), (1, 1), (3601, 2)):
        written(seconds)
        said = [f"! {path} was changed after {count} of those that are done had started: write so"]
        assert changed(started, "write so") == (said if count else [])


def test_a_folder_is_as_new_as_the_newest_file_in_it(tmp_path, tiny_run) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    run = tiny_run(f"dataset.path={folder}")
    for name, seconds, count in (("train.csv", -9, 0), ("test.csv", -1, 0), ("validation.csv", 1, 1)):
        (folder / name).write_text("text,label\na,0\nb,1\n")
        os.utime(folder, (0, NOON.timestamp() - 9))
        os.utime(folder / name, (0, NOON.timestamp() + seconds))
        assert len(changed([(run, NOON)], "")) == count


def test_a_plan_says_so_of_what_is_done_only(mine, tiny_run) -> None:
    path, written = mine
    written(1)
    points = [Point(tiny_run(f"dataset.path={path}", f"seed={seed}"), ()) for seed in (0, 1)]
    plan = Plan(points, {points[0].run.run_id: blank_record(points[0], NOON)}, {})
    assert plan.warnings() == [
        f"! {path} was changed after 1 of those that are done had started: engine.rerun=true runs all again"
    ]
    written(-1)
    assert not plan.warnings()
