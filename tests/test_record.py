import json
import math
from pathlib import Path

import pytest

from peftbench import record as records
from peftbench.record import Record


def make(**fields) -> Record:
    known = {"run_id": "r", "sweep": "s", "status": "ok", "config": {}, "config_hash": "h", "axes": {"seed": 0}}
    return Record(**{**known, **fields})


def test_written_records_are_read_back(tmp_path: Path) -> None:
    written = make(metrics={"quality/accuracy": 0.5, "size/base_bytes": 3, "energy/train_j": None})
    written.write(tmp_path)
    assert records.read(tmp_path) == written


def test_what_is_no_number_is_null_and_costs_nothing_else(tmp_path: Path) -> None:
    history = [{"step": 1, "validation/perplexity": math.inf}, {"step": 2, "validation/perplexity": 9.5}]
    make(metrics={"quality/perplexity": math.nan, "quality/loss": 900.0}, history=history).write(tmp_path)
    read = records.read(tmp_path)
    assert read.metrics == {"quality/perplexity": None, "quality/loss": 900.0}
    assert [report["validation/perplexity"] for report in read.history] == [None, 9.5]


def test_a_torn_or_foreign_record_reads_as_none(tmp_path: Path) -> None:
    make().write(tmp_path)
    whole = (tmp_path / records.FILE).read_text()
    for torn in (whole[: len(whole) // 2], "", "[]", '{"other": 1}'):
        (tmp_path / records.FILE).write_text(torn)
        assert records.read(tmp_path) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema_version": 2},
        {"status": "fine"},
        {"run_id": None},
        {"config": "x"},
        {"axes": None},
        {"axes": {"seed": "1"}},
        {"axes": {"ratio": "half"}},
        {"metrics": []},
        {"metrics": {"quality/accuracy": "0.5"}},
        {"metrics": {"quality/accuracy": True}},
        {"spread": {"time/total_s": "wide"}},
        {"history": [1]},
        {"history": [{"step": "one"}]},
        {"reason": ["no"]},
        {"environment": None},
        {"selection": None},
    ],
)
def test_a_record_with_a_field_of_another_kind_reads_as_none(tmp_path: Path, wrong) -> None:
    make().write(tmp_path)
    path = tmp_path / records.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    assert records.read(tmp_path) is None


def test_a_failed_write_leaves_the_old_record_and_no_litter(tmp_path: Path, monkeypatch) -> None:
    make(reason="old").write(tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make(reason="new").write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [records.FILE]
    assert json.loads((tmp_path / records.FILE).read_text())["reason"] == "old"


def test_setting_is_the_axes_without_the_seed() -> None:
    assert make(axes={"method": "lora", "seed": 1}).setting == make(axes={"method": "lora", "seed": 2}).setting
