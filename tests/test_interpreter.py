"""What is started imports from where the engine does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from peftbench.interpreter import forget, importing_alike, python


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, of which nothing is imported."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_process_is_started_without_the_current_folder(here: Path) -> None:
    assert python() == [sys.executable, "-P"]
    with importing_alike():
        assert os.environ["PYTHONSAFEPATH"]
        forget()  # as it does itself
        assert "PYTHONSAFEPATH" not in os.environ
    with importing_alike():
        pass
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.parametrize("entry", ["", "{here}", "{here}/link"])
def test_a_process_is_started_with_it_where_the_engine_imports_from_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    (here / "link").symlink_to(here)
    monkeypatch.setattr(sys, "path", [entry.format(here=here), *sys.path])
    assert python() == [sys.executable]
    with importing_alike():
        assert "PYTHONSAFEPATH" not in os.environ


def test_a_project_that_is_installed_to_be_edited_is_not_before_the_standard_library(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])
    assert python() == [sys.executable, "-P"]


def test_what_somebody_has_set_stays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with importing_alike():
        forget()
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_a_folder_that_is_gone_is_none_of_ours(here: Path) -> None:
    (here / "gone").mkdir()
    os.chdir(here / "gone")
    (here / "gone").rmdir()
    assert python() == [sys.executable, "-P"]
