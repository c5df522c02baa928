"""Your own text: CSV, TSV, JSON lines, JSON or Parquet, with labels or without, or the lines of a plain text file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from peftbench.data import assemble
from peftbench.data.base import Dataset, Kind, Split, TextData
from peftbench.data.files import SUFFIXES, column, find_table, read_table
from peftbench.errors import UserError

STEMS = {"train": ("train",), "validation": ("validation", "valid", "dev", "val"), "test": ("test",)}


class Text(Dataset):
    """One file, or a folder with train.* and perhaps validation.* and test.*; what is missing is cut out of train."""

    task: Kind = "classification"
    text_column: str = "text"
    label_column: str | None = "label"
    """Strings or numbers; null for language modelling."""
    stride: int | None = Field(default=None, ge=1)
    """Causal language modelling only: tokens by which the evaluation window moves on; null is half of max_length."""

    @model_validator(mode="after")
    def _options_fit(self) -> Text:
        if self.path is None:
            raise ValueError("write dataset.path=FILE, or a folder that holds train.csv (.jsonl, .parquet, ...)")
        if self.task == "classification" and self.label_column is None:
            raise ValueError(
                "write dataset.label_column=NAME, or dataset.task=language_modeling to learn without labels"
            )
        if self.task == "classification" and self.stride is not None:
            raise ValueError("stride means nothing without dataset.task=language_modeling; write dataset.stride=null")
        if self.task == "language_modeling" and self.label_column is not None:
            raise ValueError("language modelling uses no labels; write dataset.label_column=null")
        if self.stride is not None and self.stride >= self.max_length:
            raise ValueError("stride must be less than max_length, so that every window has something to start from")
        return self

    @property
    def kind(self) -> Kind:
        """See `Dataset.kind`."""
        return self.task

    def read(self) -> TextData:
        """See `Dataset.read`; a split that is cut out of train says so in its name."""
        notes: list[str] = []
        found = {name: _Source(self, path, notes) for name, path in self._paths().items()}
        if self.kind == "language_modeling":
            plain = {name: source.split(name, None) for name, source in found.items()}
            return assemble.corpus(self, plain["train"], plain.get("validation"), plain.get("test"), notes)
        values = sorted({label for source in found.values() for label in source.labels}, key=_label_order)
        _check_classes(values, len(found["train"].texts), self.label_column)
        known = {value: index for index, value in enumerate(values)}
        read = {name: source.split(name, known) for name, source in found.items()}
        self._same_classes(read, values)
        names = [str(value) for value in values]
        return assemble.labelled(self, read["train"], read.get("validation"), read.get("test"), names, notes)

    def _paths(self) -> dict[str, Path]:
        """The file of each split there is."""
        path = Path(str(self.path)).expanduser()
        if not path.is_dir():
            return {"train": path}
        found = {name: find_table(path, *stems) for name, stems in STEMS.items()}
        if found["train"] is None:
            there = ", ".join(sorted(item.name for item in path.iterdir())[:20]) or "nothing"
            raise UserError(f"dataset.path={path}: no train{{{','.join(SUFFIXES)}}} there, but {there}; write one")
        return {name: file for name, file in found.items() if file is not None}

    @staticmethod
    def _same_classes(read: dict[str, Split], values: list[Any]) -> None:
        """A class that train lacks cannot be learned, and is most often a misspelt label."""
        for name, split in read.items():
            unknown = set(split.labels or ()) - set(read["train"].labels or ())
            if unknown:
                shown = ", ".join(repr(values[index]) for index in sorted(unknown))
                raise UserError(f"the {name} file has labels that train lacks: {shown}; mend them or leave them out")


class _Source:
    """One file: texts that are not blank, their labels and their rows."""

    def __init__(self, options: Text, path: Path, notes: list[str]) -> None:
        table = read_table(path)
        if table.empty:
            raise UserError(f"{path} has no rows: write a file with at least a few items of each class")
        raw = column(table, options.text_column, "dataset.text_column", path)
        filled = raw.notna() & (raw.astype(str).str.strip() != "")
        # Language modelling leaves out blank lines by itself, and says so.
        kept = filled if options.kind == "classification" else raw.notna()
        if not filled.any():
            raise UserError(f"{path}: column {options.text_column} has no text; write dataset.text_column=NAME")
        if dropped := int((~kept).sum()):
            notes.append(f"{path.name}: {dropped:,} rows without text left out")
        self.rows = [i for i, keep in enumerate(kept) if keep]
        self.texts = [str(text) for text in raw[kept]]
        self.labels: list[Any] = []
        if options.label_column is not None:
            column_ = column(table, options.label_column, "dataset.label_column", path)[kept]
            self.labels = _clean_labels(column_, path, options.label_column)

    def split(self, name: str, known: dict[Any, int] | None) -> Split:
        """The file as a split; classes are numbered by ``known``, None is without labels."""
        labels = None if known is None else [known[label] for label in self.labels]
        return Split(name, self.texts, labels, self.rows)


def _clean_labels(values: Iterable[Any], path: Path, name: str) -> list[Any]:
    """Labels as plain strings or integers: ``1.0``, ``True`` and ``"1"`` are 1, ``"positive "`` is ``"positive"``."""
    import numpy as np
    import pandas as pd

    cleaned: list[Any] = []
    for value in values:
        text = str(value).strip()
        if pd.isna(value) or not text:
            raise UserError(f"{path}: an item has no {name}; give every row a label, or leave the row out")
        whole = isinstance(value, int | float | np.number | np.bool_) and float(value).is_integer()
        # One file may hold 1 where another, of another format, holds "1".
        digits = text.isascii() and text.isdecimal() and str(int(text)) == text
        cleaned.append(int(value) if whole or digits else text)
    return cleaned


def _check_classes(values: Sequence[Any], items: int, name: str | None) -> None:
    """Half as many classes as items, or more, are no classes: a number to predict, or a column of ids."""
    if len(values) > max(2, items / 2):
        raise UserError(
            f"dataset.label_column={name}: {len(values):,} different values in {items:,} rows of train are no classes "
            f"({values[0]!r}, {values[1]!r}, ...); name the column that holds them, or put numbers into groups"
        )


def _label_order(label: Any) -> tuple[bool, Any]:
    """Numbers by value, then strings."""
    return isinstance(label, str), label
