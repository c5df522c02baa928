"""Deliver to W&B what has not arrived: ``python -m peftbench.tracking.sync [SWEEP ...] [--dry-run] [--force]``.

Of each run that has ended, the W&B folder of its last try: written offline, or online and cut short. Safe to repeat:
ids are the runs' own, a history row is its step, and what W&B has been seen to hold is marked and left alone.
Exit status: 0 all is delivered (or there was nothing to do), 1 something could not be, 2 no key is configured or
there is no such sweep.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.record import FILE
from peftbench.tracking.delivery import deliver, is_synced, replay
from peftbench.tracking.server import authenticated, quiet_setup, reachable
from peftbench.tracking.tries import UNSYNCED, last_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Find, announce and deliver; the exit status."""
    print_anything()
    options = _parser().parse_args(arguments)
    folder = Path(options.output_dir)
    sweeps = [Path(sweep).name for sweep in options.sweeps]
    if lacking := [str(path) for path in (folder, *(folder / name for name in sweeps)) if not path.is_dir()]:
        print(f"there is no folder {lacking[0]}: name sweeps of {folder}, or write --output-dir DIR", file=sys.stderr)
        return 2
    runs = tracked(folder, sweeps)
    if not options.force:
        runs = [run for run in runs if is_pending(run)]
    if not runs:
        print("nothing to sync")
        return 0
    if options.dry_run:
        print("\n".join(f"would sync {_label(run)}" for run in runs))
        return 0
    if (problem := _problem()) is not None:
        status, sentence = problem
        print(f"{len(runs)} to sync, but {sentence}", file=sys.stderr)
        return status
    return _deliver([replay(run) for run in runs])


def tracked(output_dir: Path, sweeps: Sequence[str] = ()) -> list[Path]:
    """The W&B folder of the last try of every run that has ended, which is one with a record.

    Args:
        sweeps: names of sweeps; empty is all of them.
    """
    tries: defaultdict[Path, list[Path]] = defaultdict(list)
    for folder in output_dir.glob("*/*/wandb/*run-*"):
        run = folder.parents[1]
        wanted = not sweeps or run.parent.name in sweeps
        if wanted and (run / FILE).exists() and any(folder.glob("*.wandb")):
            tries[run].append(folder)
    return sorted(map(last_of, tries.values()))


def is_pending(folder: Path) -> bool:
    """Whether something of this W&B folder may not have arrived."""
    waiting = folder.name.startswith("offline-run-") or (folder / UNSYNCED).exists()
    return waiting and not is_synced(folder)


def _problem() -> tuple[int, str] | None:
    """Exit status and sentence of why nothing can be delivered now, or None."""
    os.environ.pop("WANDB_MODE", None)  # whoever asks for a delivery does not want it offline
    try:
        quiet_setup()
    except UserError as error:
        return 2, str(error)
    import wandb

    if not authenticated():
        return 2, "no W&B key is configured: run `wandb login` or set WANDB_API_KEY"
    url = wandb.setup().settings.base_url
    return None if reachable(url) else (1, f"W&B at {url} cannot be reached")


def _deliver(runs: Sequence[Path]) -> int:
    """Deliver all, one line a run as it arrives, and a last one that counts; the exit status."""
    failed = 0
    for number, (run, problem) in enumerate(deliver(runs), 1):
        failed += problem is not None
        said = f"synced {_label(run)}" if problem is None else f"failed {_label(run)}: {problem}"
        print(f"[{number}/{len(runs)}] {said}", flush=True)
    print(_summary(runs, failed), file=sys.stderr if failed else sys.stdout)
    return 1 if failed else 0


def _summary(runs: Iterable[Path], failed: int) -> str:
    names = sorted({run.parents[2].name for run in runs})
    total = len(list(runs))
    if failed:
        return f"{failed} of {total} could not be delivered; their files stay, `make sync` tries them again"
    return f"{total} delivered ({', '.join(names)})"


def _label(run: Path) -> str:
    """``sweep/run id`` of a local W&B folder."""
    return f"{run.parents[2].name}/{run.parents[1].name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m peftbench.tracking.sync", description="Deliver W&B runs.")
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="folders under the output folder (default: all)")
    parser.add_argument("--output-dir", default="outputs", help="where the sweeps are (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be delivered")
    parser.add_argument("--force", action="store_true", help="deliver again what was delivered already")
    return parser


if __name__ == "__main__":
    sys.exit(main())
