"""The local W&B folders of a run, one a try: ``RUN/wandb/[offline-]run-YYYYMMDD_HHMMSS-ID``, and which is the last."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

UNSYNCED = "unsynced"
"""Marker file in the folder of an online run whose upload has not been seen to end, be it that its process died."""
NO_ARTIFACTS = "artifacts are missing"
"""In the marker file of a run that had to end without its artifacts."""
LAST = "last_try"
"""File beside the folders: the name of the one that began last. Their names tell local time, which may go backwards."""


def begins(run: Path) -> None:
    """Another try of the run with this folder begins: what was the last one is so no more."""
    (run / "wandb" / LAST).unlink(missing_ok=True)


def begun(local: Path) -> None:
    """The W&B folder ``local`` is that of the last try."""
    (local.parent / LAST).write_text(local.name, encoding="utf-8")


def last_of(folders: Collection[Path]) -> Path:
    """The last of the tries of one run: as noted, else by name (sweeps of older versions, one killed as it began)."""
    noted = ""
    with suppress(OSError):
        noted = (next(iter(folders)).parent / LAST).read_text(encoding="utf-8", errors="replace")
    return max(folders, key=lambda folder: (folder.name == noted, *_started(folder)))


def _started(folder: Path) -> tuple[str, bool]:
    """Order of tries by name; offline comes after the online one that it replaced."""
    return folder.name.removeprefix("offline-"), folder.name.startswith("offline-")


def is_without_artifacts(local: Path) -> bool:
    """Whether the W&B folder ``local`` is of a run that had to end without its artifacts."""
    marker = local / UNSYNCED
    return marker.exists() and marker.read_text(encoding="utf-8") == NO_ARTIFACTS
