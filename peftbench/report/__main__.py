"""``python -m peftbench.report [SWEEP_FOLDER ...]``: make the tables and the page again from the records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from peftbench.errors import UserError
from peftbench.report import BASELINE, show, write

OUTPUTS = Path("outputs")


def main(arguments: list[str] | None = None) -> int:
    """Report on each folder; returns 0, or 2 if one of them has nothing to report."""
    options = _parser().parse_args(arguments)
    try:
        folders = options.folders or [_newest(OUTPUTS)]
        for folder in folders:
            write(folder, baseline=options.baseline)
            show(folder, baseline=options.baseline)
        if options.markdown:
            _write_markdown(options.markdown, folders, options.baseline)
    except UserError as error:
        print(f"peftbench.report: {error}", file=sys.stderr)
        return 2
    return 0


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


def _write_markdown(path: Path, folders: list[Path], baseline: str) -> None:
    from peftbench.record import write_atomically
    from peftbench.report import markdown, sweep

    write_atomically(path, "\n".join(markdown.render(sweep.load(folder), baseline) for folder in folders))


if __name__ == "__main__":
    sys.exit(main())
