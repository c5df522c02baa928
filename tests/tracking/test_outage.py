"""Servers that are away, refuse, hang, fail or die: what they cost a run, and that nothing is lost.

A bound in seconds is the product's promise here: ten a run, all told.
"""

import time
from pathlib import Path

import pytest

from peftbench.tracking import server, sync
from peftbench.tracking import wandb as tracking
from tracking.backend import Backend
from tracking.child import CURVE, METRICS, tracked
from tracking.test_sync import call

PROMISED_SECONDS = 10
SLACK = 2
"""For the processes' own work on a busy machine."""


def test_the_promise_is_kept_by_the_timeouts():
    assert 2 * server.PROBE_SECONDS + tracking.INIT_SECONDS + tracking.FINISH_SECONDS < PROMISED_SECONDS


def hang(call: str) -> int | None:
    time.sleep(30)
    return None


def drag(call: str) -> int | None:
    time.sleep(0.8)
    return None


def after_the_probe(fault):
    return lambda call: None if call == "Probe" else fault(call)


FAULTS = {
    "hangs": hang,
    "fails": lambda call: 503,
    "starts no run": after_the_probe(hang),
    "denies the key": after_the_probe(lambda call: 401),
    "takes no curve": lambda call: 403 if call.endswith("/file_stream") else None,
    "fails every request": after_the_probe(lambda call: 500),
}


def delivers(folder: Path, backend: Backend) -> None:
    """What is in ``folder`` is one whole run, and arrives as that once the server is well."""
    backend.fault = lambda call: None
    done = call(folder, backend.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "1 delivered (demo)"
    run = backend.only()
    assert run.points() == CURVE
    assert (run.values()["quality/accuracy"], run.state) == (METRICS["quality/accuracy"], "finished")


@pytest.mark.parametrize("kind", FAULTS)
def test_a_server_that_is_ill_from_the_start(kind: str, tmp_path: Path):
    with Backend() as backend:
        backend.fault = FAULTS[kind]
        done = tracked(tmp_path, backend.url, "online")
        assert (done.code, done.said[-1]) == (0, "went on")
        assert done.seconds < PROMISED_SECONDS + SLACK
        delivers(tmp_path, backend)


def test_a_server_that_is_slow_is_waited_for_and_no_longer(tmp_path: Path):
    with Backend() as backend:
        backend.fault = drag
        done = tracked(tmp_path, backend.url, "online")
        assert (done.code, done.said[-1]) == (0, "went on")
        assert done.seconds < PROMISED_SECONDS + SLACK
        if [run for run in sync.tracked(tmp_path) if sync.is_pending(run)]:
            delivers(tmp_path, backend)
        assert backend.only().points() == CURVE


def test_a_server_that_dies_while_a_run_goes_on(tmp_path: Path):
    with Backend() as backend:

        def die() -> None:
            backend.fault = lambda call: backend.hang_up()

        done = tracked(tmp_path, backend.url, "online", "pause", "artifacts", midway=die)
        assert (done.code, done.said[-1]) == (0, "went on")
        assert done.seconds < PROMISED_SECONDS + SLACK
        delivers(tmp_path, backend)
        assert sorted(held.name for held in backend.artifacts.values() if held.committed) == [
            "one-adapter",
            "one-predictions",
        ]


def test_artifacts_that_are_refused_are_delivered_later(tmp_path: Path):
    with Backend() as backend:
        backend.fault = lambda call: 403 if "Artifact" in call else None
        done = tracked(tmp_path, backend.url, "online", "artifacts")
        assert (done.code, done.said[-1]) == (0, "went on")
        refused = call(tmp_path, backend.url)
        assert (refused.returncode, refused.stderr.splitlines()[0][:8]) == (1, "1 of 1 c"), refused.stdout
        delivers(tmp_path, backend)
        assert sorted(held.name for held in backend.artifacts.values() if held.committed) == [
            "one-adapter",
            "one-predictions",
        ]


def test_a_refused_connection_costs_nothing(tmp_path: Path):
    done = tracked(tmp_path, "http://127.0.0.1:9", "online")
    assert (done.code, done.said[-1]) == (0, "went on")
    assert "W&B at http://127.0.0.1:9 cannot be reached: this run is kept offline" in done.said
    assert done.seconds < PROMISED_SECONDS
    assert len([run for run in sync.tracked(tmp_path) if sync.is_pending(run)]) == 1
