"""Reading tables from local files and from the hub, with errors that say what to write instead."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from peftbench.data import json_lines
from peftbench.errors import UserError
from peftbench.hub import load_dataset

if TYPE_CHECKING:
    import pandas as pd

QUOTED = re.compile(r'"(?:[^"]|"")*"')
"""A whole field in quotes, with two of them for one."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""How a file begins that a spreadsheet saved as "Unicode text"."""
PART = re.compile(r"(.+)-\d{5}-of-(\d{5})(?:-[0-9a-f]+)?(\.\w+)")
"""How the hub calls the parts of a table: its name, how many there are, the suffix."""
PARQUET = (".parquet",)
SUFFIXES = (*PARQUET, ".csv", ".tsv", ".jsonl", ".json", ".txt")


def read_table(path: Path) -> pd.DataFrame:
    """The table in a Parquet, CSV, TSV, JSON-lines or JSON file.

    What stands in a CSV or TSV is text as it stands there: ``NA``, ``007`` and ``1.10`` too. A plain text file is a
    table with one column, ``text``, and a row for each line.

    Raises:
        UserError: there is no such file, its kind is unknown, or it is damaged.
    """
    import pandas as pd

    if unknown := unknown_kind(path):
        raise UserError(unknown)
    if not path.is_file():
        there = ", ".join(sorted(item.name for item in path.parent.glob("*"))[:20]) if path.parent.is_dir() else ""
        raise UserError(f"{path}: there is no such file (the folder holds: {there or 'nothing'})")
    try:
        return _parsed(path)
    except UserError:
        raise
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty: write a file with a header and rows") from None
    except pd.errors.ParserError as error:
        raise UserError(
            f"{path}: {str(error).strip()}; put texts in double quotes if they hold what separates fields, and write "
            'two of them ("") for one in a text'
        ) from None
    except UnicodeDecodeError as error:
        used = "utf-16" if path.read_bytes()[:2] in UTF_16 else "windows-1252"
        raise UserError(f"{path} is not UTF-8, save it as that: iconv -f {used} -t utf-8 ({error})") from None
    except Exception as error:
        if path.suffix.lower() == ".json" and json_lines.is_one(path):
            raise UserError(
                f"{path} holds JSON lines, an object a line: rename it to {path.with_suffix('.jsonl').name}"
            ) from None
        raise UserError(
            f"{path} cannot be read, replace it by a whole copy ({type(error).__name__}: {error})"
        ) from error


def _parsed(path: Path) -> pd.DataFrame:
    import pandas as pd

    match path.suffix.lower():
        case ".parquet":
            return pd.read_parquet(path)
        case ".csv":
            return _csv(path, _separator(path))
        case ".tsv":
            return _csv(path, "\t", csv.QUOTE_NONE if _is_unquoted(path) else csv.QUOTE_MINIMAL)
        case ".json":
            return pd.DataFrame(json.loads(path.read_text(encoding="utf-8-sig")))
        case ".jsonl":
            return pd.DataFrame(json_lines.read(path))
    return pd.DataFrame({"text": path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")})


def unknown_kind(path: Path) -> str | None:
    """What is said of a file that is no table; None if it may be one."""
    match path.suffix.lower():
        case suffix if suffix in SUFFIXES:
            return None
        case ".gz" | ".bz2" | ".xz" | ".zst" | ".zip":
            return f"{path} is packed: unpack it, and write what comes out of it"
    return f"{path}: unknown kind of file; write one of {', '.join(SUFFIXES)}"


def _separator(path: Path) -> str:
    """What stands between the names of a CSV's columns: spreadsheets write semicolons where commas are for decimals."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline()
    return next((mark for mark in ",;\t" if mark in header), ",")


def _is_unquoted(path: Path) -> bool:
    """Whether double quotes in a TSV are text, as in GLUE's files: each line is a row, and one quote is never closed.

    Read as quoting, such a quote would join rows, without an error if there is another one further down.
    """
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    rows = [line.split("\t") for line in lines if line]
    quoted = (field for row in rows for field in row if field.startswith('"'))
    return len({len(row) for row in rows}) == 1 and not all(map(QUOTED.fullmatch, quoted))


def _csv(path: Path, separator: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL) -> pd.DataFrame:
    import pandas as pd

    if quoting == csv.QUOTE_MINIMAL:
        _check_quotes(path, separator)
    # Objects, not str: what pandas makes of that keeps 60 MB more of the packaged reviews.
    table = pd.read_csv(path, sep=separator, quoting=quoting, keep_default_na=False, na_values=[], dtype=object)
    if len(table) and not isinstance(table.index, pd.RangeIndex):
        # pandas takes the first fields for names of rows then, and all others for those of the columns before.
        raise pd.errors.ParserError("rows have more fields than the header")
    return table


def _check_quotes(path: Path, separator: str) -> None:
    """pandas joins all rows from one quote that is never closed to the next, and takes a backslash before it for text.

    Raises:
        pd.errors.ParserError: a field that begins with a quote does not end with one.
    """
    import pandas as pd

    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator, strict=True)
        try:
            deque(rows, maxlen=0)
        except csv.Error as error:
            raise pd.errors.ParserError(f"line {rows.line_num}: {error}") from None


def read_tables(paths: Sequence[Path]) -> pd.DataFrame:
    """The rows of all ``paths`` in one table, numbered from 0.

    Raises:
        UserError: one of them cannot be read, or parts are missing where their names say how many there are.
    """
    import pandas as pd

    said = PART.fullmatch(paths[0].name)
    if said and int(said[2]) != len(paths):
        names = ", ".join(path.name for path in paths)
        raise UserError(f"{paths[0].parent} has {len(paths)} of {int(said[2])} parts ({names}): get the others")
    if len(paths) == 1:
        return read_table(paths[0])
    return pd.concat(map(read_table, paths), ignore_index=True)


def find_tables(folder: Path, *stems: str, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files of the first table in ``folder`` that is called like one of ``stems``; none if there is none.

    That is one file with a known suffix, or the numbered parts in which the hub keeps a table:
    ``train-00000-of-00002.parquet`` and so on.
    """
    for stem in stems:
        for suffix in suffixes:
            if os.path.isfile(path := folder / f"{stem}{suffix}"):
                return [path]
            if parts := _parts(folder, stem, suffix):
                return parts
    return []


def parts_of(path: Path) -> list[Path]:
    """All parts of the table that ``path`` is one of, or the file itself: no part is a data set."""
    said = PART.fullmatch(path.name)
    return [path] if said is None else _parts(path.parent, said[1], said[3]) or [path]


def _parts(folder: Path, stem: str, suffix: str) -> list[Path]:
    found = ((path, PART.fullmatch(path.name)) for path in folder.glob("*"))
    return sorted(path for path, said in found if said and (said[1], said[3]) == (stem, suffix))


def column(table: pd.DataFrame, name: str, option: str, where: object) -> pd.Series:
    """One column of ``table``.

    Raises:
        UserError: there is none of that name; the message lists those that exist.
    """
    if name not in table.columns:
        names = ", ".join(map(str, table.columns))
        raise UserError(f"{option}={name}: {where} has no such column; write one of: {names}")
    return table[name]


def read_source(
    path: str | None, hub: str, splits: Sequence[str], config: str | None = None
) -> dict[str, tuple[pd.DataFrame, object]]:
    """The splits of a public data set, each with where it came from.

    Args:
        path: a folder with a Parquet file (or its parts) for each split, or None for the hub.
        splits: the names of those wanted, of the hub's as of the files.

    Raises:
        UserError: the files or the hub cannot be read.
    """
    if path is None:
        loaded = load_dataset(hub, config)
        return {split: (loaded[split].to_pandas(), f"{hub} ({split})") for split in splits}
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.path={path} must be a folder that holds {', '.join(map(parquet, splits))}")
    found = {split: find_tables(folder, split, suffixes=PARQUET) for split in splits}
    return {split: (read_tables(files), files[0]) for split, files in found.items()}


def parquet(split: str) -> str:
    """What the file of a split is called."""
    return f"{split}{PARQUET[0]}"
