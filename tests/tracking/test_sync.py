"""Which runs are delivered, what is said of each, what the exit status is, and that a repeat changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.tracking import delivery, sync
from peftbench.tracking.tries import LAST, UNSYNCED
from peftbench.tracking.wandb import tracked_id
from tracking.backend import Backend
from tracking.child import CURVE, METRICS, environment, make_record, run_config, tracked


def add_run(
    output: Path, sweep: str, run: str, *, kind: str = "offline-run", synced: bool = False, at: str = "000000"
) -> Path:
    folder = output / sweep / run / "wandb" / f"{kind}-20260101_{at}-{run}"
    folder.mkdir(parents=True)
    (folder / f"run-{run}.wandb").write_bytes(b"")
    if synced:
        (folder / f"run-{run}.wandb.synced").touch()
    make_record(run).write(output / sweep / run)
    return folder


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A ``wandb sync`` that marks everything but runs called ``bad``, and a server that lost runs called ``lost``."""
    sent: list[str] = []

    class Fake(delivery.Upload):
        def __init__(self, runs: list[Path]) -> None:
            self._runs = runs

        def __enter__(self):
            for run in self._runs:
                sent.append(run.parents[1].name)
                if "bad" not in run.name:
                    next(run.glob("*.wandb")).with_suffix(".wandb.synced").touch()
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def ended(self) -> bool:
            return True

        def said(self) -> str:
            return "the server said no"

    monkeypatch.setattr(delivery, "Upload", Fake)
    monkeypatch.setattr(delivery.Server, "arrived", lambda self, run: "not there" if "lost" in run.name else None)
    monkeypatch.setattr(sync, "_problem", lambda: None)
    monkeypatch.setattr(sync, "replay", lambda run: run)
    return sent


def test_offline_runs_are_delivered_once(tmp_path: Path, uploads: list[str], capsys: pytest.CaptureFixture[str]):
    add_run(tmp_path, "demo", "one")
    add_run(tmp_path, "other", "two")
    add_run(tmp_path, "other", "three", synced=True)
    add_run(tmp_path, "other", "online", kind="run")
    assert sync.main(["--output-dir", str(tmp_path)]) == 0
    said = ["[1/2] synced demo/one", "[2/2] synced other/two", "2 delivered (demo, other)"]
    assert capsys.readouterr().out.splitlines() == said
    assert sync.main(["--output-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to sync\n"
    assert uploads == ["one", "two"]


def test_force_delivers_again(tmp_path: Path, uploads: list[str]):
    add_run(tmp_path, "demo", "three", synced=True)
    add_run(tmp_path, "demo", "online", kind="run")
    assert sync.main(["--force", "--output-dir", str(tmp_path)]) == 0
    assert uploads == ["online", "three"]


def test_online_runs_that_were_cut_short_are_delivered_too(tmp_path: Path, uploads: list[str]):
    (add_run(tmp_path, "demo", "cut", kind="run") / UNSYNCED).touch()
    assert sync.main(["--output-dir", str(tmp_path)]) == 0
    assert uploads == ["cut"]


def test_only_the_last_try_of_a_run_is_delivered(tmp_path: Path):
    (add_run(tmp_path, "demo", "one", kind="run", at="000001") / UNSYNCED).touch()
    last = add_run(tmp_path, "demo", "one", at="000002")
    add_run(tmp_path, "demo", "two", kind="run", at="000003")
    instead = add_run(tmp_path, "demo", "two", at="000003")
    assert sync.tracked(tmp_path) == [last, instead]


@pytest.mark.parametrize("kinds", [("offline-run", "offline-run"), ("run", "run"), ("offline-run", "run")])
def test_the_last_try_is_the_one_that_began_last_whatever_time_its_name_tells(tmp_path: Path, kinds: tuple[str, str]):
    killed = add_run(tmp_path, "demo", "one", kind=kinds[0], at="020000")
    last = add_run(tmp_path, "demo", "one", kind=kinds[1], at="010000")
    (last.parent / LAST).write_text(last.name)
    assert sync.tracked(tmp_path) == [last]
    for nowhere in ("", "offline-run-20260101_030000-one"):  # torn, or gone since
        (last.parent / LAST).write_text(nowhere)
        assert sync.tracked(tmp_path) == [killed]


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path, uploads: list[str]):
    add_run(tmp_path, "demo", "running")
    (tmp_path / "demo" / "running" / "record.json").unlink()
    assert sync.main(["--output-dir", str(tmp_path)]) == 0
    assert uploads == []


def test_sweeps_can_be_chosen(tmp_path: Path, uploads: list[str]):
    for sweep in ("a", "b", "c"):
        add_run(tmp_path, sweep, f"run-{sweep}")
    assert sync.main(["a", "c", "--output-dir", str(tmp_path)]) == 0
    assert uploads == ["run-a", "run-c"]


@pytest.mark.parametrize("arguments", [["nosuch"], ["a", "nosuch"], ["--output-dir", "nosuch"]])
def test_a_name_that_nothing_has_is_no_delivery(tmp_path: Path, uploads: list[str], monkeypatch, capsys, arguments):
    add_run(tmp_path / "outputs", "a", "run-a")
    monkeypatch.chdir(tmp_path)
    assert sync.main(arguments) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not uploads
    assert sync.main(["outputs/a/"]) == 0
    assert uploads == ["run-a"]


def test_what_fails_is_named_tried_again_next_time_and_the_others_arrive(
    tmp_path: Path, uploads: list[str], capsys: pytest.CaptureFixture[str]
):
    for name in ("bad", "good", "lost"):
        add_run(tmp_path, "demo", name)
    assert sync.main(["--output-dir", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "[1/3] synced demo/good",
        "[2/3] failed demo/lost: not there",
        "[3/3] failed demo/bad: the server said no",
    ]
    assert said.err == "2 of 3 could not be delivered; their files stay, `make sync` tries them again\n"
    uploads.clear()
    assert sync.main(["--output-dir", str(tmp_path)]) == 1
    assert sorted(uploads) == ["bad", "lost"]


def test_a_dry_run_uploads_nothing_and_needs_no_key(
    tmp_path: Path, uploads: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sync, "_problem", lambda: (2, "no key"))
    add_run(tmp_path, "demo", "one")
    assert sync.main(["--dry-run", "--output-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "would sync demo/one\n"
    assert uploads == []


def call(folder: Path, url: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess:
    """The command itself."""
    command = [sys.executable, "-m", "peftbench.tracking.sync", "--output-dir", str(folder), *arguments]
    known = {name: value for name, value in environment(url, folder, **changes).items() if value}
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_key_it_says_what_to_do(tmp_path: Path):
    folder = add_run(tmp_path, "demo", "one")
    done = call(tmp_path, "http://127.0.0.1:9", WANDB_API_KEY="")
    sentence = "1 to sync, but no W&B key is configured: run `wandb login` or set WANDB_API_KEY\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)
    assert not delivery.is_synced(folder)


def test_settings_that_wandb_does_not_take_are_one_sentence(tmp_path: Path):
    add_run(tmp_path, "demo", "one")
    done = call(tmp_path, "http://127.0.0.1:9", WANDB_PROJECT="team/demo")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("1 to sync, but W&B takes none of its settings: mend the WANDB_ variable")


def test_an_unreachable_server_is_named(tmp_path: Path):
    add_run(tmp_path, "demo", "one")
    done = call(tmp_path, "http://127.0.0.1:9", WANDB_MODE="offline")
    sentence = "1 to sync, but W&B at http://127.0.0.1:9 cannot be reached\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_nothing_to_sync_is_fine_without_a_key(tmp_path: Path):
    done = call(tmp_path, "http://127.0.0.1:9", WANDB_API_KEY="")
    assert (done.returncode, done.stdout) == (0, "nothing to sync\n")


def test_offline_runs_reach_a_server_once_and_as_they_were(tmp_path: Path):
    """With W&B's own sync, twice, and a third time by force."""
    with Backend() as backend:
        assert tracked(tmp_path, backend.url, "offline", "artifacts", runs=2).code == 0
        assert backend.calls == []
        done = call(tmp_path, backend.url, "demo")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == "2 delivered (demo)"
        calls, rows = list(backend.calls), {name: len(run.rows) for name, run in backend.runs.items()}
        assert call(tmp_path, backend.url).stdout == "nothing to sync\n"
        assert backend.calls == calls
        assert call(tmp_path, backend.url, "--force").returncode == 0
    assert backend.unknown == []
    run = backend.runs[tracked_id(run_config("two"))]
    assert (run.points(), rows[run.name], run.state) == (CURVE, len(CURVE), "finished")
    assert run.values() == {**{k: v for k, v in METRICS.items() if v is not None}, "status": "ok", "reason": ""}
    assert {held.name for held in backend.artifacts.values() if held.committed} >= {"two-adapter", "two-predictions"}
    assert (tmp_path / "demo" / "two" / "adapter" / "adapter_model.safetensors").exists()


def test_runs_of_a_team_are_looked_for_where_they_were_uploaded_to(tmp_path: Path):
    with Backend() as backend:
        assert tracked(tmp_path, backend.url, "offline", WANDB_ENTITY="team").code == 0
        done = call(tmp_path, backend.url, WANDB_ENTITY="team")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert backend.only().entity == "team"


def test_a_run_of_ones_own_is_looked_for_there_whatever_team_is_set_by_now(tmp_path: Path):
    """W&B uploads a run to where it was tracked for; its record names no entity."""
    with Backend() as backend:
        assert tracked(tmp_path, backend.url, "offline").code == 0
        done = call(tmp_path, backend.url, WANDB_ENTITY="team")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert backend.only().entity == "tester"


def test_a_killed_run_is_delivered_with_the_figures_of_its_record(tmp_path: Path):
    with Backend() as backend:
        assert tracked(tmp_path, backend.url, "offline", "die").code == 9
        record = make_record("one", "killed", "timeout")
        record.history = CURVE[:1]
        record.write(tmp_path / "demo" / "one")
        done = call(tmp_path, backend.url)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert call(tmp_path, backend.url).stdout == "nothing to sync\n"
    assert backend.unknown == []
    run = backend.only()
    assert (run.state, run.display_name, run.group) == ("failed", "one", "demo")
    assert (run.values()["status"], run.values()["quality/accuracy"]) == ("killed", METRICS["quality/accuracy"])
    assert run.points() == CURVE[:1]


def test_a_server_that_loses_an_upload_is_not_believed(tmp_path: Path):
    with Backend() as backend:
        assert tracked(tmp_path, backend.url, "offline").code == 0
        backend.fault = lambda call: 400 if call.endswith("/file_stream") else None
        done = call(tmp_path, backend.url)
        assert done.returncode == 1
        assert done.stdout.startswith("[1/1] failed demo/one: ")
        backend.fault = lambda call: None
        assert call(tmp_path, backend.url).returncode == 0
    assert backend.only().points() == CURVE
