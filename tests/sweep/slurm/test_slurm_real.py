"""Against a real Slurm (``make test-slurm``): jobs that end in every way, engines that are killed, a search.

Most of the time is Slurm's: it looks for jobs past their time twice a minute.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
from support import CONF, noop_launcher

from peftbench import record as records
from peftbench.errors import UserError
from peftbench.sweep import engine, search
from peftbench.sweep.engine import carry_out_plan
from peftbench.sweep.grid import Point
from peftbench.sweep.plan import Plan
from peftbench.sweep.slurm import pool
from peftbench.sweep.slurm.ticket import Ticket

pytestmark = pytest.mark.slurm
HERE = Path(__file__).parent


def starts(point: Point) -> int:
    path = point.folder / "starts"
    return len(path.read_text().split()) if path.exists() else 0


def until(holds: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to this"
        time.sleep(0.1)


def job_of(slurm, point: Point) -> str:
    ticket = Ticket.read(point)
    lines = slurm.call("squeue", "--noheader", "--array", f"--name={ticket.name}", "--format=%i %K").stdout.splitlines()
    (job,) = [line.split()[0] for line in lines if line.split()[1] in (str(ticket.index), "N/A")]
    return job


def kill_job(point: Point) -> None:
    """SIGKILL for what watches over the run inside its job."""
    until(lambda: starts(point))
    pid = int((point.folder / "starts").read_text())
    server = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    supervisor = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)


def start_engine(tmp_path: Path, points: list[Point], cluster, die: str = "") -> subprocess.Popen[str]:
    path = tmp_path / "engine.pkl"
    path.write_bytes(pickle.dumps((points, cluster, die)))
    command = [sys.executable, str(HERE / "engine_process.py"), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def assert_once(points: list[Point], found: list[records.Record]) -> None:
    assert [record.status for record in found] == ["ok"] * len(points), found
    assert found == [records.read(point.folder) for point in points]
    assert [starts(point) for point in points] == [1] * len(points)
    assert not any((point.folder / "overlap").exists() for point in points)
    sweep = points[0].folder.parent
    assert sorted(sweep.glob(".*/**")) == [], "nothing is left of tickets, claims and pickles"


def test_every_end_of_a_job_is_a_record(slurm, cluster, noop_points) -> None:
    ways = ["sleep:600.5", "", "raise:no luck", "kill:SIGKILL", "memory", "sleep:600", "sleep:601"]
    points = noop_points(*ways)
    late, _, _, _, _, cancelled, killed = points
    asked: dict[str, str] = {}

    def strike() -> None:
        until(lambda: starts(late))
        asked["job"] = slurm.call("scontrol", "show", "job", job_of(slurm, late)).stdout
        until(lambda: starts(cancelled))
        slurm.call("scancel", job_of(slurm, cancelled))
        kill_job(killed)

    thread = threading.Thread(target=strike)
    thread.start()
    place = cluster(time=1, gpus="auto", array_parallelism=4, setup=["echo these are setup lines"], sbatch={"nice": 7})
    found = carry_out_plan(Plan.of(points), place)
    thread.join()
    said = {way: (record.status, record.reason) for way, record in zip(ways, found, strict=True)}
    assert said.pop("") == ("ok", None)
    assert said.pop("raise:no luck") == ("failed", "RuntimeError: no luck")
    assert said.pop("memory") == ("oom", "MemoryError: MemoryError")
    assert said["kill:SIGKILL"][0] == "killed"
    assert "the process was ended by SIGKILL" in said.pop("kill:SIGKILL")[1]
    for way, reason in (
        ("sleep:600.5", "took longer than hydra.launcher.time=1 min"),
        ("sleep:600", "was cancelled (scancel)"),
        ("sleep:601", "was ended by signal 9"),
    ):
        status, why = said.pop(way)
        assert status == "killed"
        assert reason in why
    for point, record in zip(points, found, strict=True):
        assert record == records.read(point.folder)
        assert not record.interrupted
        assert starts(point) == 1
        assert record.environment["slurm_job"].startswith(found[0].environment["slurm_job"].partition("_")[0])
    assert "last words" in found[3].log_tail
    job = asked["job"]
    for fact in ("TimeLimit=00:01:00", "NumCPUs=1", "mem=300M", "Nice=7", "ArrayTaskThrottle=4", "Requeue=1"):
        assert fact in job, job
    assert "gpu" not in job, "device=cpu asks for none"


def test_a_run_that_lost_its_job_gets_another_one_if_retries_are_asked_for(slurm, cluster, noop_points, capsys) -> None:
    killed, cancelled, _ = points = noop_points("first:600", "first:601", "", retries=1)

    def strike() -> None:
        kill_job(killed)
        until(lambda: starts(cancelled))
        slurm.call("scancel", job_of(slurm, cancelled))

    thread = threading.Thread(target=strike)
    thread.start()
    found = carry_out_plan(Plan.of(points), cluster())
    thread.join()
    assert [record.status for record in found] == ["ok", "killed", "ok"], found
    assert [starts(point) for point in points] == [2, 1, 1], "what was cancelled is not wanted"
    assert found == [records.read(point.folder) for point in points]
    assert "is killed, try 2 follows: Slurm job" in capsys.readouterr().out


def test_a_job_sees_the_gpu_that_it_asked_for_and_a_long_grid_is_sent_in_parts(slurm, cluster, noop_points) -> None:
    points = noop_points("sleep:0.5", "sleep:0.5", "")
    for index, point in enumerate(points):
        assert point.run.seed == index
        object.__setattr__(point, "run", point.run.model_copy(update={"device": "auto"}))
    found = carry_out_plan(Plan.of(points), cluster(gpus=1, array_size=2))
    assert_once(points, found)
    jobs = [record.environment["slurm_job"] for record in found]
    assert ["_" in job for job in jobs] == [True, True, False], "an array of two, and the third by itself after it"
    assert {record.environment["gpu"] for record in found} <= {"0", "1"}


def test_a_job_that_is_preempted_is_started_again_and_recorded_once(slurm, cluster, noop_points) -> None:
    (point,) = points = noop_points("sleep:6")

    def preempt() -> None:
        until(lambda: starts(point))
        slurm.call("sbatch", "--partition=urgent", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 1")

    thread = threading.Thread(target=preempt)
    thread.start()
    (record,) = carry_out_plan(Plan.of(points), cluster())
    thread.join()
    assert (record.status, starts(point), record.environment["slurm_restarts"]) == ("ok", 2, 1)
    assert record == records.read(point.folder)
    assert not (point.folder / "overlap").exists()


@pytest.mark.parametrize(
    ("die", "then"), [("before", "there"), ("after", "there"), ("before", "here"), ("after", "here")]
)
def test_after_a_killed_engine_another_one_finishes_and_nothing_runs_twice(
    slurm, cluster, noop_points, tmp_path, die, then
) -> None:
    """Killed just before or just after sbatch; the next engine is of the cluster or of this machine."""
    points = noop_points("sleep:3", "sleep:3", "")
    first = start_engine(tmp_path, points[:2], cluster(), die)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert all(Ticket.read(point) for point in points[:2])
    place = cluster() if then == "there" else noop_launcher()
    found = carry_out_plan(Plan.of(points), place)
    assert_once(points, found)
    on_slurm = ["slurm_job" in record.environment for record in found]
    assert on_slurm == [then == "there" or die == "after"] * 2 + [then == "there"]


def test_what_is_done_on_either_side_is_done(slurm, cluster, noop_points) -> None:
    points = noop_points("", "", "")
    carry_out_plan(Plan.of(points[:1]), noop_launcher())
    carry_out_plan(Plan.of(points[:2]), cluster())
    found = carry_out_plan(Plan.of(points), noop_launcher())
    assert_once(points, found)
    assert ["slurm_job" in record.environment for record in found] == [False, True, False]
    assert Plan.of(points).todo == []


def test_ctrl_c_leaves_the_jobs_and_says_so_or_cancels_them(slurm, cluster, noop_points, tmp_path) -> None:
    (point,) = points = noop_points("sleep:600")
    first = start_engine(tmp_path, points, cluster())
    until(lambda: starts(point))
    first.send_signal(signal.SIGINT)
    said = first.communicate()[0]
    ticket = Ticket.read(point)
    assert f"scancel --name={ticket.name}" in said
    assert records.read(point.folder) is None
    second = start_engine(tmp_path, points, cluster(cancel=True))
    until(lambda: "sent before" in second.stdout.readline())
    second.send_signal(signal.SIGINT)
    second.communicate()
    assert records.read(point.folder).interrupted
    assert Ticket.read(point) is None
    assert slurm.call("squeue", "--noheader", f"--name={ticket.name}").stdout == ""
    assert starts(point) == 1


def test_a_search_refills_its_slots_is_killed_and_reaches_its_total(
    slurm, cluster, tmp_path, sentences, monkeypatch
) -> None:
    loader, master, written = composed(tmp_path, sentences, "dataset.text_column=curve:1:2")
    place = cluster(array_parallelism=2)
    wanted = {"params": None, "n_trials": 5, "sampler": "random", "seed": 0, "storage": None}
    wanted["objectives"] = [{"metric": "validation/accuracy", "direction": "maximize"}]
    sends, send = [], pool.submit

    def send_and_die(*arguments) -> None:
        sends.append(send(*arguments))
        if len(sends) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(pool, "submit", send_and_die)
        arguments = (loader, master, wanted, written, place)
        process = get_context("fork").Process(target=search.carry_out, args=arguments)
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    search.carry_out(*arguments)
    found = list(records.read_sweep(tmp_path / "s"))
    assert [record.status for record in found] == ["ok"] * 5
    assert len({record.environment["slurm_job"].partition("_")[0] for record in found}) >= 3, "not one array of five"
    assert all(len((tmp_path / "s" / r.run_id / "starts").read_text().split()) == 1 for r in found)
    at_a_time = [sum(other.started <= record.started < other.ended for other in found) for record in found]
    assert max(at_a_time) <= 2
    search.carry_out(*arguments)
    assert len(list(records.read_sweep(tmp_path / "s"))) == 5


def test_fail_fast_cancels_what_is_out(slurm, cluster, noop_points) -> None:
    points = noop_points("raise:no luck", "sleep:600", fail_fast=True)
    with pytest.raises(UserError, match=r"engine.fail_fast: .*no luck"):
        carry_out_plan(Plan.of(points), cluster())
    assert slurm.call("squeue", "--noheader").stdout == ""
    assert records.read(points[1].folder).interrupted
    assert [Ticket.read(point) for point in points] == [None, None]


def test_a_run_is_pruned_by_the_engine(slurm, cluster, noop_points) -> None:
    (point,) = noop_points("curve:40:0.5")
    seen: list[int] = []

    def judge(index: int, figures: dict[str, float]) -> str | None:
        seen.append(index)
        return f"enough at {index}" if index == 2 else None

    with engine.runner([point], 1, launcher=cluster()) as runner:
        runner.submit(point, judge)
        while runner.busy:
            found = runner.wait()
    assert (found[0].status, found[0].reason) == ("pruned", "enough at 2")
    assert seen[:2] == [1, 2]
    assert len(seen) < 20


def test_a_setup_that_fails_and_a_partition_that_is_not_there(slurm, cluster, noop_points) -> None:
    points = noop_points("")
    (record,) = carry_out_plan(Plan.of(points), cluster(setup=["echo no such module >&2", "exit 3"]))
    assert (record.status, starts(points[0])) == ("failed", 0)
    assert "exit code 3" in record.reason
    assert "no such module" in record.log_tail
    with pytest.raises(UserError, match=r"Slurm refuses the jobs .*partition"):
        carry_out_plan(Plan.of(points), cluster(partition="nowhere"))
    assert Ticket.read(points[0]) is None
    assert records.read(points[0].folder).interrupted


def test_one_word_carries_a_command_to_the_cluster(slurm, sentences, tmp_path) -> None:
    command = f"""-m method=lora model=tiny dataset=text dataset.path={sentences} dataset.max_length=48 tracker=none
        device=cpu trainer.max_steps=4 trainer.batch_size=8 trainer.validations=2 sweep=s output_dir={tmp_path}
        hydra.launcher.memory=1G hydra.launcher.cpus=1 hydra/launcher=slurm""".split()
    done = subprocess.run([sys.executable, "-m", "peftbench", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = records.read_sweep(tmp_path / "s")
    assert record.environment["slurm_job"] in done.stdout
    assert record.metrics["quality/accuracy"] > 0
    here = [argument for argument in command if "hydra" not in argument]
    again = subprocess.run([sys.executable, "-m", "peftbench", *here], capture_output=True, text=True, check=False)
    assert "1 done already" in again.stdout


def composed(tmp_path: Path, sentences: Path, *more: str):
    """A loader, a composed search over two dimensions, and what was written for it."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode

    from peftbench.cli.overrides import rewrite
    from peftbench.cli.paths import register_plugins

    register_plugins()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    fixed = ["dataset=text", f"dataset.path={sentences}", "model=tiny", "device=cpu", "sweep=s", "tracker=none"]
    varied = ["rank=int(interval(1,64))", "trainer.lr=tag(log,interval(1e-5,1e-2))"]
    written = rewrite([*fixed, *varied, f"output_dir={tmp_path}", *more])
    plain = [text for text in written if "interval" not in text]
    return loader, loader.load_configuration("config", plain, RunMode.MULTIRUN), written
