"""Online runs, end to end: W&B's own core process against a server of the tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from peftbench.tracking.tries import UNSYNCED
from peftbench.tracking.wandb import tracked_id
from tracking.backend import Backend, TrackedRun
from tracking.child import CONFIG, CURVE, KEY, METRICS, environment, run_config, tracked


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory):
    """Two runs of one process, with artifacts; the server and the folder."""
    folder = tmp_path_factory.mktemp("online")
    with Backend() as backend:
        done = tracked(folder, backend.url, "online", "artifacts", runs=2)
    assert (done.code, done.said[-1], backend.unknown) == (0, "went on", [])
    return backend, folder


def of_name(backend: Backend, name: str) -> TrackedRun:
    return backend.runs[tracked_id(run_config(name))]


def test_runs_of_one_process_arrive_as_runs_of_their_own(online):
    backend, _ = online
    assert sorted(run.display_name for run in backend.runs.values()) == ["one", "two"]
    assert all((run.group, run.state) == ("demo", "finished") for run in backend.runs.values())
    assert of_name(backend, "one").tags == ["method:lora", "dataset:sst2", "rank:8", "seed:0", "mine"]


def test_every_point_of_the_curve_arrives_once(online):
    for run in online[0].runs.values():
        assert run.points() == CURVE
        assert len(run.rows) == len(CURVE)


def test_the_configuration_arrives_nested(online):
    held = of_name(online[0], "two").settings()
    assert {name: held[name] for name in CONFIG} == CONFIG
    assert held["config_hash"] == "ab" * 32
    assert held["environment"] == {"device_name": "CPU X"}


def test_the_summary_is_the_record(online):
    backend, folder = online
    written = json.loads((folder / "demo" / "one" / "record.json").read_text())["metrics"]
    measured = {name: value for name, value in written.items() if value is not None}
    assert of_name(backend, "one").values() == {**measured, "status": "ok", "reason": ""}


def test_artifacts_arrive_with_their_files_and_the_files_stay(online):
    backend, folder = online
    assert all(artifact.committed for artifact in backend.artifacts.values())
    held = {artifact.name: artifact for artifact in backend.artifacts.values()}
    assert set(held) == {"one-adapter", "one-predictions", "two-adapter", "two-predictions"}
    assert held["two-adapter"].files["adapter_model.safetensors"] == b"weights of two"
    assert held["one-predictions"].files["predictions.parquet"] == b"rows"
    assert (held["one-adapter"].type, held["one-adapter"].run) == ("adapter", tracked_id(run_config("one")))
    assert (folder / "demo" / "two" / "adapter" / "adapter_model.safetensors").read_bytes() == b"weights of two"
    assert (folder / "demo" / "two" / "predictions.parquet").exists()


def test_nothing_is_left_to_sync(online):
    _, folder = online
    assert list(folder.glob("demo/*/wandb/run-*"))
    assert not list(folder.glob(f"demo/*/wandb/*/{UNSYNCED}"))


def test_a_second_try_of_a_run_writes_over_the_first(tmp_path: Path):
    with Backend() as backend:
        assert tracked(tmp_path, backend.url, "online", "die", WANDB_RESUME="allow").code == 9
        assert tracked(tmp_path, backend.url, "online", WANDB_RESUME="allow").code == 0
    assert backend.only().points() == CURVE
    assert backend.only().values()["quality/accuracy"] == METRICS["quality/accuracy"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, sentences: Path):
    """A run by the command itself: the server and the run's folder."""
    folder = tmp_path_factory.mktemp("real")
    options = ["dataset=text", f"dataset.path={sentences}", "dataset.max_length=48", "model=tiny", "device=cpu"]
    options += ["trainer.max_steps=6", "trainer.batch_size=8", "trainer.validations=2", "tracker.mode=online"]
    command = [sys.executable, "-m", "peftbench", *options, f"output_dir={folder}", "sweep=real"]
    with Backend() as backend:
        done = subprocess.run(
            command, env=environment(backend.url, folder), capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    (run,) = (path.parent for path in folder.glob("real/*/record.json"))
    return backend, run


def without_empty(config):
    """W&B leaves empty mappings out."""
    if not isinstance(config, dict):
        return config
    return {name: without_empty(value) for name, value in config.items() if value != {}}


def test_a_real_run_arrives_as_its_files_tell_it(real):
    backend, folder = real
    held, written = backend.only(), json.loads((folder / "record.json").read_text())
    figures = {name: value for name, value in written["metrics"].items() if value is not None}
    assert held.values() == {**figures, "status": "ok", "reason": ""}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: held.settings()[name] for name in config} == without_empty(config)
    seen = {name for point in held.points() for name in point}
    assert seen >= {"step", "train/loss", "train/tokens_per_s", "train/memory_bytes", "validation/accuracy"}


def test_the_key_is_in_no_file_of_a_run(real):
    _, folder = real
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"record.json", "config.yaml", "run.log"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
