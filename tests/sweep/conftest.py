"""Points whose runs cost nothing; `support.noop_launcher` carries them out in real processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from searching import composed, loader, quick, runner, space, start  # noqa: F401

from peftbench.sweep.grid import Point


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long run only where it is asked for: ``pytest -m soak``, as ``make soak`` does."""
    if "soak" not in config.option.markexpr:
        items[:] = [item for item in items if "soak" not in item.keywords]


HERE = Path(__file__).parent


@pytest.fixture(autouse=True, scope="module")
def _fresh_server():
    """The fork server of another module has imported something else."""
    from multiprocessing import forkserver

    forkserver._forkserver._stop()
    held = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent.parent), *([held] if held else [])])
    yield
    forkserver._forkserver._stop()
    os.environ["PYTHONPATH"] = held or ""


@pytest.fixture
def noop_points(tiny_run):
    """``noop_points("exit:3", "", engine_option=...)``: a point for each way to end, seeds 0, 1, ..."""
    base = tiny_run()

    def made(*ways: str, **engine) -> list[Point]:
        options = base.engine.model_copy(update=engine)
        points = []
        for seed, way in enumerate(ways):
            dataset = base.dataset.model_copy(update={"text_column": way or "text"})
            run = base.model_copy(update={"seed": seed, "dataset": dataset, "engine": options})
            points.append(Point(run, (f"seed={seed}",)))
        return points

    return made
