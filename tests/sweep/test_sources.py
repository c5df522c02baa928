"""Runs that are done and whose files are others now: said, since the configuration is the same one."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime

import pytest

from peftbench.record import SOURCES, Record
from peftbench.sweep.grid import Point
from peftbench.sweep.outcome import blank_record
from peftbench.sweep.plan import Plan
from peftbench.sweep.sources import changed, stamps

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
TEXT = "text,label\na,0\nb,1\n"


@pytest.fixture
def record(tiny_run):
    """That of a run with these overrides."""
    return lambda *overrides: started(Point(tiny_run(*overrides), ()))


def started(point: Point) -> Record:
    """The record of a run that starts now."""
    record = blank_record(point, NOON)
    record.environment[SOURCES] = stamps(point.run)
    return record


def test_a_file_that_is_another_one_is_named_be_it_an_older_one(tmp_path, record) -> None:
    path, older = tmp_path / "mine.csv", tmp_path / "older.csv"
    path.write_text(TEXT)
    older.write_text(TEXT.replace("b", "c"))
    os.utime(older, (0, NOON.timestamp() - 10**6))
    done = [record(f"dataset.path={path}"), record(f"dataset.path={path}", "seed=1")]
    assert changed(done, "write so") == []
    older.replace(path)
    later = record(f"dataset.path={path}", "seed=2")
    said = [f"! {path} was changed since 2 of those that are done read it: write so"]
    assert changed([*done, later], "write so") == said


def test_a_copy_with_its_times_is_the_same_and_what_is_gone_is_not_another(tmp_path, record) -> None:
    path, copy = tmp_path / "mine.csv", tmp_path / "copy.csv"
    path.write_text(TEXT)
    done = record(f"dataset.path={path}")
    shutil.copy2(path, copy)
    copy.replace(path)
    assert changed([done], "") == []
    path.unlink()
    assert changed([done], "") == []


def test_a_folder_is_what_is_in_it_two_levels_deep(tmp_path, record) -> None:
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    for file in ("dataset_dict.json", "train/data.arrow"):
        (folder / file).write_text("{}")
        done = record("dataset=hub", f"dataset.path={folder}")
        (folder / file).write_text("{} ")
        assert len(changed([done], "")) == 1, file


def test_what_no_data_set_is_made_of_may_change(tmp_path, record) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "train.csv").write_text(TEXT)
    done = record(f"dataset.path={tmp_path}")
    (tmp_path / ".git" / "index.json").write_text("{}")
    (tmp_path / "notes.md").write_text("mine")
    assert changed([done], "") == []
    (tmp_path / "test.csv").write_text(TEXT)
    assert len(changed([done], "")) == 1


def test_code_from_outside_is_what_it_says(tmp_path, record, monkeypatch) -> None:
    code = "from peftbench.methods.lora import Lora\nclass Mine(Lora):\n    pass\n"
    (tmp_path / "my_own_method.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = record("method=lora", "method._target_=my_own_method.Mine")
    (tmp_path / "my_own_method.py").touch()
    assert changed([done], "") == []
    (tmp_path / "my_own_method.py").write_text(f"{code}\n")
    (said,) = changed([done], "")
    assert "my_own_method.py was changed since 1 of" in said
    assert not any(name.startswith("peftbench") for name in record("method=lora").environment["sources"])


def test_a_plan_says_so_of_what_is_done_only(tmp_path, tiny_run) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TEXT)
    points = [Point(tiny_run(f"dataset.path={path}", f"seed={seed}"), ()) for seed in (0, 1)]
    plan = Plan(points, {points[0].run.run_id: started(points[0])}, {})
    assert not plan.warnings()
    path.write_text(TEXT + "c,0\n")
    assert plan.warnings() == [
        f"! {path} was changed since 1 of those that are done read it: engine.rerun=true runs all again"
    ]
