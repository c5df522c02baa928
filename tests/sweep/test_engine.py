"""The engine with real processes and a tiny network: what a run leaves, and what is run again."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import needs_populate, noop_launcher

from peftbench import record as records
from peftbench.errors import UserError
from peftbench.report.facts import unlike
from peftbench.sweep.claim import Claim
from peftbench.sweep.engine import carry_out_plan, runner
from peftbench.sweep.grid import Point
from peftbench.sweep.outcome import blank_record
from peftbench.sweep.plan import Plan
from peftbench.sweep.pool import Pool
from peftbench.tracking.wandb import WandbTracker

WANDB = WandbTracker(name="wandb")


@pytest.fixture
def point(tiny_run):
    def make(*overrides: str) -> Point:
        return Point(tiny_run(*overrides), overrides)

    return make


def test_an_ok_run_leaves_everything_that_is_promised(point) -> None:
    chosen = point()
    (record,) = carry_out_plan(Plan.of([chosen]))
    assert record.status == "ok", record.traceback
    names = {path.name for path in chosen.folder.iterdir()}
    assert names == {"record.json", "config.yaml", "predictions.parquet", "adapter", "run.log"}
    assert records.read(chosen.folder) == record


def test_what_names_one_run_in_the_environment_is_not_for_each_of_several(noop_points, monkeypatch, capsys) -> None:
    points = noop_points("", "")
    tracked = [replace(point, run=point.run.model_copy(update={"tracker": WANDB})) for point in points]
    for count, left in ((1, ["run", "sweep"]), (2, [None, None])):
        monkeypatch.setenv("WANDB_RUN_ID", "run")
        monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
        with runner(tracked[:count], count, launcher=noop_launcher()):
            assert [os.environ.get(name) for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID")] == left
    assert capsys.readouterr().out.count("name one run of a W&B sweep, and these are several") == 1


def test_what_a_search_prunes_meanwhile_is_run_to_its_end(point, monkeypatch) -> None:
    """Another engine has left its record between our look and our claim."""
    chosen, take = point(), Claim.take

    def meanwhile(asked: Point) -> Claim | None:
        record = blank_record(asked, datetime.now(UTC))
        record.status, record.reason = "pruned", "median"
        record.write(asked.folder)
        return take(asked)

    monkeypatch.setattr(Claim, "take", meanwhile)
    (record,) = carry_out_plan(Plan.of([chosen]))
    assert record.status == "ok", record.traceback


@needs_populate
def test_a_peak_is_without_the_code_of_libraries(point) -> None:
    """The network is of a tenth of a megabyte."""
    (record,) = carry_out_plan(Plan.of([point()]))
    assert 0 < record.metrics["memory/train_peak_bytes"] < 40e6
    assert 0 < record.metrics["memory/eval_peak_bytes"] < 40e6


def test_in_the_engine_s_process_no_memory_is_measured(point) -> None:
    """What it would be is that of imports too, in the first run of a process, and of earlier runs in others."""
    apart, inside = (
        carry_out_plan(Plan.of([point(f"seed={seed}", f"engine.in_process={inside}")]))[0]
        for seed, inside in enumerate((False, True))
    )
    assert apart.metrics["memory/source"] == "process_rss"
    assert inside.metrics.keys() == {name for name in apart.metrics if not name.startswith("memory/")}
    assert any("engine.in_process=false" in note for note in inside.data["notes"])
    assert "Not alike in in_process: False (lora); True (lora)" in unlike([apart, inside])


def test_done_points_are_not_run_again(point, monkeypatch) -> None:
    chosen = point()
    first = carry_out_plan(Plan.of([chosen]))
    monkeypatch.setattr(Pool, "start", lambda *_: pytest.fail("it was run again"))
    assert carry_out_plan(Plan.of([chosen])) == first
    assert Plan.of([point("engine.rerun=true")]).todo
    assert Plan.of([point("trainer.lr=2e-3")]).todo


def test_an_impossible_point_is_a_skipped_record_without_a_process(point, monkeypatch) -> None:
    monkeypatch.setattr(Pool, "start", lambda *_: pytest.fail("it cost a process"))
    (record,) = carry_out_plan(Plan.of([point("method=lora", "sparsity=magnitude")]))
    assert record.status == "skipped"
    assert "method=sparse_lora" in (record.reason or "")


def test_a_failed_run_keeps_its_traceback_and_the_sweep_goes_on(point, tmp_path) -> None:
    broken = point("method.targets=[no_such_layer]")
    good = point()
    failed, ok = carry_out_plan(Plan.of([broken, good]))
    assert (failed.status, ok.status) == ("failed", "ok")
    assert "no_such_layer" in (failed.reason or "")
    assert "query" in (failed.reason or ""), "the message names the layers that exist"
    assert (broken.folder / "config.yaml").is_file()
    assert Plan.of([broken]).todo, "failed points are tried again"
    left = Plan.of([point("method.targets=[no_such_layer]", "engine.retry_failed=false"), good])
    assert not left.todo
    assert "1 done already, 1 failed before and left alone" in left.describe()
    assert [line.split()[0] for line in left.lines()] == ["left", "done"]


def test_fail_fast_stops_at_the_first_failure(point) -> None:
    from peftbench.errors import UserError

    broken = point("method.targets=[no_such_layer]", "engine.fail_fast=true")
    never = point("seed=9", "engine.fail_fast=true")
    with pytest.raises(UserError, match="fail_fast"):
        carry_out_plan(Plan.of([broken, never]))
    assert not never.folder.exists()


def test_a_cache_that_can_be_nobodys_is_said_before_the_first_run(point, monkeypatch) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", "~nobody-at-all/cache")
    with pytest.raises(UserError, match=r"PEFTBENCH_CACHE=~nobody-at-all/cache: there is no home"):
        carry_out_plan(Plan.of([point()]))
    assert not point().folder.exists()


def test_a_record_of_another_configuration_does_not_count(point) -> None:
    chosen = point()
    (record,) = carry_out_plan(Plan.of([chosen]))
    record.config_hash = "0" * 64
    record.write(Path(chosen.folder))
    assert Plan.of([chosen]).todo
