"""What is said at the end of a sweep whose report cannot be made."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from peftbench.sweep import command
from peftbench.sweep.outcome import blank_record


@pytest.mark.parametrize("which", ["write", "show"])
@pytest.mark.parametrize(
    ("error", "said"),
    [(ImportError("cannot import name 'x'"), "cannot import name 'x'"), (MemoryError(), "MemoryError")],
)
def test_a_report_that_cannot_be_made_takes_nothing_from_the_runs(
    noop_points, monkeypatch, capsys, which: str, error: Exception, said: str
) -> None:
    """A package was replaced meanwhile, or the machine is full."""

    def broken(*_, **__) -> None:
        raise error

    (point,) = noop_points("")
    blank_record(point, datetime.now(UTC)).write(point.folder)
    for name in ("write", "show"):
        monkeypatch.setattr(command.report, name, broken if name == which else lambda *_, **__: None)
    sweep = point.folder.parent
    command.show(sweep)
    assert capsys.readouterr().out.splitlines() == [
        f"the report cannot be made ({said}); later: python -m peftbench.report {sweep}",
        f"Records: {sweep}/*/record.json",
    ]
