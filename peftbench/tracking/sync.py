"""Upload the runs that were written offline: ``python -m peftbench.tracking.sync [SWEEP ...] [--dry-run]``.

Safe to repeat: W&B marks what it has uploaded, and a marked run is left alone. Exit status: 0 all is uploaded (or there
was nothing to do), 1 something could not be, 2 no key is configured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peftbench.tracking.server import authenticated, quiet_setup, reachable
from peftbench.tracking.wandb import UNSYNCED

CHUNK = 50
"""Runs that one ``wandb sync`` takes, so that its start (about a second) is paid once for all of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Find, announce and upload; the exit status."""
    options = _parser().parse_args(arguments)
    runs = unsynced(Path(options.output_dir), options.sweeps)
    if not runs:
        print("nothing to sync")
        return 0
    if options.dry_run:
        for run in runs:
            print(f"would sync {_label(run)}")
        return 0
    if (problem := _problem()) is not None:
        status, sentence = problem
        print(f"{len(runs)} to sync, but {sentence}", file=sys.stderr)
        return status
    return 0 if _upload_all(runs) else 1


def unsynced(output_dir: Path, sweeps: Sequence[str] = ()) -> list[Path]:
    """Local W&B folders of offline runs, and of online runs that were cut short, that are not yet marked as synced.

    Args:
        sweeps: names of sweeps; empty is all of them.
    """
    folders = output_dir.glob("*/*/wandb/*run-*")
    chosen = (folder for folder in folders if not sweeps or folder.parents[2].name in sweeps)
    return sorted(folder for folder in chosen if _pending(folder))


def _pending(folder: Path) -> bool:
    waiting = folder.name.startswith("offline-run-") or (folder / UNSYNCED).exists()
    return waiting and any(folder.glob("*.wandb")) and not is_synced(folder)


def is_synced(folder: Path) -> bool:
    """Whether ``wandb sync`` has marked this local run folder as uploaded."""
    return any(folder.glob("*.wandb.synced"))


def _problem() -> tuple[int, str] | None:
    """Exit status and sentence of why nothing can be uploaded now, or None."""
    quiet_setup()
    import wandb

    if not authenticated():
        return 2, "no W&B key is configured: run `wandb login` or set WANDB_API_KEY"
    url = wandb.setup().settings.base_url
    return None if reachable(url) else (1, f"W&B at {url} cannot be reached")


def _upload_all(runs: Sequence[Path]) -> bool:
    """Upload all runs, one line each; whether all arrived."""
    fine = True
    for chunk in (runs[first : first + CHUNK] for first in range(0, len(runs), CHUNK)):
        said = upload(chunk)
        for run in chunk:
            fine &= is_synced(run)
            print(f"synced {_label(run)}" if is_synced(run) else f"failed {_label(run)}: {said}")
    return fine


def upload(runs: Sequence[Path]) -> str:
    """Run ``wandb sync`` on some folders; the last thing it said. What arrived is marked, see `is_synced`."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, runs)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 30 * len(runs), check=False)
    except subprocess.TimeoutExpired:
        return "wandb sync took too long"
    return ((done.stderr + done.stdout).strip().splitlines() or ["wandb sync said nothing"])[-1]


def _label(run: Path) -> str:
    """``sweep/run id`` of a local W&B folder."""
    return f"{run.parents[2].name}/{run.parents[1].name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m peftbench.tracking.sync", description="Upload offline W&B runs.")
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="folders under the output folder (default: all)")
    parser.add_argument("--output-dir", default="outputs", help="where the sweeps are (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")
    return parser


if __name__ == "__main__":
    sys.exit(main())
