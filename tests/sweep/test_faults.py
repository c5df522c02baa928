"""Sweeps that are hurt at random moments, and started again: every point once, nothing lost, nothing left behind."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import ClassVar

import noop
import optuna
import psutil
import pytest
from support import noop_launcher

from peftbench import record as records
from peftbench.errors import UserError
from peftbench.sweep import command, search
from peftbench.sweep.engine import carry_out_plan
from peftbench.sweep.grid import Point
from peftbench.sweep.orphans import VARIABLE
from peftbench.sweep.plan import Plan
from peftbench.sweep.search_options import SearchOptions
from peftbench.sweep.search_space import Number, Space
from peftbench.sweep.search_study import counted

SCENARIOS = 56
SOAK = range(1000, 1600)
WAYS = ["", "", "sleep:0.05", "sleep:0.2", "sleep:0.4", "children:0.1"]
"""How the runs of a scenario end unless they are hurt: all of them well."""


class Sweep:
    """One sweep folder, engines that are started on it, and what must hold of it."""

    def __init__(self, points: list[Point], dice: random.Random) -> None:
        self.points = points
        self.dice = dice
        self.folder = points[0].folder.parent
        self.engines: list[int] = []
        self.ok: dict[str, str] = {}
        """Text of every ok record that was seen."""

    def start(self, prepare: Callable[[], None] = lambda: None, **options):
        """An engine in a process of its own, and not waited for."""
        process = get_context("fork").Process(target=self._engine, args=(prepare, options))
        process.start()
        self.engines.append(process.pid)
        return process

    def _engine(self, prepare: Callable[[], None], options: dict) -> None:
        """Ends with what the command would exit with: 0, 1 (some run failed), 2 (one sentence), 130; 99 is a bug."""
        code = 99
        try:
            forkserver._forkserver.__init__()  # that of the tests is not ours
            sys.stdout = sys.stderr = (self.folder.parent / "engine.log").open("a")
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest may ignore it
            prepare()
            found = self.carry_out([self._with(point, options) for point in self.points])
            code = int(any(record.status != "ok" for record in found))
        except KeyboardInterrupt:
            code = 130
        except UserError as error:
            print(f"peftbench: {error}")
            code = 2
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)

    def carry_out(self, points: list[Point]) -> list[records.Record]:
        return carry_out_plan(Plan.of(points), noop_launcher())

    def _with(self, point: Point, options: dict) -> Point:
        engine = point.run.engine.model_copy(update=options)
        return Point(point.run.model_copy(update={"engine": engine}), point.overrides)

    def hurt(self, **options) -> int:
        """Start an engine, do one harm, wait for its end, and look at what is left; returns its exit code."""
        process = self.start(**options)
        return self.ended(process)

    def ended(self, process) -> int:
        process.join(120)
        assert process.exitcode is not None, "the engine hangs"
        assert process.exitcode != 99, (self.folder.parent / "engine.log").read_text()
        self.look()
        return process.exitcode

    def look(self) -> None:
        """No ok record that was there is lost or was made again, and none is half written."""
        self.no_process_left()
        for run_id, text in self.ok.items():
            assert (self.folder / run_id / "record.json").read_text() == text, f"{run_id} was lost or run again"
        for path in self.folder.glob("*/record.json"):
            if (record := records.read(path.parent)) is not None and record.status == "ok":
                self.ok[path.parent.name] = path.read_text()

    def no_process_left(self) -> None:
        """Within a moment of the engine's end nothing of it is alive, and nothing needs to look for it."""
        deadline = time.monotonic() + 30
        while alive := self._alive():
            runs = [pid for pid in alive if not self._is_fork_of_a_run(pid)]
            if not runs or time.monotonic() > deadline:
                assert not runs, [psutil.Process(pid).cmdline() for pid in runs]
                break
            time.sleep(0.02)

    def _alive(self) -> list[int]:
        marks = [f"{VARIABLE}={pid}:".encode() for pid in self.engines]
        return [pid for pid in psutil.pids() if _is_of(pid, marks)]

    def _is_fork_of_a_run(self, pid: int) -> bool:
        """A process that a run has started itself: only the next engine can end it if the engine was killed."""
        try:
            return os.getpgid(pid) != pid and f"{os.getpgid(pid)}\n" in self._starts()
        except ProcessLookupError:
            return False

    def _starts(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*/starts"))

    def at_a_moment(self, process) -> None:
        """Wait until an engine has just begun, or until some of its runs have and a little longer."""
        if self.dice.random() < 0.25:
            time.sleep(self.dice.uniform(0.0, 0.5))
            return
        goal = len(self._starts().split()) + self.dice.randint(1, 3)
        while process.is_alive() and len(self._starts().split()) < goal:
            time.sleep(0.01)
        time.sleep(self.dice.uniform(0.0, 0.3))

    def finish(self, **options) -> None:
        """The same command, unharmed, ends the sweep; here, where the fork server has long been started."""
        points = [self._with(point, options) for point in self.points]
        found = self.carry_out(points)
        self.look()
        for point in self.points:
            record = records.read(point.folder)
            assert record is not None
            assert (record.status, record.config_hash) == ("ok", point.run.hash)
        assert {path.name for path in self.folder.iterdir() if path.is_dir()} == {p.run.run_id for p in self.points}
        assert not list(self.folder.glob("*/overlap")), "two processes were at one point"
        assert not list(self.folder.glob("**/.*")), "locks or half-written files are left"
        assert not self._alive()
        started = self._starts()
        assert self.carry_out(points) == found
        assert self._starts() == started, "what was done was done again"


def _is_of(pid: int, marks: list[bytes]) -> bool:
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, psutil.NoSuchProcess):
        return False
    return any(entry.startswith(mark) for entry in environment for mark in marks)


# --- harms


def engine_is_killed(sweep: Sweep) -> None:
    for _ in range(sweep.dice.randint(1, 2)):
        process = sweep.start(jobs=sweep.dice.randint(1, 3))
        sweep.at_a_moment(process)
        process.kill()
        sweep.ended(process)


def engine_is_interrupted(sweep: Sweep) -> None:
    number = sweep.dice.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    process = sweep.start(jobs=sweep.dice.randint(1, 3), retry_failed=False)
    sweep.at_a_moment(process)
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
    # Before its handlers are there a signal ends it as it ends any program.
    assert sweep.ended(process) in (0, 130, -number)


def run_is_killed(sweep: Sweep) -> None:
    process = sweep.start(jobs=2)
    while process.is_alive():
        if pids := [int(pid) for pid in sweep._starts().split() if psutil.pid_exists(int(pid))]:
            with suppress(ProcessLookupError):
                os.kill(sweep.dice.choice(pids), signal.SIGKILL)
            break
        time.sleep(0.01)
    assert sweep.ended(process) in (0, 1)


def fork_server_is_killed(sweep: Sweep) -> None:
    process = sweep.start(jobs=2)
    sweep.at_a_moment(process)
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children():
            if "forkserver" in " ".join(child.cmdline()):
                child.kill()
    assert sweep.ended(process) in (0, 1)


def run_is_killed_before_it_renames_its_record(sweep: Sweep) -> None:
    assert sweep.hurt(prepare=_fault("kill-run-in-write", sweep), jobs=2) == 1
    assert list(sweep.folder.glob("*/.record.json.*")), "it was killed in between"


def engine_is_killed_when_a_run_renames_its_record(sweep: Sweep) -> None:
    assert sweep.hurt(prepare=_fault("kill-engine-in-write", sweep), jobs=2) == -signal.SIGKILL


def engine_is_killed_before_it_renames_a_record(sweep: Sweep) -> None:
    def prepare() -> None:
        _fault("disk", sweep)()  # so that the engine has to write the record
        noop.kill_in_write(os.getpid())

    assert sweep.hurt(prepare=prepare) == -signal.SIGKILL


def disk_is_full_for_a_run(sweep: Sweep) -> None:
    assert sweep.hurt(prepare=_fault("disk", sweep), jobs=2) == 1
    found = [records.read(point.folder) for point in sweep.points]
    assert [record.reason for record in found if record.status != "ok"] == [
        "the record cannot be written (File too large)"
    ]


def disk_is_full_for_the_engine(sweep: Sweep) -> None:
    moment = sweep.dice.uniform(0.0, 0.8)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def prepare() -> None:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        threading.Timer(moment, full).start()

    assert sweep.hurt(prepare=prepare, jobs=sweep.dice.randint(1, 2)) in (0, 2)


def folder_cannot_be_written(sweep: Sweep) -> None:
    in_the_way = sweep.dice.choice([sweep.folder, sweep.dice.choice(sweep.points).folder])
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("a file in place of a folder")
    assert sweep.hurt() == 2
    assert "output_dir=" in (sweep.folder.parent / "engine.log").read_text()
    in_the_way.unlink()


def records_are_corrupt(sweep: Sweep) -> None:
    assert sweep.hurt(jobs=2) == 0
    garbage = [b"", b"{", b"\x00" * 4000, b'["a list"]', b'{"run_id": "x"}', b"\xff\xfe"]
    hit = sweep.dice.sample(sweep.points, 2)
    for point in hit:
        del sweep.ok[point.run.run_id]
        (point.folder / "record.json").write_bytes(sweep.dice.choice(garbage))
    process = sweep.start()
    sweep.at_a_moment(process)
    process.kill()
    sweep.ended(process)


def two_engines_at_once(sweep: Sweep) -> None:
    first, second = sweep.start(jobs=2), sweep.start(jobs=2)
    if sweep.dice.random() < 0.5:
        sweep.at_a_moment(first)
        first.kill()
        first.join()
    assert sweep.ended(second) == 0, "it does what the other one leaves"
    assert sweep.ended(first) in (0, -signal.SIGKILL)
    assert len(sweep.ok) == len(sweep.points)


HARMS = [
    engine_is_killed,
    engine_is_killed,
    engine_is_interrupted,
    run_is_killed,
    fork_server_is_killed,
    run_is_killed_before_it_renames_its_record,
    engine_is_killed_when_a_run_renames_its_record,
    engine_is_killed_before_it_renames_a_record,
    disk_is_full_for_a_run,
    disk_is_full_for_the_engine,
    folder_cannot_be_written,
    records_are_corrupt,
    two_engines_at_once,
]


def _fault(kind: str, sweep: Sweep) -> Callable[[], None]:
    seed = sweep.dice.choice(sweep.points).run.seed

    def prepare() -> None:
        os.environ[noop.FAULT] = json.dumps({"kind": kind, "seed": seed, "engine": os.getpid()})

    return prepare


def harmed(noop_points, seed: int) -> None:
    dice = random.Random(seed)
    sweep = Sweep(noop_points(*(dice.choice(WAYS) for _ in range(dice.randint(3, 6)))), dice)
    HARMS[seed % len(HARMS)](sweep)
    sweep.finish(jobs=2)


@pytest.mark.parametrize("seed", range(SCENARIOS))
def test_a_sweep_that_is_hurt_ends_as_if_it_had_not_been(noop_points, seed: int) -> None:
    harmed(noop_points, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", SOAK)
def test_soak(noop_points, seed: int) -> None:
    harmed(noop_points, seed)


# --- searches


class Searched(Sweep):
    """A search over seeds, up to a number of trials."""

    n_trials = 8
    options: ClassVar[dict] = {}

    def carry_out(self, points: list[Point]) -> list[records.Record]:
        options = SearchOptions.load(
            {
                "params": None,
                "n_trials": self.n_trials,
                "sampler": "random",
                "seed": 0,
                "objectives": [{"metric": "noop/seed", "direction": "maximize"}],
                "storage": None,
                **self.options,
            }
        )
        space = Space((Number("seed", 0, 1000, 1, False, True),), ())

        def compose(overrides) -> Point:
            seed = int(overrides[0].removeprefix("seed="))
            return Point(points[0].run.model_copy(update={"seed": seed}), tuple(overrides))

        command.show = lambda folder: None
        search._search(options, space, compose, [compose(["seed=0"])], noop_launcher())
        return []


@pytest.mark.parametrize("seed", range(4))
def test_a_search_killed_three_times_reaches_its_total(noop_points, seed: int) -> None:
    dice = random.Random(seed)
    sweep = Searched(noop_points("sleep:0.1"), dice)
    for _ in range(3):
        process = sweep.start(jobs=2)
        sweep.at_a_moment(process)
        process.kill()
        sweep.ended(process)
        if (journal := sweep.folder / "study.journal").exists():
            with journal.open("a") as file:
                file.write('{"op_code": 4, "worker')
    assert sweep.hurt(jobs=2) == 0
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.load_study(study_name=sweep.folder.name, storage=optuna.storages.JournalStorage(backend))
    trials = counted(study)
    assert len(trials) == sweep.n_trials
    assert not [trial for trial in study.trials if not trial.state.is_finished()]
    found = {record.run_id: record for record in records.read_sweep(sweep.folder)}
    assert {trial.user_attrs["run_id"] for trial in trials} == set(found)
    assert {record.status for record in found.values()} == {"ok"}
    assert not list(sweep.folder.glob("*/overlap"))
    started = sweep._starts()
    assert sweep.hurt(jobs=2) == 0
    assert sweep._starts() == started
