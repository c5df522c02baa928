"""Starting runs: from a fork server that is being killed, and from any script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import pytest
from support import CONF, noop_launcher

from peftbench import record as records
from peftbench.errors import UserError
from peftbench.sweep import fork_server, pool
from peftbench.sweep.engine import carry_out_plan
from peftbench.sweep.grid import Point
from peftbench.sweep.interrupts import Interrupts
from peftbench.sweep.plan import Plan

LIMITED = """
import itertools
import os

import noop

fork, count = os.fork, itertools.count(1)


def limited():
    if next(count) == 3:  # a first child, a run, and the next
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()


os.fork = limited
"""
SCRIPT = """
from hydra import compose, initialize_config_dir
from peftbench.cli.paths import register_plugins
from peftbench.sweep.command import carry_out
from peftbench.sweep.grid import single_point

print("begun")
register_plugins()
with initialize_config_dir({conf!r}, version_base="1.3"):
    config = compose("config", overrides=["model=tiny", "dataset=text", "dataset.path={data}", "trainer.max_steps=2",
                                          "tracker=none"])
print(carry_out([single_point(config, ())])[0].status)
"""


@pytest.fixture
def server():
    """None at work, before and after."""
    forkserver._forkserver._stop()
    yield forkserver._forkserver
    forkserver._forkserver._stop()


def test_a_run_that_is_lost_because_no_other_could_be_started_says_what_to_do(
    server, noop_points, tmp_path: Path, monkeypatch, capfd
) -> None:
    """Where no process can be forked Python's fork server ends, and with it all that it has started."""
    (tmp_path / "limited.py").write_text(LIMITED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    points = noop_points("sleep:600", "", jobs=2)
    lost, other = carry_out_plan(Plan.of(points), fork_server.ForkServer("noop:execute", "limited"))
    assert (lost.status, other.status) == ("killed", "ok")
    assert "ended by itself, with the error on the terminal: raise the limit of processes (ulimit -u)" in lost.reason
    assert "BlockingIOError" in capfd.readouterr().err


def once_at_work(point: Point, then: Callable[[int], None]) -> None:
    """Do something with the process of a run, as soon as there is one."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not (point.folder / "starts").exists():
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        then(int((point.folder / "starts").read_text()))

    threading.Thread(target=wait, daemon=True).start()


def test_a_server_that_cannot_import_is_tried_once_and_said(server, tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('no docstring')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    with Interrupts() as interrupts, pytest.raises(UserError, match=r"error above: mend the installation"):
        fork_server.ForkServer(preload="broken").warm(interrupts)
    assert capfd.readouterr().err.count("ValueError: no docstring") == 1


def test_a_server_that_a_module_has_ended_is_not_said_to_have_told_why(server, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "ending.py").write_text("raise SystemExit(9)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    with Interrupts() as interrupts, pytest.raises(UserError, match=r"ended with exit code 9: one of its modules ends"):
        fork_server.ForkServer(preload="ending").warm(interrupts)


@pytest.mark.parametrize("local", ["noop.py", "random.py"])
def test_runs_import_nothing_from_the_current_folder_unless_the_engine_does(
    server, noop_points, tmp_path: Path, monkeypatch, local: str
) -> None:
    """It may be another checkout."""
    (tmp_path / local).write_text("raise ValueError('of the current folder')\n")
    monkeypatch.chdir(tmp_path)
    first, second = noop_points("", "")
    (record,) = carry_out_plan(Plan.of([first]), noop_launcher())
    assert (record.status, os.environ.get("PYTHONSAFEPATH")) == ("ok", None)
    server._stop()
    monkeypatch.syspath_prepend("")
    with pytest.raises(UserError, match=r"error above: mend the installation"):
        carry_out_plan(Plan.of([second]), noop_launcher())


def test_a_server_that_can_no_longer_import_ends_the_sweep_with_a_sentence(
    server, noop_points, tmp_path: Path, monkeypatch, capfd
) -> None:
    """Code was edited while the sweep was at work, and then the server was killed."""
    monkeypatch.setattr("peftbench.sweep.server.PAUSES", (0.0, 0.01))
    (tmp_path / "edited.py").write_text("import noop\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    lost, after = noop_points("sleep:600", "")

    def break_it(pid: int) -> None:
        (tmp_path / "edited.py").write_text("def (:\n")
        os.kill(server._forkserver_pid, signal.SIGKILL)

    once_at_work(lost, break_it)
    with pytest.raises(UserError, match=r"error above: mend the installation"):
        carry_out_plan(Plan.of([lost, after]), fork_server.ForkServer("noop:execute", "edited"))
    assert capfd.readouterr().err.count("SyntaxError") == 1
    assert records.read(after.folder).interrupted


@pytest.mark.parametrize(
    ("kills", "status", "said"),
    [(0, "killed", "the fork server that started the process was ended"), (1, "oom", "the kernel ran out of memory")],
)
def test_a_run_that_is_lost_with_its_server_is_said_to_be(
    server, noop_points, monkeypatch, kills: int, status: str, said: str
) -> None:
    lost, after = noop_points("first:600", "")
    counted = 0

    def end_server() -> None:
        nonlocal counted
        while not (lost.folder / "starts").exists():
            time.sleep(0.05)
        counted = kills
        os.kill(server._forkserver_pid, signal.SIGKILL)

    monkeypatch.setattr(fork_server, "_oom_kills", lambda: counted)
    threading.Thread(target=end_server).start()
    first, second = carry_out_plan(Plan.of([lost, after]), noop_launcher())
    assert (first.status, said in first.reason, second.status) == (status, True, "ok")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def stop(server):
    """Stops the server; one that nobody has woken after ten seconds is woken here, and the test fails."""
    late: list[bool] = []

    def rescue() -> None:
        late.append(state(server._forkserver_pid) == "T")
        os.kill(server._forkserver_pid, signal.SIGCONT)

    timer = threading.Timer(10, rescue)
    timer.start()
    yield lambda *_: os.kill(server._forkserver_pid, signal.SIGSTOP)
    timer.cancel()
    assert not any(late), "the server was left stopped"


def test_a_server_that_is_stopped_while_a_run_is_at_work_goes_on(stop, noop_points, monkeypatch) -> None:
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.05)
    (point,) = noop_points("sleep:0.3")
    once_at_work(point, stop)
    (record,) = carry_out_plan(Plan.of([point]), noop_launcher())
    assert record.status == "ok"


def test_a_server_that_was_stopped_before_starts_a_run(stop, noop_points) -> None:
    first, second = noop_points("", "")
    carry_out_plan(Plan.of([first]), noop_launcher())
    stop()
    (record,) = carry_out_plan(Plan.of([second]), noop_launcher())
    assert record.status == "ok"


def test_a_run_of_a_stopped_server_can_be_ended(stop, noop_points) -> None:
    (point,) = noop_points("sleep:600", timeout=1.0)
    once_at_work(point, stop)
    (record,) = carry_out_plan(Plan.of([point]), noop_launcher())
    assert "engine.timeout" in record.reason


def test_a_run_that_somebody_has_stopped_stays_so(server, noop_points, monkeypatch) -> None:
    """To free the machine for a while."""
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.02)
    (point,) = noop_points("sleep:0.1")
    seen: list[str] = []

    def pause(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.5)
        seen.append(state(pid))
        os.kill(pid, signal.SIGCONT)

    once_at_work(point, pause)
    (record,) = carry_out_plan(Plan.of([point]), noop_launcher())
    assert (seen, record.status) == (["T"], "ok")


@pytest.mark.parametrize("given", ["a file", "standard input"])
def test_a_script_without_a_guard_is_not_run_again_in_its_runs(tmp_path: Path, sentences: Path, given: str):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT.format(conf=str(CONF), data=sentences))
    command, text = ([script.name], None) if given == "a file" else (["-"], script.read_text())
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, input=text, capture_output=True, text=True, check=False, timeout=120
    )
    lines = done.stdout.splitlines()
    assert (lines.count("begun"), lines[-1]) == (1, "ok"), done.stdout + done.stderr
