"""What a sweep costs beside its runs: points that do nothing, carried out by us and by Hydra's own launcher."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from peftbench.bench import markdown
from peftbench.bench.frame import Options
from peftbench.cli.paths import CONF
from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.config import RunConfig
    from peftbench.record import Record

ON_DEVICE = False
SIZES = (100, 1000)
QUICK_SIZES = (3, 6)
ROUNDS = {100: 3, 1000: 1}
"""At most, at each size: a thousand points take minutes. Without an entry, as many as there are repetitions."""
AXES = ("method=lora,hira", "rank.value=4,8,16,32,64")
"""Ten points for each seed."""
OURS = {"compose": "Ours: composing and checking", "start": "Ours: start, once", "run": "Ours: process and record"}
HYDRA = "Hydra's basic sweeper and launcher: all"
GOAL = 0.15
"""Seconds a point."""
_HYDRA_APP = """
import sys, time
import hydra

@hydra.main(version_base="1.3", config_path=sys.argv.pop(1), config_name="config")
def nothing(config):
    pass

began = time.perf_counter()
nothing()
print("seconds", time.perf_counter() - began)
"""


def nothing(run: RunConfig, folder: Path, record: Record, on_progress: Any) -> None:
    """A run that does nothing."""


def run(options: Options) -> dict[str, Any]:
    """Both by turns, at each number of points."""
    sizes = QUICK_SIZES if options.quick else SIZES
    most = max(ROUNDS.values())
    rounds = [
        _round(size, options)
        for index in range(min(most, options.repetitions))
        for size in sizes
        if index < ROUNDS.get(size, most)
    ]
    return {"sizes": list(sizes), "axes": list(AXES), "rounds": rounds}


def _round(size: int, options: Options) -> dict[str, Any]:
    seeds = f"seed=range({-(-size // 10)})"
    with tempfile.TemporaryDirectory() as folder:
        options.say(f"engine: {size} points, ours")
        ours = _ours(size, seeds, folder)
    with tempfile.TemporaryDirectory() as folder:
        options.say(f"engine: {size} points, Hydra")
        return {"points": size, "ours": ours, "hydra": _hydra(size, seeds, folder)}


def _ours(size: int, seeds: str, folder: str) -> dict[str, float]:
    """Seconds: composing, start of the fork server with all its imports, and the runs one after another."""
    from peftbench.bench.workloads import swept
    from peftbench.sweep.engine import carry_out_plan
    from peftbench.sweep.fork_server import ForkServer
    from peftbench.sweep.grid import grid_points
    from peftbench.sweep.plan import Plan

    overrides = [*AXES, seeds, "tracker=none", "device=cpu", f"output_dir={folder}", "engine.jobs=1"]
    loader, master = swept(overrides)
    launcher = ForkServer(execute=f"{__name__}:nothing")
    moments = [time.perf_counter()]
    points = grid_points(loader, master, None, overrides)[:size]
    moments.append(time.perf_counter())
    first = carry_out_plan(Plan.of(points[:1]), launcher)
    moments.append(time.perf_counter())
    records = carry_out_plan(Plan.of(points[1:]), launcher)
    moments.append(time.perf_counter())
    if bad := [record for record in [*first, *records] if record.status != "ok"]:
        raise UserError(f"{bad[0].run_id} is {bad[0].status}: {bad[0].reason}")
    return dict(zip(OURS, (b - a for a, b in itertools.pairwise(moments)), strict=True))


def _hydra(size: int, seeds: str, folder: str) -> float:
    """Seconds that Hydra takes for the same points of the same configuration, in one process and without any record."""
    app = Path(folder) / "app.py"
    app.write_text(_HYDRA_APP, encoding="utf-8")
    axes = (*AXES, seeds) if size % 10 == 0 else (f"seed=range({size})",)
    command = [sys.executable, str(app), str(CONF), "-m", *axes, "tracker=none", "hydra/sweeper=basic"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"Hydra's launcher ended with exit code {done.returncode}: {done.stderr[-300:]}")
    return float(done.stdout.rpartition("seconds")[2])


def page(results: dict[str, Any]) -> str:
    """One table: milliseconds a point, at each number of points."""
    sizes = results["sizes"]
    rows = []
    for phase, title in OURS.items():
        if phase != "start":
            rows.append([title, *(_each([r["ours"][phase] for r in _of(results, size)], size) for size in sizes)])
    rows.append([HYDRA, *(_each([r["hydra"] for r in _of(results, size)], size) for size in sizes)])
    start = results["rounds"][0]["ours"]["start"]  # later rounds find the server there
    beyond = [(r["ours"]["compose"] + r["ours"]["run"]) / r["points"] for r in _of(results, sizes[-1])]
    verdict = markdown.met(median(beyond) <= GOAL)
    intro = (
        f"Points of {' × '.join(results['axes'])} × seeds whose runs do nothing, one after another. Ours: each in a "
        "process of its own, with its record on disk. Hydra's launcher calls a function in its own process, and keeps "
        "nothing. Milliseconds a point, the median and from the smallest to the largest; rounds at "
        f"{', '.join(f'{size:,} points: {len(_of(results, size))}' for size in sizes)}."
    )
    facts = markdown.bullets(
        {
            "Once a sweep": f"{start:.1f} s until the fork server has imported torch, transformers and the like",
            f"At most {GOAL} s a point beyond the run": f"{median(beyond):.3f} s at {sizes[-1]:,} points: {verdict}",
        }
    )
    table = markdown.table(["ms a point", *(f"{size:,} points" for size in sizes)], rows)
    return "\n\n".join([intro, table, facts])


def _of(results: dict[str, Any], size: int) -> list[dict[str, Any]]:
    return [r for r in results["rounds"] if r["points"] == size]


def _each(seconds: list[float], size: int) -> str:
    found = [1e3 * value / size for value in seconds]
    spread = f" ({min(found):.1f}–{max(found):.1f})" if len(found) > 1 else ""
    return f"{median(found):.1f}{spread}"
