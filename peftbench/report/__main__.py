"""``python -m peftbench.report [SWEEP_FOLDER ...]``: make the tables and the page again from the records."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.record import FILE, write_atomically
from peftbench.report import BASELINE, sweep
from peftbench.report.reading import FEW, uncollected
from peftbench.report.sweep import Sweep

OUTPUTS = Path("outputs")


def main(arguments: list[str] | None = None) -> int:
    """Report on each folder; returns 0, or 2 if one of them has nothing to report or something cannot be written."""
    print_anything()
    options = _parser().parse_args(arguments)
    problems: list[str] = []
    with uncollected():
        loaded = list(_loaded(options.folders, problems))
        if loaded:
            _know(options.baseline, loaded, problems)
        with _told(problems), _tables(loaded):
            texts = [_report(one, options.baseline, named=len(loaded) > 1) for one in loaded]
            if options.markdown and texts:
                write_atomically(options.markdown, "\n".join(texts))
    for problem in problems:
        print(f"peftbench.report: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _loaded(folders: Sequence[Path], problems: list[str]) -> Iterator[Sweep]:
    """The sweeps there are; what is wrong with the others is added to ``problems``."""
    try:
        chosen = folders or [_newest(OUTPUTS)]
    except UserError as error:
        problems.append(str(error))
        return
    for folder in chosen:
        try:
            yield sweep.load(folder, workers=os.cpu_count() or 1)
        except UserError as error:
            problems.append(str(error))


def _know(baseline: str, loaded: Sequence[Sweep], problems: list[str]) -> None:
    methods = sorted({str(record.axes.get("method")) for one in loaded for record in one.records})
    if baseline not in (BASELINE, *methods):
        problems.append(f"--baseline {baseline}: no run has this method; there are {', '.join(methods)}")


@contextmanager
def _told(problems: list[str]) -> Iterator[None]:
    """What the system refuses is one of the ``problems``."""
    try:
        yield
    except OSError as error:
        problems.append(f"{error.filename}: {error.strerror}")


def _report(loaded: Sweep, baseline: str, *, named: bool) -> str:
    """Write and print everything about one folder but its table of runs; returns its tables as Markdown."""
    # Not at the top: these start threads, and a process with threads should not fork, as reading may.
    from peftbench.report import markdown, page, terminal
    from peftbench.report.view import views

    shown = views(loaded, baseline)
    page.write(loaded, shown, baseline)
    if named:
        print(f"== {loaded.name}\n")
    terminal.show(loaded, shown)
    return markdown.render(loaded, shown, named=named)


@contextmanager
def _tables(loaded: Sequence[Sweep]) -> Iterator[None]:
    """Write the tables of runs; where they are long, in a process of its own while the rest is made."""
    beside = None
    if sum(len(one.records) for one in loaded) >= FEW:
        beside = get_context("fork").Process(target=_write_tables, args=(loaded,))
        beside.start()
    yield
    if beside is not None:
        beside.join()
    if beside is None or beside.exitcode:  # what went wrong there is to be raised here
        _write_tables(loaded)


def _write_tables(loaded: Sequence[Sweep]) -> None:
    from peftbench.report import table

    for one in loaded:
        table.write(one)


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
    newest = max(outputs.glob(f"*/*/{FILE}"), key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise UserError(f"there is no sweep in {outputs}/: give a sweep folder")
    return newest.parent.parent


if __name__ == "__main__":
    sys.exit(main())
