"""What is there for a moment only is gone after a kill too; the rest is for whom the umask says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import carried_out

from peftbench.errors import UserError
from peftbench.files import cache_folder, scratch, share
from peftbench.record import CONFIG
from peftbench.sparsity.compact import expand_folder
from peftbench.sweep import outcome
from peftbench.sweep.grid import Point


def test_the_next_run_of_a_point_removes_what_a_killed_one_has_left(tiny_run) -> None:
    point = Point(tiny_run(), ())
    point.folder.mkdir(parents=True)
    with scratch(point.folder) as left:
        (Path(left) / "adapter_model.safetensors").touch()
        outcome.begin(point)
        assert [path.name for path in point.folder.iterdir()] == [CONFIG]


@pytest.fixture
def umask():
    """Of a folder that a group shares."""
    held = os.umask(0o027)
    yield
    os.umask(held)


@pytest.mark.parametrize("what", ["method=lora", "method=sparse_lora sparsity=magnitude"])
def test_an_adapter_can_be_read_by_whom_the_umask_says(umask, tiny_run, tmp_path, what: str) -> None:
    _, folder = carried_out(tiny_run(*what.split(), "trainer.max_steps=2"))
    expand_folder(folder / "adapter", tmp_path / "plain")
    files = [path for adapter in (folder / "adapter", tmp_path / "plain") for path in adapter.iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}
    assert len(files) == 6


def test_what_belongs_to_others_is_left_as_it_is(tmp_path, monkeypatch) -> None:
    def refused(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    (tmp_path / "elsewhere").touch(0o600)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "link").symlink_to(tmp_path / "elsewhere")
    share(tmp_path / "shared")
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o600
    (tmp_path / "shared" / "theirs").touch(0o600)
    monkeypatch.setattr(Path, "chmod", refused)
    share(tmp_path / "shared")


def test_what_is_for_nobody_else_stays_so(umask, tmp_path) -> None:
    os.umask(0o077)
    (tmp_path / "mine").touch()
    share(tmp_path)
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def homeless(tmp_path, monkeypatch) -> Path:
    """What there is for a user whom the system does not know; the folder of temporary files."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "PEFTBENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_there_is_a_cache_of_ones_own(homeless) -> None:
    assert cache_folder() == cache_folder() == homeless / f"peftbench-{os.getuid()}"
    assert cache_folder().stat().st_mode & 0o777 == 0o700


def test_without_a_home_a_run_is_as_any_other(homeless, tiny_run) -> None:
    record, _ = carried_out(tiny_run("trainer.max_steps=1"))
    assert record.metrics["quality/accuracy"] is not None
    assert list(cache_folder().glob("tokens/*.npz"))


@pytest.mark.parametrize("how", ["open", "link", "file"])
def test_a_cache_that_is_not_ones_own_is_refused(homeless, how: str) -> None:
    folder = homeless / f"peftbench-{os.getuid()}"
    if how == "open":
        folder.mkdir()
        folder.chmod(0o770)
    elif how == "link":
        folder.symlink_to(homeless, target_is_directory=True)
    else:
        folder.touch()
    with pytest.raises(UserError, match=r"is no folder of yours alone, .* write PEFTBENCH_CACHE=DIR"):
        cache_folder()


def test_a_folder_for_temporary_files_that_cannot_be_written_is_for_the_writer_to_tell(homeless, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(homeless / "gone"))
    assert not cache_folder().exists()


def test_a_cache_in_a_home_that_there_is_not_is_said(monkeypatch) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", "~nobody-at-all/cache")
    with pytest.raises(UserError, match=r"PEFTBENCH_CACHE=~nobody-at-all/cache: there is no home .* the whole path"):
        cache_folder()
