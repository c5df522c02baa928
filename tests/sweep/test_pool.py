"""The pool with real processes: every way a run can end is a record, and runs share the machine without meeting."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest
from support import noop_launcher

from peftbench import record as records
from peftbench.errors import UserError
from peftbench.sweep.engine import carry_out_plan
from peftbench.sweep.fork_server import ForkServer
from peftbench.sweep.grid import Point
from peftbench.sweep.plan import Plan
from peftbench.sweep.slots import Slot, _listed, share, slots_for

ENDS = {
    "": ("ok", None),
    "raise:no luck": ("failed", "RuntimeError: no luck"),
    "memory": ("oom", "MemoryError"),
    "exit:3": ("failed", "SystemExit: 3"),
    "silent:0": ("failed", "exit code 0 and left no record"),
    "silent:7": ("failed", "exit code 7"),
    "silent:255": ("failed", "exit code 255"),
    "kill:SIGKILL": ("killed", "SIGKILL"),
    "kill:SIGSEGV": ("killed", "SIGSEGV"),
    "kill:SIGTERM": ("killed", "SIGTERM"),
    "sleep:600": ("killed", "engine.timeout"),
}


def carried_out(points):
    return carry_out_plan(Plan.of(points), noop_launcher())


def starts(point) -> int:
    path = point.folder / "starts"
    return len(path.read_text().split()) if path.exists() else 0


def test_every_end_becomes_a_record_and_the_sweep_goes_on(noop_points) -> None:
    points = noop_points(*ENDS, jobs=4)
    slow = points[-1].run
    points[-1] = Point(slow.model_copy(update={"engine": slow.engine.model_copy(update={"timeout": 2.0})}), ("seed=9",))
    found = carried_out(points)
    for point, record, (status, said) in zip(points, found, ENDS.values(), strict=True):
        assert record == records.read(point.folder)
        assert record.status == status, record
        assert (said or "") in (record.reason or "")
        assert (point.folder / "config.yaml").is_file()
        assert not list(point.folder.glob(".record*"))
        assert record.environment["jobs"] == 4
    tails = {point.run.dataset.text_column: record.log_tail for point, record in zip(points, found, strict=True)}
    assert "last words" in tails["kill:SIGKILL"]
    assert "last words" in tails["silent:0"]
    assert "no luck" in tails["raise:no luck"]
    assert not (points[0].folder.parent / ".claims").exists()


def test_a_free_slot_is_filled_at_once(noop_points) -> None:
    """Two slots, and the first run ends when the eight others have: they do not wait for it."""
    found = carried_out(noop_points("last:8", *[""] * 8, jobs=2))
    assert {record.status for record in found} == {"ok"}


def test_runs_side_by_side_have_cores_of_their_own(noop_points) -> None:
    cores = sorted(os.sched_getaffinity(0))
    for jobs in {1, len(cores)}:
        (record,) = carried_out(noop_points("", jobs=jobs, rerun=True))
        assert record.metrics["cores"] == len(cores) // jobs


def test_each_run_sees_one_gpu_of_the_pool(noop_points, monkeypatch) -> None:
    from peftbench.sweep import slots

    monkeypatch.setattr(slots, "gpus", lambda: ["GPU-a", "GPU-b"])
    points = noop_points("sleep:1", "sleep:1", "", "")
    for index, point in enumerate(points):
        object.__setattr__(point, "run", point.run.model_copy(update={"device": "auto"}))
        assert point.run.seed == index
    found = carried_out(points)
    assert {record.environment["jobs"] for record in found} == {2}, "auto is one run a GPU"
    assert {found[0].environment["gpu"], found[1].environment["gpu"]} == {"GPU-a", "GPU-b"}


def test_what_a_run_left_behind_ends_with_it(noop_points) -> None:
    (point,) = noop_points("children:0")
    (record,) = carried_out([point])
    assert record.status == "ok"
    (pid,) = (point.folder / "starts").read_text().split()
    deadline = time.monotonic() + 30
    while (left := _alive_in_group(int(pid))) and time.monotonic() < deadline:
        time.sleep(0.02)  # they are told to end, and not waited for
    assert not left


def _alive_in_group(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_a_failed_run_is_tried_again_on_request(noop_points) -> None:
    flaky, hopeless = noop_points("flaky:2", "raise", retries=2)
    good, bad = carried_out([flaky, hopeless])
    assert (good.status, good.environment["attempt"], starts(flaky)) == ("ok", 3, 3)
    assert (bad.status, bad.environment["attempt"], starts(hopeless)) == ("failed", 3, 3)


def test_fail_fast_ends_what_is_running_and_the_same_command_goes_on(noop_points) -> None:
    broken, long, never = noop_points("raise", "sleep:600", "", jobs=2, fail_fast=True)
    with pytest.raises(UserError, match=r"fail_fast.*broken"):
        carried_out([broken, long, never])
    record = records.read(long.folder)
    assert record.interrupted
    assert "fail_fast" in record.reason
    assert not never.folder.exists()
    assert [p.run.run_id for p in Plan.of([broken, long, never]).todo] == [p.run.run_id for p in (broken, long, never)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_is_recorded_and_run_again(noop_points, number, request) -> None:
    held = signal.signal(number, signal.default_int_handler)  # a worker of pytest may ignore it
    request.addfinalizer(lambda: signal.signal(number, held))
    first, long = noop_points("", "sleep:600", retry_failed=False)

    def interrupt() -> None:
        while not starts(long):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        carried_out([first, long])
    assert records.read(first.folder).status == "ok"
    assert records.read(long.folder).interrupted
    assert Plan.of([first, long]).todo == [long], "also where failed runs are left alone"


def test_an_interrupt_before_the_first_run_has_begun_leaves_nothing(noop_points) -> None:
    class Slow(ForkServer):
        def warm(self, interrupts) -> None:
            raise KeyboardInterrupt

    (point,) = noop_points("")
    with pytest.raises(KeyboardInterrupt):
        carry_out_plan(Plan.of([point]), Slow())
    assert not list(point.folder.parent.iterdir())


def test_a_rerun_keeps_the_record_it_replaces(noop_points) -> None:
    (point,) = noop_points("")
    (before,) = carried_out([point])
    (again,) = noop_points("", rerun=True)
    (after,) = carried_out([again])
    assert after != before
    kept = (point.folder / "record.previous.json").read_text()
    assert before.started in kept


def test_a_record_that_cannot_be_read_is_kept_aside(noop_points, capsys) -> None:
    (point,) = noop_points("")
    carried_out([point])
    path = point.folder / "record.json"
    torn = path.read_text()[:200]
    path.write_text(torn)
    (record,) = carried_out([point])
    assert record.status == "ok"
    assert (point.folder / "record.corrupt.json").read_text() == torn
    assert "record.corrupt.json" in capsys.readouterr().out


@pytest.mark.parametrize("place", [lambda path: path.write_text("in the way"), lambda path: path.symlink_to("nothing")])
def test_a_folder_that_cannot_be_written_is_said_before_the_first_run(noop_points, place) -> None:
    (point,) = noop_points("")
    place(point.folder.parent)
    with pytest.raises(UserError, match=r"is no folder .* output_dir"):
        carried_out([point])


def test_a_file_above_a_sweep_s_folder_is_said_too(noop_points, tmp_path) -> None:
    (tmp_path / "file").touch()
    (point,) = noop_points("")
    point = Point(point.run.model_copy(update={"output_dir": str(tmp_path / "file")}), ())
    with pytest.raises(UserError, match=r"is no folder .* output_dir"):
        carried_out([point])


def test_a_named_gpu_is_not_shared_out(noop_points) -> None:
    (point,) = noop_points("", jobs=2)
    with pytest.raises(UserError, match="device=cuda"):
        slots_for([point.run.model_copy(update={"device": "cuda:1"})])


def test_cores_are_shared_evenly() -> None:
    assert share(range(8), 3) == [(0, 1, 2), (3, 4), (5, 6, 7)]
    assert share([4, 6], 4) == [(4,), (6,), (4,), (6,)]
    for cores in range(1, 20):
        for count in range(1, cores + 1):
            parts = share(range(cores), count)
            assert sum(parts, ()) == tuple(range(cores))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_gpus_are_read_from_what_the_driver_lists() -> None:
    text = (
        "GPU 0: NVIDIA H100 (UUID: GPU-aa)\n"
        "GPU 1: NVIDIA H100 (UUID: GPU-bb)\n"
        "  MIG 3g.40gb Device 0: (UUID: MIG-b0)\n"
        "  MIG 3g.40gb Device 1: (UUID: MIG-b1)\n"
        "GPU 2: NVIDIA H100 (UUID: GPU-cc)\n"
    )
    assert _listed(text) == ["GPU-aa", "MIG-b0", "MIG-b1", "GPU-cc"]


def test_several_runs_share_a_gpu_on_request_and_none_is_given_where_none_is_used(noop_points, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,")

    def cards(device: str, **engine) -> list[str | None]:
        (point,) = noop_points("", **engine)
        return [slot.gpu for slot in slots_for([point.run.model_copy(update={"device": device})])]

    assert cards("cuda", jobs=5) == ["GPU-a", "GPU-b", "GPU-a", "GPU-b", "GPU-a"]
    assert cards("auto", jobs="auto") == ["GPU-a", "GPU-b"]
    assert cards("cpu", jobs=2) == [None, None]
    assert cards("cpu", jobs="auto") == cards("cuda:1", jobs="auto") == cards("auto", in_process=True) == [None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert cards("auto", jobs="auto") == [None]


def test_alone_a_run_has_the_whole_machine(noop_points) -> None:
    (point,) = noop_points("")
    assert slots_for([point.run]) == (Slot(),)


def test_the_time_that_is_left_is_told_from_runs_that_finished(noop_points) -> None:
    done, same, other = noop_points("", "", "")
    assert Plan.of([done, same]).estimate(1) is None
    (record,) = carried_out([done])
    record.started, record.ended = "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:20+00:00"
    record.write(done.folder)
    plan = Plan.of([done, same, other])
    assert (plan.estimate(1), plan.estimate(2)) == (40, 20)
    assert list(plan.lines())[-1] == "about 40 s, one after another"
