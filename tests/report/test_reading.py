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
