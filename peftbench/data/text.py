"""Your own text: CSV, TSV, JSON lines, JSON or Parquet, with labels or without, or the lines of a plain text file."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import model_validator

from peftbench.data.columns import STEMS, Columns, Table, note_unread
from peftbench.data.files import SUFFIXES, find_tables, parts_of, read_tables, unknown_kind
from peftbench.data.hub import is_saved
from peftbench.errors import UserError


class Text(Columns):
    """One file, or a folder with train.* and perhaps validation.* and test.*; what is missing is cut out of train.

    Other words for them are read as `datasets` does: training.*, dev.*, eval.*, ...
    """

    @model_validator(mode="after")
    def _has_a_path(self) -> Text:
        if self.path is None:
            raise ValueError("write dataset.path=FILE, or a folder that holds train.csv (.jsonl, .parquet, ...)")
        if is_saved(Path(self.path).expanduser()):
            raise ValueError("this folder was written by datasets' save_to_disk: write dataset=hub dataset.path=DIR")
        for path in self._paths()["train"]:
            if unknown := unknown_kind(path):
                raise ValueError(unknown)
        return self

    def tables(self, notes: list[str]) -> dict[str, Table]:
        """See `Columns.tables`."""
        found = self._paths()
        tables = {name: Table(name, read_tables(paths), str(paths[0])) for name, paths in found.items()}
        note_unread(self._unread(found), notes)
        self.without_unlabelled_test(tables, notes)
        return tables

    def _paths(self) -> dict[str, list[Path]]:
        """The files of each split there is."""
        path = Path(str(self.path)).expanduser()
        if not path.is_dir():
            return {"train": parts_of(path)}
        found = {name: find_tables(path, *stems) for name, stems in STEMS.items()}
        if not found["train"]:
            there = ", ".join(sorted(item.name for item in path.iterdir())[:20]) or "nothing"
            raise UserError(f"dataset.path={path}: no train{{{','.join(SUFFIXES)}}} there, but {there}; write one")
        return {name: files for name, files in found.items() if files}

    def _unread(self, found: dict[str, list[Path]]) -> list[str]:
        """Tables in the folder that are called like a split, beside those that were found."""
        folder = Path(str(self.path)).expanduser()
        if not folder.is_dir():
            return []
        read = {path.name for paths in found.values() for path in paths}
        stems = {stem for names in STEMS.values() for stem in names}
        tables = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name not in read)
        return sorted(path.name for path in tables if re.split(r"[-_.]", path.name.lower())[0] in stems)
