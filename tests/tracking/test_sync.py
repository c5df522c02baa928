"""Which runs are uploaded, what is said of each, and what the exit status is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.tracking import sync
from peftbench.tracking.wandb import UNSYNCED


def add_run(output: Path, sweep: str, run: str, *, kind: str = "offline-run", synced: bool = False) -> Path:
    folder = output / sweep / run / "wandb" / f"{kind}-20260101_000000-{run}"
    folder.mkdir(parents=True)
    (folder / f"run-{run}.wandb").write_bytes(b"")
    if synced:
        (folder / f"run-{run}.wandb.synced").touch()
    return folder


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A server that takes everything but runs called ``bad``; the names of what was sent to it."""
    sent: list[str] = []

    def take(runs: list[Path]) -> str:
        for run in runs:
            sent.append(run.parents[1].name)
            if "bad" not in run.name:
                next(run.glob("*.wandb")).with_suffix(".wandb.synced").touch()
        return "the server said no"

    monkeypatch.setattr(sync, "upload", take)
    monkeypatch.setattr(sync, "_problem", lambda: None)
    return sent


def test_offline_runs_are_uploaded_once(tmp_path: Path, uploads: list[str], capsys: pytest.CaptureFixture[str]):
    add_run(tmp_path, "demo", "one")
    add_run(tmp_path, "other", "two")
    add_run(tmp_path, "other", "three", synced=True)
    add_run(tmp_path, "other", "online", kind="run")
    assert sync.main(["--output-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == ["synced demo/one", "synced other/two"]
    assert sync.main(["--output-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to sync\n"
    assert uploads == ["one", "two"]


def test_online_runs_that_were_cut_short_are_uploaded_too(tmp_path: Path, uploads: list[str]):
    (add_run(tmp_path, "demo", "cut", kind="run") / UNSYNCED).touch()
    assert sync.main(["--output-dir", str(tmp_path)]) == 0
    assert uploads == ["cut"]


def test_sweeps_can_be_chosen(tmp_path: Path, uploads: list[str]):
    for sweep in ("a", "b", "c"):
        add_run(tmp_path, sweep, f"run-{sweep}")
    assert sync.main(["a", "c", "--output-dir", str(tmp_path)]) == 0
    assert uploads == ["run-a", "run-c"]


def test_one_that_fails_is_named_and_the_others_arrive(
    tmp_path: Path, uploads: list[str], capsys: pytest.CaptureFixture[str]
):
    add_run(tmp_path, "demo", "bad")
    add_run(tmp_path, "demo", "good")
    assert sync.main(["--output-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == ["failed demo/bad: the server said no", "synced demo/good"]


def test_a_dry_run_uploads_nothing_and_needs_no_key(
    tmp_path: Path, uploads: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sync, "_problem", lambda: (2, "no key"))
    add_run(tmp_path, "demo", "one")
    assert sync.main(["--dry-run", "--output-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "would sync demo/one\n"
    assert uploads == []


def call(folder: Path, **changes: str) -> subprocess.CompletedProcess:
    """The command itself, in an environment without any key but those given."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"HOME": str(folder), "NETRC": str(folder / "netrc"), **changes}
    command = [sys.executable, "-m", "peftbench.tracking.sync", "--output-dir", str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_key_it_says_what_to_do(tmp_path: Path):
    folder = add_run(tmp_path, "demo", "one")
    done = call(tmp_path)
    sentence = "1 to sync, but no W&B key is configured: run `wandb login` or set WANDB_API_KEY\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)
    assert not sync.is_synced(folder)


def test_an_unreachable_server_is_named(tmp_path: Path):
    add_run(tmp_path, "demo", "one")
    done = call(tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    sentence = "1 to sync, but W&B at http://127.0.0.1:9 cannot be reached\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_nothing_to_sync_is_fine_without_a_key(tmp_path: Path):
    done = call(tmp_path)
    assert (done.returncode, done.stdout) == (0, "nothing to sync\n")


def test_wandbs_own_sync_understands_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command line is W&B's: without a server it must fail at the upload, not at its options."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "No such option" not in (said := sync.upload([add_run(tmp_path, "demo", "one")]))
    assert said
