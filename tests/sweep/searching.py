"""What the tests of searches share: a runner that computes its figures instead of training, and fixtures."""

from __future__ import annotations

import math
import os
import signal
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from support import CONF

from peftbench.cli.overrides import rewrite
from peftbench.cli.paths import register_plugins
from peftbench.record import SOURCES, Record
from peftbench.sweep import command, engine, search
from peftbench.sweep.compose import Composer
from peftbench.sweep.grid import Point, parse
from peftbench.sweep.outcome import blank_record
from peftbench.sweep.progress import Progress
from peftbench.sweep.search_space import Space
from peftbench.sweep.search_study import counted
from peftbench.sweep.sources import stamps

ACCURACY = {"metric": "validation/accuracy", "direction": "maximize"}

MEMORY = {"metric": "memory/train_peak_bytes", "direction": "minimize"}

SPACE = ("method=lora,hira", "rank=int(interval(4,64))", "trainer.lr=tag(log, interval(1e-5,1e-2))")


class Runner:
    """In place of `engine.runner`: figures by formula; may kill its process or fail at given calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.slots = 1
        self.at_work: list[Point] = []
        self.most = 0
        self.kill_at: int | None = None
        self.interrupt_at: int | None = None
        self.status = lambda run: "ok"

    @contextmanager
    def __call__(self, points, total, before=None, launcher=None):
        self.at_work = []
        self.progress = Progress(total)
        yield self

    @property
    def free(self) -> bool:
        return len(self.at_work) < self.slots

    @property
    def busy(self) -> bool:
        return bool(self.at_work)

    def submit(self, point, judge=None) -> None:
        self.at_work.append(point)
        self.most = max(self.most, len(self.at_work))

    def wait(self) -> list[Record]:
        """The one that was submitted last ends first."""
        record = self.carry_out(self.at_work.pop())
        self.progress.done(record)
        return [record]

    def carry_out(self, point) -> Record:
        self.calls.append(point.run.run_id)
        if len(self.calls) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        run, record = point.run, blank_record(point, datetime.now(UTC))
        record.status = self.status(run)
        record.environment[SOURCES] = stamps(run)
        accuracy = 0.9 - (math.log10(run.trainer.lr) + 3) ** 2 / 20 + (run.method.name == "hira") / 100
        accuracy += math.log2(run.rank.value) / 100
        record.history = [
            {"step": 1, "validation/accuracy": accuracy, "validation/loss": 1.0},
            {"step": 2, "validation/accuracy": 0.0, "validation/loss": 2.0},
        ]
        record.selection = {"rule": "best", "metric": "validation/accuracy", "step": 1, "value": accuracy}
        # The evaluation split prefers the opposite: a search that selects by it is found out.
        record.metrics = {"quality/accuracy": 1 - accuracy, "memory/train_peak_bytes": 1000 * run.rank.value}
        record.write(point.folder)
        return record


@pytest.fixture(scope="module")
def loader() -> ConfigLoaderImpl:
    register_plugins()
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


@pytest.fixture
def space(loader):
    return lambda *overrides: Space.of(parse(loader, None, overrides))


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    fake = Runner()
    monkeypatch.setattr(engine, "runner", fake)
    monkeypatch.setattr(command, "show", lambda folder, run_ids=None: None)
    return fake


@pytest.fixture(scope="module")
def composed() -> dict:
    """What was composed of files, for all tests: it does not depend on the values that a test writes."""
    return {}


@pytest.fixture
def quick(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    def knowing(*arguments) -> Composer:
        composer = Composer(*arguments)
        composer._files = composed
        return composer

    monkeypatch.setattr(search, "Composer", knowing)


@pytest.fixture
def start(loader, tmp_path):
    """Start a search in ``tmp_path/s``, or in another folder's, and return the exit code."""

    def started(
        *arguments: str, name: str = "config", params: dict | None = None, folder: Path = tmp_path, **options
    ) -> int:
        written = rewrite([*arguments, f"output_dir={folder}", "sweep=s", "tracker=none"])
        master = loader.load_configuration(name, written, RunMode.MULTIRUN)
        defaults = {"n_trials": 6, "sampler": "tpe", "seed": 0, "objectives": [ACCURACY], "storage": None}
        try:
            search.carry_out(loader, master, {"params": params, **defaults, **options}, written)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return started


def study_in(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str((folder / "s" / "study.journal").absolute()))
    return optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))


def params_of(study: optuna.Study) -> list[dict]:
    return [trial.params for trial in counted(study)]


def lose_of_hira(runner, monkeypatch, figure: str) -> None:
    """Let HiRA's runs have an infinite ``figure``, or one that is no number: null in a record."""
    measured = runner.carry_out

    def endless(point):
        record = measured(point)
        if point.run.method.name == "hira":
            record.history[0][figure] = None
            record.write(point.folder)
        return record

    monkeypatch.setattr(runner, "carry_out", endless)
