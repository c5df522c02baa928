"""Weights & Biases runs, written for real and read back with W&B's own reader."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from peftbench.record import Record
from peftbench.tracking import server
from peftbench.tracking import wandb as tracking
from peftbench.tracking.tries import UNSYNCED
from peftbench.tracking.wandb import WandbTracker, tracked_id

METRICS = {"quality/accuracy": 0.875, "params/adapter": 147456, "memory/source": "process_rss", "energy/train_j": None}


def run_config(**changes) -> SimpleNamespace:
    """What the tracker reads of a `RunConfig`."""
    values = {
        "sweep": "demo",
        "run_id": "lora-sst2-tiny-r8-s0-0123abcd",
        "hash": "ab" * 32,
        "axes": {"method": "lora", "dataset": "sst2", "rank": 8, "ratio": None, "seed": 0},
        **changes,
    }
    return SimpleNamespace(**values, dump=lambda: {"trainer": {"lr": 1e-3}, "rank": None, "seed": 0})


def record(status: str = "ok", reason: str | None = None) -> Record:
    axes = run_config().axes
    facts = {"environment": {"device_name": "CPU X"}, "data": {"fingerprint": "f00"}}
    return Record("id", "demo", status, {}, "ab", axes, reason=reason, metrics=dict(METRICS), **facts)


def track(folder: Path, *, tracker: WandbTracker | None = None, ended: Record | None = None) -> None:
    tracker = tracker or WandbTracker(name="wandb")
    tracker.start(run_config(), folder)
    for step in (10, 20, 30):
        tracker.log(step, {"train/loss": 1 / step, "quality/accuracy": None if step < 30 else 0.5})
    tracker.finish(ended or record(), folder)


def inspect(folder: Path, *options: str) -> list[dict]:
    """What W&B's reader finds in the one run below ``folder``."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in out.splitlines()] if not options else [json.loads(out)]


def of_type(items: list[dict], kind: str) -> list[dict]:
    return [item for item in items if item.get("type") == kind]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("run")
    track(folder, tracker=WandbTracker(name="wandb", project="bench", tags=("mine",)))
    return inspect(folder)


def test_the_run_is_named_grouped_and_tagged(written: list[dict]):
    run = of_type(written, "run")[0]["run"]
    assert (run["project"], run["run_group"], run["display_name"]) == ("bench", "demo", run_config().run_id)
    assert run["run_id"] == tracked_id(run_config())
    assert run["tags"] == ["method:lora", "dataset:sst2", "rank:8", "seed:0", "mine"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAGS", ""),
        ("TAGS", "night,,a100"),
        ("TAGS", "x" * 70),
        ("MODE", ""),
        ("QUIET", "perhaps"),
        ("CONSOLE", "loud"),
        ("CONFIG_PATHS", "nowhere.yaml"),
        ("RUN_ID", "a/b"),
        ("SWEEP_ID", ""),
        ("SERVICE", "4-1-tcp-127.0.0.1-9"),
    ],
)
def test_variables_that_wandb_refuses_do_not_end_tracking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(f"WANDB_{name}", value)
    track(tmp_path)
    assert of_type(inspect(tmp_path), "run")


def test_a_key_is_taken_without_the_end_of_its_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "c0ffee\n")
    server._tidy_variables()
    assert os.environ["WANDB_API_KEY"] == "c0ffee"


@pytest.mark.parametrize(
    ("variable", "project", "said"),
    [
        (None, "team/bench", "write tracker.entity=team tracker.project=bench"),
        (None, "a#b", "project a#b has '#', which W&B takes in none"),
        (None, "x" * 129, "at most 128 characters"),
        ("localhost:8080", "bench", "write WANDB_BASE_URL=https://localhost:8080"),
    ],
)
def test_what_wandb_would_refuse_later_is_refused_while_composing(variable, project, said, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("WANDB_BASE_URL", variable)
    with pytest.raises(ValueError, match=re.escape(said)):
        WandbTracker(name="wandb", project=project)


def test_a_user_without_a_home_is_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in ``docker run --user``, where the system does not know who that is."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setenv("WANDB_CONFIG_DIR", "set here so that it is taken back")
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    track(tmp_path)
    monkeypatch.undo()
    assert of_type(inspect(tmp_path), "run")


def test_the_resolved_configuration_arrives_nested(written: list[dict]):
    config = of_type(written, "run")[0]["run"]["config"]["update"]
    assert (config["trainer"], config["rank"], config["config_hash"]) == ({"lr": 1e-3}, None, "ab" * 32)
    later = of_type(written, "config")[-1]["config"]["update"]
    assert later["environment"] == {"device_name": "CPU X"}


def test_curves_arrive_over_the_runs_own_step(written: list[dict]):
    points = [item["history"]["item"] for item in of_type(written, "history")]
    assert [point["step"] for point in points] == [10, 20, 30]
    assert [point["train/loss"] for point in points] == pytest.approx([1 / 10, 1 / 20, 1 / 30])
    assert [point.get("quality/accuracy") for point in points] == [None, None, 0.5]


def summary(items: list[dict]) -> dict:
    found: dict = {}
    for item in of_type(items, "summary"):
        found |= item["summary"]["update"]
    return {name: value for name, value in found.items() if not name.startswith("_")}


def test_the_summary_is_the_records_figures_and_nothing_of_the_curves(written: list[dict]):
    measured = {name: value for name, value in METRICS.items() if value is not None}
    assert summary(written) == {**measured, "status": "ok", "reason": ""}
    assert of_type(written, "exit")[-1]["exit"]["exit_code"] == 0


def test_a_second_try_is_not_resumed_whatever_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_RESUME", "allow")
    for folder in (tmp_path / "first", tmp_path / "second"):
        track(folder)
        (run,) = of_type(inspect(folder), "run")
        assert "resume" not in run["run"]


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("oom", 1), ("skipped", 0), ("pruned", 0)])
def test_how_a_run_ended_is_told(tmp_path: Path, status: str, code: int):
    ended = record(status, "because")
    ended.metrics = {}
    track(tmp_path, ended=ended)
    items = inspect(tmp_path)
    assert summary(items) == {"status": status, "reason": "because"}
    assert of_type(items, "exit")[-1]["exit"].get("exit_code", 0) == code


def test_runs_of_one_process_stay_apart_even_if_one_never_ended(tmp_path: Path):
    first, second = WandbTracker(name="wandb"), WandbTracker(name="wandb")
    first.start(run_config(run_id="one"), tmp_path / "one")
    second.start(run_config(run_id="two"), tmp_path / "two")
    second.finish(record(), tmp_path / "two")
    first.finish(record("failed"), tmp_path / "one")
    found = [inspect(tmp_path / name, "--summary")[0] for name in ("one", "two")]
    assert [(item["name"], item["summary"]["status"]) for item in found] == [("one", "failed"), ("two", "ok")]


def services() -> int:
    """Child processes of this one that are W&B's service."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            name, _, rest = path.read_text().partition(" (")[2].rpartition(") ")
            found += "wandb-core" in name and rest.split()[0] != "Z" and int(rest.split()[1]) == os.getpid()
    return found


def test_w_and_bs_service_has_written_all_and_ended_when_the_last_run_has(tmp_path: Path):
    first, second = WandbTracker(name="wandb"), WandbTracker(name="wandb")
    counts = []
    for tracker, name in ((first, "one"), (second, "two")):
        tracker.start(run_config(run_id=name), tmp_path / name)
    for tracker, name in ((first, "one"), (second, "two")):
        counts.append(services())
        tracker.finish(record(), tmp_path / name)
    assert counts == [1, 1]
    assert services() == 0


def test_adapter_and_predictions_are_artifacts_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "predictions.parquet").write_bytes(b"rows")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    track(tmp_path, tracker=WandbTracker(name="wandb", artifacts=True))
    logged = [item["artifact"] for item in of_type(inspect(tmp_path), "artifact")]
    assert [item["type"] for item in logged] == ["adapter", "predictions"]
    assert [item["manifest"]["contents"][0]["size"] for item in logged] == ["7", "4"]


def test_ids_are_the_same_for_the_same_run_and_fit_what_wandb_takes():
    long = run_config(run_id="method-r8-" * 30)
    assert tracked_id(long) == tracked_id(long)
    assert len(tracked_id(long)) <= 64
    assert len({tracked_id(run_config(**change)) for change in ({}, {"sweep": "b"}, {"hash": "c"})}) == 3


def test_nothing_is_said_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    track(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_tracker_that_fails_says_so_once_and_never_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def break_down(*args, **kwargs):
        raise RuntimeError("no\nservice")

    monkeypatch.setattr("wandb.init", break_down)
    track(tmp_path)
    (message,) = caplog.messages
    assert message == "W&B tracking stopped at start (RuntimeError: no service); the record is kept"


def test_a_run_that_breaks_down_midway_is_left_alone_afterwards(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    tracker = WandbTracker(name="wandb")
    tracker.start(run_config(), tmp_path)
    real, calls = tracker._run, []

    def break_down(*args, **kwargs):
        calls.append(args)
        raise OSError("disk full")

    tracker._run = SimpleNamespace(log=break_down)
    tracker.log(1, {"a": 1})
    tracker.log(2, {"a": 1})
    tracker.finish(record(), tmp_path)
    real.finish()
    assert len(calls) == 1
    assert [entry.levelname for entry in caplog.records if entry.name == tracking.__name__] == ["WARNING"]


def test_an_upload_that_does_not_end_is_marked_for_later(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def stall(exit_code: int):
        raise TimeoutError("still uploading")

    tracker = WandbTracker(name="wandb")
    tracker._run = SimpleNamespace(finish=stall, dir=str(tmp_path / "files"), summary={}, config=SimpleNamespace())
    tracker._run.config.update = lambda *args, **kwargs: None
    (tmp_path / UNSYNCED).touch()
    tracker.finish(record(), tmp_path)
    assert (tmp_path / UNSYNCED).exists()
    assert "stopped at finish" in caplog.text


@pytest.mark.parametrize(
    ("wanted", "key", "server_answers", "mode", "warnings"),
    [
        ("auto", False, False, "offline", 0),
        ("auto", True, True, "online", 0),
        ("auto", True, False, "offline", 1),
        ("online", False, True, "offline", 1),
        ("online", True, True, "online", 0),
        ("offline", True, True, "offline", 0),
    ],
)
def test_where_a_run_goes(wanted, key, server_answers, mode, warnings, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "authenticated", lambda: key)
    monkeypatch.setattr(tracking, "reachable", lambda url: server_answers)
    assert WandbTracker(name="wandb", mode=wanted)._resolve_mode() == mode
    assert len(caplog.messages) == warnings


def test_the_modes_are_those_of_wandb():
    import wandb

    assert set(server.MODES) == set(get_args(wandb.Settings.model_fields["mode"].annotation))


def test_a_server_that_takes_connections_and_says_nothing_is_not_reachable():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert not server.reachable(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < server.PROBE_SECONDS + 0.5
