"""A real Slurm for the tests that ask for one, and options as ``conf/hydra/launcher/slurm.yaml`` has them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from slurm_cluster import PACKAGES, LocalSlurm, missing
from support import CONF

from peftbench.sweep.slurm.options import Cluster, Slurm


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """These take minutes and need packages of the system: they are run by ``make test-slurm``."""
    if "slurm" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slurm") is not None:
                item.add_marker(pytest.mark.skip(reason="starts a Slurm of its own: make test-slurm"))


@pytest.fixture(scope="session")
def running_slurm() -> Iterator[LocalSlurm]:
    if absent := missing():
        pytest.skip(f"{', '.join(absent)} not installed: apt-get install {PACKAGES}")
    folder = Path(tempfile.mkdtemp(prefix="peftbench-slurm-"))  # short: the path of a socket has 107 characters
    slurm = LocalSlurm(folder)
    try:
        try:
            slurm.start()
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"a Slurm cannot be started in this place: {error}")
        yield slurm
    finally:
        slurm.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(running_slurm: LocalSlurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSlurm]:
    """The Slurm of all tests, empty again afterwards."""
    for name, value in running_slurm.environment.items():
        monkeypatch.setenv(name, value)
    # A worker of pytest may ignore it, and so would what it starts.
    held = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield running_slurm
    signal.signal(signal.SIGINT, held)
    subprocess.run(
        ["scancel", "--me"], check=False, capture_output=True, env={**os.environ, **running_slurm.environment}
    )


@pytest.fixture
def options() -> Callable[..., Slurm]:
    """``options(time=1)``: the shipped options, with others in place of some."""
    shipped = yaml.safe_load((CONF / "hydra" / "launcher" / "slurm.yaml").read_text())
    shipped.pop("_target_")
    return lambda **changed: Slurm.model_validate({**shipped, **changed})


@pytest.fixture
def cluster(options: Callable[..., Slurm]) -> Callable[..., Cluster]:
    """``cluster(time=1)``: jobs whose runs are ``noop.py``'s."""
    small = {"cpus": 1, "memory": "300M", "poll": 0.5}
    return lambda **changed: Cluster(options(**{**small, **changed}), execute="noop:execute", preload="noop")
