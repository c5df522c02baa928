"""``python -m peftbench.bench [NAME ...]``: measure against peers, write pages and raw figures to docs/benchmarks."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from peftbench.bench import frame
from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.measuring.environment import git_state

OUT = Path("docs/benchmarks")
REPETITIONS = 7
STOPPED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run each benchmark and print its page; returns 0, 2 if one could not be run, or 130 if one was stopped."""
    print_anything()
    given = sys.argv[1:] if arguments is None else arguments
    chosen = _parser().parse_args(given)
    options = frame.Options(1 if chosen.quick else chosen.repetitions, chosen.quick, _say, chosen.data)
    command = shlex.join(["python", "-m", "peftbench.bench", *given])
    out = chosen.out or (None if chosen.quick else OUT)
    if out is not None and (problem := _unwritable(out)):
        _say(f"peftbench.bench: {problem}")
        return 2
    code, state = 0, git_state(Path(__file__))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in chosen.names or frame.names():
        try:
            measured = frame.measure(name, options, command, state)
        except UserError as error:
            print(f"peftbench.bench: {name}: {error}", file=sys.stderr)
            code = 2
            continue
        except KeyboardInterrupt:
            print(f"peftbench.bench: {name}: stopped before anything was measured", file=sys.stderr)
            return STOPPED
        print(frame.render(measured))
        if out is not None:
            _say(f"written: {frame.write(measured, out)}")
        if measured["stopped"]:
            return STOPPED
    return code


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written there, found out before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror}): write --out=FOLDER with another folder"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m peftbench.bench", description=__doc__)
    names = f"{', '.join(frame.names())} (default: all)"
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help=names)
    parser.add_argument(
        "--repetitions", type=_positive, default=REPETITIONS, metavar="N", help="rounds (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"default: {OUT}; with --quick nothing is written")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=os.environ.get("PEFTBENCH_DATA") or frame.Options.data,
        help="holds sst2/ and imdb/ with their Parquet files (default: $PEFTBENCH_DATA, or %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="one round on a tiny network, to see that it runs")
    return parser


def _name(text: str) -> str:
    if text not in frame.names():
        raise argparse.ArgumentTypeError(f"there is no benchmark {text!r}: write one of {', '.join(frame.names())}")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
