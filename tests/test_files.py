"""What is there for a moment only is gone after a kill too; the rest is for whom the umask says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import carried_out

from peftbench.files import scratch, share
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
