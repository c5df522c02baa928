"""Reading many records: what is shared between them stays what it was."""

from __future__ import annotations

from peftbench.record import read
from peftbench.report.reading import read_all


def test_parts_that_are_missing_or_null_in_some_records_stay_so(folder) -> None:
    # Full fine-tuning has no rank, and comes first.
    first, second, third = (folder.classified(method, 0) for method in ("full", "lora", "qlora"))
    first.config["rank"], second.config["extra"] = None, None
    for record in (first, second, third):
        record.write(folder.path / record.run_id)
    names = [record.run_id for record in (first, second, third)]
    assert read_all(folder.path, names) == [read(folder.path / name) for name in names]


def test_what_is_equal_is_one_object_and_what_only_compares_equal_is_not(folder) -> None:
    for seed, value in enumerate((1, 2, 1.0, True, 1, 2)):
        record = folder.run("lora", seed)
        record.config["part"] = {"inner": [value]}
        record.write(folder.path / record.run_id)
    parts = [record.config["part"] for record in read_all(folder.path, sorted(p.name for p in folder.path.iterdir()))]
    assert [repr(part["inner"][0]) for part in parts] == ["1", "2", "1.0", "True", "1", "2"]
    assert parts[0] is parts[4]
    assert parts[1] is parts[5]
