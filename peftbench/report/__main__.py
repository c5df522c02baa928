"""``python -m peftbench.report [SWEEP_FOLDER ...]``: make the tables and the page again from the records."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from peftbench.errors import UserError
from peftbench.record import write_atomically
from peftbench.report import BASELINE, sweep
from peftbench.report.reading import uncollected
from peftbench.report.sweep import Sweep

OUTPUTS = Path("outputs")


def main(arguments: list[str] | None = None) -> int:
    """Report on each folder; returns 0, or 2 if one of them has nothing to report."""
    options = _parser().parse_args(arguments)
    try:
        with uncollected():
            folders = options.folders or [_newest(OUTPUTS)]
            loaded = [sweep.load(folder, workers=os.cpu_count() or 1) for folder in folders]
            texts = [_report(one, options.baseline) for one in loaded]
        if options.markdown:
            write_atomically(options.markdown, "\n".join(texts))
    except UserError as error:
        print(f"peftbench.report: {error}", file=sys.stderr)
        return 2
    return 0


def _report(loaded: Sweep, baseline: str) -> str:
    """Write and print everything about one folder; returns its tables as Markdown."""
    # Not at the top: these start threads, and a process with threads should not fork, as reading may.
    from peftbench.report import markdown, page, table, terminal
    from peftbench.report.view import views

    shown = views(loaded, baseline)
    table.write(loaded)
    page.write(loaded, shown, baseline)
    terminal.show(loaded, shown)
    return markdown.render(loaded, shown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m peftbench.report", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="SWEEP_FOLDER", help="default: the newest in outputs/")
    parser.add_argument(
        "--baseline", default=BASELINE, metavar="METHOD", help="compare with this (default: %(default)s)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables as GitHub Markdown")
    return parser


def _newest(outputs: Path) -> Path:
    """The sweep folder in ``outputs`` whose records are the most recent."""
    newest = max(outputs.glob("*/*/record.json"), key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise UserError(f"there is no sweep in {outputs}/: give a sweep folder")
    return newest.parent.parent


if __name__ == "__main__":
    sys.exit(main())
