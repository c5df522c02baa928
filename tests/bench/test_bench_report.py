"""The scale benchmark in its quick form: records as runs leave them, and a page made of the results alone."""

from __future__ import annotations

from peftbench.bench.frame import Options
from peftbench.bench.suite import report
from peftbench.record import Record, read_sweep


def test_the_command_is_run_over_generated_records() -> None:
    results = report.run(Options(2, quick=True))
    assert results["records"] == report.QUICK_RECORDS
    assert len(results["seconds"]) == 2
    assert all(size > 1000 for size in results["bytes"].values())
    page = report.page(results)
    assert "300 generated records" in page
    assert page.count("| met |") + page.count("| not met |") == 2


def test_bars_are_bars() -> None:
    sizes = {"report.html": 5_000_001, "results.csv": 1, "results.parquet": 1}
    page = report.page({"records": 100_000, "seconds": [3.0, 15.1], "bytes": sizes})
    assert page.count("not met") == 2


def test_generated_records_are_like_a_runs_own(tiny_run, tmp_path) -> None:
    from test_run import carried_out

    real, _ = carried_out(tiny_run())
    report.generate(tmp_path / "large", 60)
    made: list[Record] = list(read_sweep(tmp_path / "large"))
    ok = next(record for record in made if record.status == "ok")
    assert {record.status for record in made} == {"ok", "failed"}
    assert set(ok.metrics) >= set(real.metrics) - {"speed/infer_samples_per_s", "speed/infer_merged_samples_per_s"}
    assert set(ok.config) == set(real.config)
    assert set(ok.history[0]) == set(real.history[0])
    assert set(ok.selection) == set(real.selection)
