"""What is there for a moment only is gone after a kill too."""

from __future__ import annotations

from pathlib import Path

from peftbench.files import scratch
from peftbench.sweep import outcome
from peftbench.sweep.grid import Point


def test_the_next_run_of_a_point_removes_what_a_killed_one_has_left(tiny_run) -> None:
    point = Point(tiny_run(), ())
    point.folder.mkdir(parents=True)
    with scratch(point.folder) as left:
        (Path(left) / "adapter_model.safetensors").touch()
        outcome.begin(point)
        assert [path.name for path in point.folder.iterdir()] == [outcome.CONFIG]
